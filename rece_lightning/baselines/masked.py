"""A prompt with one of its tokens masked, in whatever rows a pipeline reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.baselines.branches import hooked
from rece_lightning.baselines.text_arguments import encoder_of, requests_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.families.base import Source
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.sampling import Request
from rece_lightning.models.text_space import POOLED, TEXT

MASK = 0
"""Id of the token that stands for a masked one."""


@dataclass(frozen=True)
class Segment:
    """The rows that one text encoder makes of a prompt, or two side by side."""

    places: dict[str, tuple[int, ...]]
    """Text encoder → positions of the prompt's own tokens among its tokens."""
    rows: tuple[int, ...]
    """Of the own tokens among all rows of the prompt."""
    summary: int
    """Row of what follows the last own token, an end of text mostly, or of the last own token itself."""


class Masking:
    """Encodes prompts with a pipeline's own text encoders, whole and with tokens masked.

    Args:
        pipeline: of diffusers.
        arguments: of a call of it, whose embeddings are as long.

    Raises:
        BaseModelError: if it has no text encoder.
        ConfigurationError: if its denoiser reads rows of several kinds.
    """

    def __init__(self, pipeline: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self.pipeline, self.encoder = pipeline, encoder_of(pipeline, arguments)
        self._source: Source | None = None
        if isinstance(self.encoder, PipelineEncoder):
            sources = self.encoder.sources
            odd = [name for name, one in sources.items() if name not in (TEXT, POOLED) or one.layer is not None]
            if odd or TEXT not in sources:
                raise ConfigurationError(
                    f"guard: SAFREE: {self.encoder.family.title} reads rows of several kinds, or one row alone; take "
                    "another guard."
                )
            self._source = sources[TEXT]

    def whole(self, text: str) -> Request:
        """A prompt as it is: rows ``[positions, d]``, and the pooled embedding where there is one.

        Args:
            text: the prompt.
        """
        return requests_of(self.encoder, [text])[0]

    def masked(self, text: str, segment: Segment, token: int) -> Request:
        """The same with one of its own tokens masked, in the encoders of a segment.

        Args:
            text: the prompt.
            segment: of its rows.
            token: which of the segment's own tokens.
        """

        def mask(name: str) -> Callable[..., Any]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                ids = (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).clone()
                ids[:, segment.places[name][token]] = MASK
                if "input_ids" in kwargs:
                    return args, {**kwargs, "input_ids": ids}
                return (ids, *args[1:]), kwargs

            return hook

        with ExitStack() as stack:
            for name in segment.places:
                part = getattr(self.pipeline, name)
                stack.enter_context(hooked(part.register_forward_pre_hook(mask(name), with_kwargs=True)))
            return self.whole(text)

    def segments(self, text: str) -> list[Segment]:
        """Where a prompt's own tokens and rows are; none for a prompt without a token.

        Args:
            text: the prompt.
        """
        with self._seen() as seen:
            count = len(self.whole(text).embedding)
        own = {name: self._places(name, text, ids) for name, (ids, _) in seen.items()}
        found, start = [], 0
        names = ("text_encoder",) if self._source is None else self._source.encoders
        there = [name for name in names if name in seen]
        for name in there:
            ids, read = seen[name]
            length = count - start if name == there[-1] else len(ids)
            # A second encoder of the same tokens makes rows beside these, or what is pooled with them.
            twins = {other: places for other, places in own.items() if places == own[name]}
            packed = self._source is not None and self._source.packed
            rows = [self._row(place, ids, read, length, packed=packed) for place in own[name]]
            kept = [token for token, row in enumerate(rows) if 0 <= row < length]
            if kept:
                behind = own[name][kept[-1]] + 1
                last = start + rows[kept[-1]]
                follows = behind < len(ids) and (read is None or bool(read[behind])) and last + 1 < start + length
                found.append(
                    Segment(
                        {one: tuple(places[token] for token in kept) for one, places in twins.items()},
                        tuple(start + rows[token] for token in kept),
                        last + 1 if follows else last,
                    )
                )
            start += length
        return found

    @staticmethod
    def _row(place: int, ids: Tensor, read: Tensor | None, length: int, *, packed: bool) -> int:
        """Row of a token; rows of a template before the prompt may have been cut off."""
        if packed and read is not None:
            return int(read[:place].sum()) - (int(read.sum()) - length)
        return place - (len(ids) - length)

    def _places(self, name: str, text: str, ids: Tensor) -> tuple[int, ...]:
        """Positions of a prompt's own tokens: what its tokenizer makes of it alone, found among all; cut at the end."""
        tokenizer = getattr(self.pipeline, name.replace("text_encoder", "tokenizer"))
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        own, whole = list(tokenizer(text, add_special_tokens=False)["input_ids"]), ids.tolist()
        for length in range(len(own), 0, -1):
            for start in range(len(whole) - length, -1, -1):
                if whole[start : start + length] == own[:length]:
                    return tuple(range(start, start + length))
        return ()

    @contextmanager
    def _seen(self) -> Iterator[dict[str, tuple[Tensor, Tensor | None]]]:
        """Within the block text encoders leave the tokens of the first prompt here, and which of them are read."""
        seen: dict[str, tuple[Tensor, Tensor | None]] = {}

        def keeper(name: str) -> Callable[..., None]:
            def keep(_: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
                ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
                read = kwargs.get("attention_mask")
                seen.setdefault(name, (ids[0].cpu(), read[0].bool().cpu() if isinstance(read, Tensor) else None))

            return keep

        with ExitStack() as stack:
            for name, part in vars(self.pipeline).items():
                if name.startswith("text_encoder") and isinstance(part, nn.Module):
                    stack.enter_context(hooked(part.register_forward_pre_hook(keeper(name), with_kwargs=True)))
            yield seen


def projected(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows ``[n, d]`` projected onto the span of others, ``C (CᵀC)⁺ Cᵀ``, float64.

    Args:
        rows: to project.
        basis: rows ``[k, d]`` that span it; they may depend on one another.
    """
    _, values, directions = torch.linalg.svd(basis.double(), full_matrices=False)
    least = values.max() * max(basis.shape) * torch.finfo(torch.float64).eps
    kept = directions[values > least]
    return rows.double() @ kept.mT @ kept
