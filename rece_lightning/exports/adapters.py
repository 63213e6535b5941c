"""The factors of a LoRA, a layer at a time, with the error that their rank costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.low_rank import LowRank, low_rank_of, sufficient_rank
from rece_lightning.exports.erasure import Erasure
from rece_lightning.exports.record import Loss


@dataclass(frozen=True)
class Adapter:
    """One layer of a LoRA: ``W + up @ down`` is the edited weight."""

    name: str
    """Diffusers name of the layer, without ``.weight``."""
    down: Tensor
    """``[r, d]``, float32."""
    up: Tensor
    """``[o, r]``, float32."""


def adapter_rank(parts: list[LowRank], rank: int | None) -> int:
    """The rank that is written: the full one, ``rank`` where that is less, and 1 for an edit that changed nothing."""
    full = max(1, sufficient_rank(parts))
    return full if rank is None else min(rank, full)


def make_adapters(erasure: Erasure, rank: int | None) -> tuple[list[Adapter], Loss]:
    """The adapters of all edited layers, all of one rank, and what was lost, measured on the rounded factors.

    One rank for all: readers that find different ranks have scaled some layers by the wrong alpha.

    Args:
        erasure: to write.
        rank: R; without it the smallest one at which the truncation is below float32's rounding.
    """
    parts = low_rank_of(erasure.maps, erasure.gram)
    chosen = adapter_rank(parts, rank)
    factors = [tuple(factor.cpu() for factor in part.factors(chosen)) for part in parts]
    adapters, lost, changed, total = [], 0.0, 0.0, 0.0
    for layer, (name, weight) in enumerate(_wide(erasure)):
        up, down = factors[layer if len(factors) > 1 else 0]
        adapter = Adapter(name.removesuffix(".weight"), down.float(), (weight @ up).float())
        matrix = erasure.maps.of_layer(layer).cpu()
        change = weight @ (matrix - torch.eye(len(matrix), dtype=matrix.dtype))
        lost += float((adapter.up.double() @ adapter.down.double() - change).square().sum())
        changed += float(change.square().sum())
        total += float((weight + change).square().sum())
        adapters.append(adapter)
    return adapters, Loss(_ratio(lost, changed), _ratio(lost, total), chosen)


def _wide(erasure: Erasure) -> Iterator[tuple[str, Tensor]]:
    for name, weight in erasure.original():
        yield name, weight.cpu().double()


def _ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole else 0.0
