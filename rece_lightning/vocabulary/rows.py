"""Words → the two embeddings that tell them apart, in batches no longer than the prompts, kept in a file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import save_tensors
from rece_lightning.models.text import EncodesPrompts, PromptEncoder
from rece_lightning.models.text_space import TEXT

ROWS = 2
"""Embeddings of a prompt that count: the last token of its subject and the end of the text behind it, which is what all
positions after it hold in turn."""

SMALL = 4000
"""Vocabularies of so many words are encoded in a few seconds: nothing of them is kept."""

BATCH = 256
TENSOR = "rows"
KEY = "vocabulary"


def subject_rows(encoder: EncodesPrompts, prompts: Sequence[str], batch: int = BATCH, *, space: str = TEXT) -> Tensor:
    """Embeddings of every prompt's last subject token and of the end of its text, ``[n, 2, d]``, float16 on the CPU.

    A causal text encoder gives a position the same embedding whatever follows: prompts are padded to the longest of
    their batch, not to the model's positions. Half precision moves a distance by a few 1e-4 of itself.

    Args:
        encoder: of the model.
        prompts: any number; those that are longer than the model takes are cut.
        batch: prompts that are encoded together.
        space: that the rows are of; one of one row a prompt gives it twice.
    """
    if not prompts:
        return torch.zeros(0, ROWS, 0, dtype=torch.float16)
    if not isinstance(encoder, PromptEncoder) or space != TEXT:
        return torch.stack([_two(encoder, prompt, space) for prompt in prompts])
    lengths = [min(len(ids), encoder.positions) for ids in encoder.token_ids(prompts)]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        short = copy.copy(encoder)
        short.positions = max(lengths[place] for place in part)
        encoded = short.encode([prompts[place] for place in part])
        last = encoded.last_subject.to(encoded.embeddings.device)
        each = torch.arange(len(part), device=last.device)
        rows = torch.stack([encoded.embeddings[each, last], encoded.embeddings[each, last + 1]], dim=1)
        for place, row in zip(part, rows.to(torch.float16).cpu(), strict=True):
            found[place] = row
    return torch.stack(found)


def _two(encoder: EncodesPrompts, prompt: str, space: str) -> Tensor:
    """The same of one prompt under any text encoder; a prompt's end is its last row where nothing follows it."""
    own = encoder.encode([prompt]).rows(space)[0]
    return own.rows[[own.last, min(own.last + 1, len(own.rows) - 1)]].to(torch.float16).cpu()


def default_cache() -> Path:
    """The user's folder for what can be made again: ``rece_lightning`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rece_lightning"


def vocabulary_rows(
    encoder: EncodesPrompts, fingerprint: Callable[[], str], prompts: Sequence[str], *, space: str = TEXT
) -> Tensor:
    """As :func:`subject_rows`; of a large vocabulary kept in the user's cache.

    Args:
        encoder: of the model.
        fingerprint: gives the hash of the text encoder's stored bytes, where it is needed.
        prompts: to encode.
        space: that the rows are of.
    """
    if len(prompts) <= SMALL:
        return subject_rows(encoder, prompts, space=space)
    return cached_rows(encoder, fingerprint(), prompts, space=space)[0]


def cached_rows(
    encoder: EncodesPrompts,
    fingerprint: str,
    prompts: Sequence[str],
    folder: Path | None = None,
    batch: int = BATCH,
    *,
    space: str = TEXT,
) -> tuple[Tensor, bool]:
    """As :func:`subject_rows`, from the folder's file where another scan with the same text encoder made it.

    Args:
        encoder: of the model.
        fingerprint: hash of the text encoder's stored bytes.
        prompts: to encode.
        folder: of the cache; the user's where none is given.
        batch: prompts that are encoded together.
        space: that the rows are of.

    Returns:
        The rows, and whether they were there. A file that is damaged, or of something else, is made anew.

    Raises:
        ConfigurationError: if the folder cannot be written.

    Warns:
        UserWarning: if the user's own cannot be written.
    """
    told = [fingerprint, list(prompts), encoder.token_ids(prompts)]
    if not isinstance(encoder, PromptEncoder) or space != TEXT:
        # A projector of the denoiser, which no fingerprint of text encoders knows, may lie before a reader.
        told.append([space, subject_rows(encoder, prompts[:1], space=space).tolist()])
    asked = json.dumps(told)
    key = hashlib.sha256(asked.encode()).hexdigest()
    path = (folder or default_cache()) / f"vocabulary-{key[:20]}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(KEY) == key:
                rows = file.get_tensor(TENSOR)
                if rows.ndim == 3 and rows.shape[:2] == (len(prompts), ROWS) and bool(rows.isfinite().all()):
                    return rows, True
    except (OSError, SafetensorError):
        pass
    rows = subject_rows(encoder, prompts, batch, space=space)
    try:
        save_tensors({TENSOR: rows}, path, {KEY: key})
    except ConfigurationError as error:
        if folder is not None:
            raise ConfigurationError(f"--cache: {error}") from error
        warnings.warn(f"The encoded vocabulary is not kept: {error}", stacklevel=2)
    return rows, False
