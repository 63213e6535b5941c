"""The null-space editor: UCE's problem over the edits that the kept prompts' embeddings do not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.edit import EditScales, preserved_system
from rece_lightning.core.embedding_map import NARROW, EmbeddingMap
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import factor_positive_definite, symmetrized
from rece_lightning.core.moments import Moments

AUGMENTED = 10 / 11
"""Share of augmented rows where every kept row has ten: what their noise, of variance 1, adds to the mean moment."""


@dataclass(frozen=True)
class NullSpace:
    """What counts as unseen by the kept prompts."""

    threshold: float = 0.1
    """τ ≥ 0: a direction is free where the kept embeddings have less than this share of their mean energy."""
    augmented_rank: int = 1
    """r ≥ 0: how many of the directions that keys and values see least count as seen by the kept prompts too."""

    def __post_init__(self) -> None:
        check_number("null_space_threshold", self.threshold)
        check_augmented_rank("augmented_rank", self.augmented_rank)


def check_augmented_rank(field: str, value: int) -> None:
    """Raise a ConfigurationError unless ``value`` counts directions: 0, 1, 2, …"""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{field}: {value!r} makes no sense here; give a whole number of 0 or more.")


def null_space(preserved: Tensor, gram: Gram, settings: NullSpace, invariants: Tensor | None = None) -> Tensor:
    """The directions that an edit may read (SPEED, arXiv 2503.07392, equations 3 to 10, from moments).

    Eigenvectors of ``P̄ = P d/tr P`` with values up to τ; rows of a text encoder that ends in a layer norm have squared
    norms near d, and ``P̄`` is then the mean moment that the paper's τ is read against (0.1; for 100 concepts 1e-4).

    Directed augmentation adds ten noisy copies of every kept row, the noise confined to the r directions ``U`` that a
    projection sees least. In moments its expectation has a closed form, ``P̄ + 10/11 · U Uᵀ``, and nothing is drawn.
    The paper takes ``U``, and the filter of its kept prompts, a layer; here both are those of ``G``, which sums over
    the layers, so that one map serves all. The filter is ``data.preserve: auto``: moments know no prompts any more.

    Equality constraints hold some rows exactly. Their closed form by Lagrange multipliers is the same problem on the
    part of the null space that is orthogonal to these rows.

    Args:
        preserved: ``P`` of what is kept, ``[d, d]``.
        gram: ``G`` of the original projections.
        settings: τ and r.
        invariants: rows that must not move, ``[m, d]``: the begin-of-text token's and the empty prompt's.

    Returns:
        ``N``, ``[d, k]``, with orthonormal columns; k may be 0.
    """
    width = len(preserved)
    trace = float(preserved.trace())
    mean = preserved * (width / trace) if trace > 0 else torch.zeros_like(preserved)
    if trace > 0 and settings.augmented_rank:
        least = torch.linalg.eigh(symmetrized(gram.total))[1][:, : settings.augmented_rank]
        mean = mean + AUGMENTED * (least @ least.mT)
    values, axes = torch.linalg.eigh(symmetrized(mean))
    # An exact zero is rounded to this much.
    rounding = width * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    free = axes[:, values <= rounding.clamp(min=settings.threshold)]
    return free if invariants is None else orthogonal_part(free, invariants)


def orthogonal_part(basis: Tensor, rows: Tensor) -> Tensor:
    """The part of a space that some rows have nothing in.

    Args:
        basis: orthonormal columns, ``[d, k]``.
        rows: ``[m, d]``.

    Returns:
        Orthonormal columns, ``[d, k − rank]``.
    """
    wide = rows.to(basis)
    if not basis.shape[1] or not len(wide):
        return basis
    _, strengths, axes = torch.linalg.svd(wide @ basis)
    rounding = max(wide.shape) * torch.finfo(basis.dtype).eps * torch.linalg.norm(wide)
    return basis @ axes[int((strengths > rounding).sum()) :].mT


def edit_in_null_space(moments: Moments, free: Tensor, scales: EditScales) -> EmbeddingMap:
    """UCE's minimiser among the edits that read free directions alone.

    With ``A = ηS + λ₁P + λ₂I`` and ``N`` the free directions,

        ``E = I + η (X − S) N (Nᵀ A N)⁻¹ Nᵀ``

    gives ``W' = W E``, the minimiser of ``η Σ ‖W' c − W c*‖² + λ₁ Σ ‖W' c_j − W c_j‖² + λ₂ ‖W' − W‖²`` over all
    ``W' = W + K Nᵀ``, for every ``W`` at once. With λ₁ = 0 it is SPEED's problem; λ₂ weighs its ``‖ΔP‖²`` against sums
    over the concepts, where the published code takes means: its 1, and 0.05 for 100 concepts, are here 1 and 0.05
    times the number of concepts. λ₁ weighs what is left of the kept prompts in directions that count as free: with all
    directions free this is UCE's edit.

    Args:
        moments: of concepts, targets and what is kept, ``[d, d]`` each, float64.
        free: ``N``, ``[d, k]``.
        scales: η, λ₁ and λ₂.

    Returns:
        ``E``; compose it with the map so far: ``M @ E``.

    Raises:
        ConfigurationError: if no direction is free, or the system is singular.
    """
    if not free.shape[1]:
        raise ConfigurationError(
            "model.null_space_threshold: the preserved prompts and the empty one leave no direction that an edit could "
            "read; give a larger value, or fewer prompts in data.preserve."
        )
    kept = preserved_system(moments.preserved, scales)
    system = free.mT @ (scales.erase_scale * moments.erased + kept) @ free
    remedy = "Give model.lamb (λ₂) a value greater than 0."
    factor = factor_positive_definite(system, what="edit's system in the null space", remedy=remedy)
    right = torch.cholesky_solve(free.mT, factor)
    left = scales.erase_scale * (moments.cross - moments.erased) @ free
    matrix = left @ right
    matrix.diagonal().add_(1.0)
    return EmbeddingMap(matrix, (left, right) if NARROW * len(right) <= len(matrix) else None)
