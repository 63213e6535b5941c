"""The call of a declared family's pipeline with prompt embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rece_lightning.models.denoisers import config_of, denoisers_of
from rece_lightning.models.families.base import Family, Source
from rece_lightning.models.text_space import POOLED, TEXT


class Asked(Protocol):
    """A picture to make; see :class:`rece_lightning.models.sampling.Request`."""

    @property
    def embedding(self) -> Tensor: ...
    @property
    def pooled(self) -> Tensor | None: ...
    @property
    def call(self) -> Mapping[str, Tensor]: ...


def length_of(request: Asked, family: Family | None) -> int | None:
    """What requests of one batch must share: how many rows they have, where no mask tells padding from text."""
    if family is None or any(source.mask_argument for source in _sources(family).values()):
        return None
    return len(request.embedding)


def _sources(family: Family) -> Mapping[str, Source]:
    return family.sources if isinstance(family.sources, Mapping) else {}


def family_arguments(
    pipeline: Any, family: Family, requests: Sequence[Asked], unconditional: Asked, guidance: float
) -> dict[str, Any]:
    """What the pipeline is called with for these pictures, but for seeds and steps.

    Args:
        pipeline: of the family.
        family: declared.
        requests: one a picture.
        unconditional: the empty prompt.
        guidance: its scale.
    """
    denoiser = next(iter(denoisers_of(pipeline).values()))
    example = next(denoiser.parameters())
    sources = family.sources_of(config_of(denoiser))
    taken = _taken(type(pipeline).__call__)
    arguments: dict[str, Any] = {}
    for source in sources.values():
        for argument in (source.argument, source.mask_argument):
            if argument is None or argument in arguments:
                continue
            arguments[argument] = _together([_given(one, argument, sources) for one in requests], source, example)
            negative = f"negative_{argument}"
            if family.negative and negative in taken:
                own = unconditional.call.get(negative)
                without = _given(unconditional, argument, sources) if own is None else own
                arguments[negative] = _together([without] * len(requests), source, example)
    fixed = {name: value for name, value in family.call.items() if name in taken}
    if "negative_prompt" in taken:  # some pipelines have "" for it, and refuse that beside its embedding
        fixed["negative_prompt"] = None
    return {**arguments, **fixed, family.guidance: guidance}


@cache
def _taken(call: Callable[..., Any]) -> frozenset[str]:
    """Names of the arguments of a pipeline class's call."""
    return frozenset(inspect.signature(call).parameters)


def _given(request: Asked, argument: str, sources: Mapping[str, Source]) -> Tensor:
    """A request's own value: the embedding and the pooled one may be another's than the prompt's."""
    if TEXT in sources and argument == sources[TEXT].argument:
        return request.embedding
    if POOLED in sources and argument == sources[POOLED].argument and request.pooled is not None:
        return request.pooled.reshape(request.call[argument].shape)
    if argument in request.call:
        return request.call[argument]
    # A mask that hides nothing is left out by some pipelines.
    return torch.ones(len(request.embedding), dtype=torch.long, device=request.embedding.device)


def _together(values: Sequence[Tensor], source: Source, example: Tensor) -> Any:
    moved = [
        one.to(example.device, example.dtype) if one.is_floating_point() else one.to(example.device) for one in values
    ]
    if source.listed:
        return moved
    if source.one_row or moved[0].ndim == 3:  # several layers of rows: the batch is their second axis
        return torch.stack(moved, dim=0 if source.one_row else 1)
    return pad_sequence(moved, batch_first=True)
