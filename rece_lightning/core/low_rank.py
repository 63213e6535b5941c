"""What an erasure adds to the weights as a product of small factors: ``ΔW_l = W_l (M − I) ≈ (W_l U) V``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, layers_of
from rece_lightning.core.factored import Factored
from rece_lightning.core.gram import Gram

STORED = 2.0**-24
"""What float32 cannot hold: a relative error below it is rounding in the stored factors."""


@dataclass(frozen=True)
class LowRank:
    """Factors of one ``M − I``, its directions ordered by what they do to the weights.

    The rows of ``V`` are orthonormal and the columns of ``W_l U``, stacked over the layers that share the map, are
    orthogonal: the first R directions are the best shared down-projection of rank R. That is the singular value
    decomposition of the stacked ``ΔW_l`` (Eckart and Young, 1936), found from ``G`` without the layers.
    """

    up: Tensor
    """``U``, ``[d, r]``, float64."""
    down: Tensor
    """``V``, ``[r, d]``, float64."""
    energies: Tensor
    """``Σ_l ‖W_l u_i‖²`` of every direction, ``[r]``, descending."""

    @property
    def rank(self) -> int:
        """``r``: the numerical rank of what the edit adds."""
        return len(self.energies)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """``U [d, rank]`` and ``V [rank, d]`` of the best approximation, zeros where ``rank`` exceeds ``r``.

        Both carry the square root of a direction's strength, so that neither leaves the range of a half.
        """
        width, count = self.up.shape[0], min(rank, self.rank)
        balance = self.energies[:count].sqrt().sqrt()
        up, down = self.up.new_zeros(width, rank), self.down.new_zeros(rank, width)
        up[:, :count] = self.up[:, :count] / balance
        down[:count] = self.down[:count] * balance[:, None]
        return up, down


def low_rank(change: Tensor, gram: Tensor, tolerance: float = 1e-12) -> LowRank:
    """Factor one ``M − I`` for the layers whose Gram matrix is given.

    Minimises ``Σ_l ‖W_l (M − I) − W_l U V‖²`` at every rank at once: with ``G = F Fᵀ`` that sum is
    ``‖Fᵀ (M − I) − Fᵀ U V‖²``.

    Args:
        change: ``M − I``, ``[d, d]``, float64.
        gram: ``Σ_l W_lᵀ W_l`` over the layers that share the map, ``[d, d]``, float64.
        tolerance: singular values below this share of the largest are rounding.
    """
    if isinstance(change, Factored) and isinstance(gram, Factored):
        return _of_factors(change, gram.right, tolerance)
    left, values, right = _decomposed(change)
    rank = int((values > tolerance * values.max().clamp(min=1e-300)).sum())
    up, down = left[:, :rank] * values[:rank], right[:rank]
    # Not by Cholesky: a model with fewer outputs than d has a singular G.
    strengths, axes = torch.linalg.eigh(gram)
    rounding = len(gram) * torch.finfo(gram.dtype).eps * strengths.max()
    root = strengths.where(strengths > rounding, 0).sqrt()[:, None] * axes.mT
    _, sizes, turn = torch.linalg.svd(root @ up, full_matrices=False)
    # A direction that no layer sees changes no weight.
    seen = int((sizes > tolerance * sizes.max().clamp(min=1e-300)).sum()) if len(sizes) else 0
    turn = turn[:seen]
    return LowRank(up @ turn.mT, turn @ down, sizes[:seen].square())


def _decomposed(change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values; of ``L R`` from triangles of the size of its rank."""
    if not isinstance(change, Factored):
        return torch.linalg.svd(change)
    (first, left), (last, right) = torch.linalg.qr(change.left), torch.linalg.qr(change.right.mT)
    turn, values, other = torch.linalg.svd(left @ right.mT)
    return first @ turn, values, other @ last.mT


def _of_factors(change: Factored, weights: Tensor, tolerance: float) -> LowRank:
    """The same of ``L R`` and ``G = WᵀW``: the decomposition of ``W L R``, from triangles of the size of its rank."""
    added, seen_by = torch.linalg.qr(weights @ change.left)[1], torch.linalg.qr(change.right.mT)
    _, sizes, turn = torch.linalg.svd(added @ seen_by[1].mT, full_matrices=False)
    seen = int((sizes > tolerance * sizes.max().clamp(min=1e-300)).sum()) if len(sizes) else 0
    turn = turn[:seen]
    return LowRank(change.left @ (seen_by[1].mT @ turn.mT), turn @ seen_by[0].mT, sizes[:seen].square())


def low_rank_of(maps: AnyMap, gram: Gram, tolerance: float = 1e-12) -> list[LowRank]:
    """One :class:`LowRank` for the map that all layers share, or one a layer under the technique ``tensor``."""
    if isinstance(maps, EmbeddingMap):
        return [low_rank(maps.in_factors().change, gram.total, tolerance)]
    return [
        low_rank(change, of_layer, tolerance) for change, of_layer in zip(maps.change, layers_of(gram), strict=True)
    ]


def error_curve(parts: Sequence[LowRank]) -> Tensor:
    """``‖ΔW − ΔW_R‖ / ‖ΔW‖`` over all layers at the ranks R = 0, 1, …, the largest rank of a part; ``[r + 1]``.

    All zeros where nothing was changed.
    """
    most = max(part.rank for part in parts)
    energies = torch.zeros(most + 1, dtype=torch.float64)
    for part in parts:
        energies[: part.rank] += part.energies.cpu()
    # Summed from the small end, so that the tail keeps its digits.
    tails = energies.flip(0).cumsum(0).flip(0)
    return (tails / tails[0].clamp(min=1e-300)).sqrt()


def sufficient_rank(parts: Sequence[LowRank], tolerance: float = STORED) -> int:
    """The smallest rank whose error is below ``tolerance``: a full rank, without directions that are rounding."""
    return int((error_curve(parts) > tolerance).sum())
