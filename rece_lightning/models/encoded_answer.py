"""What a pipeline's ``encode_prompt`` returns of one prompt, as rows and as what the pipeline takes again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rece_lightning.models.families.base import Source
from rece_lightning.models.text import Embedded
from rece_lightning.models.text_space import POOLED, TEXT


def rows_of(answer: tuple[Any, ...], source: Source) -> tuple[Tensor, Tensor | None]:
    """Rows of the only prompt, ``[positions, d]``, and which of them are read, ``[positions]``."""
    rows = answer[source.answer]
    if source.layer is not None:
        rows = rows[source.layer]
    rows = rows[0]
    if source.one_row:
        rows = rows.reshape(1, -1)
    mask = None if source.mask is None else answer[source.mask]
    # AuraFlow's is as wide as the rows, which it has set to zero already.
    if mask is None or mask[0].numel() != len(rows):
        return rows, None
    return rows, mask[0].bool()


def call_of(answer: tuple[Any, ...], sources: Mapping[str, Source]) -> dict[str, Tensor]:
    """What the pipeline takes in place of the only prompt, by the names of its arguments: embeddings and masks."""
    call = {}
    for source in sources.values():
        value = answer[source.answer]
        call[source.argument] = value[0] if not isinstance(value, Tensor) or value.ndim < 4 else value[:, 0]
        stated = None if source.mask is None else answer[source.mask]
        if source.mask_argument is not None and stated is not None:
            call[source.mask_argument] = stated[0]
    return call


def embedded(calls: Sequence[Mapping[str, Tensor]], sources: Mapping[str, Source]) -> Embedded:
    """Texts from what a pipeline takes in their places, each of :func:`call_of`; gradients pass."""
    rows = [call[sources[TEXT].argument] for call in calls] if TEXT in sources else []
    pooled = sources.get(POOLED)
    return Embedded(
        embeddings=pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, 0),
        pooled=None if pooled is None else torch.stack([call[pooled.argument].reshape(-1) for call in calls]),
        own=rows,
        calls=calls,
    )
