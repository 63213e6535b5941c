"""The null-space editor: UCE's problem over the edits that the preserved prompts' embeddings do not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import EditProblem
from rece_lightning.core.editors.uce import UCE, preserved_system
from rece_lightning.core.embedding_map import EmbeddingMap, narrow
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import factor_positive_definite, symmetrized
from rece_lightning.core.moments import Moments

AUGMENTED = 10 / 11
"""Share of augmented rows where every preserved row has ten: what their noise of variance 1 adds to the mean moment."""


@dataclass(frozen=True)
class NullSpace(UCE):
    """UCE's edit over directions that the preserved prompts have nothing in (SPEED, arXiv 2503.07392).

    The begin-of-text token and the empty prompt are held exactly. SPEED's own objective is ``preserve_scale: 0``, its
    own projections ``v``.

    Args:
        erase_scale: η, as of UCE.
        preserve_scale: λ₁, as of UCE.
        lamb: λ₂, as of UCE.
        threshold: τ ≥ 0: directions count as free where the preserved prompts have less than this share of their mean
            energy (published: 0.1, for 100 concepts 1e-4).
        augmented_rank: how many of the directions that keys and values see least are not free either; what the
            published augmentation of the preserved prompts comes to.
    """

    threshold: float = 0.1
    augmented_rank: int = 1

    needs_invariants: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("NullSpace.threshold", self.threshold)
        value = self.augmented_rank
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigurationError(
                f"NullSpace.augmented_rank: {value!r} makes no sense here; give a whole number of 0 or more."
            )

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        """The minimiser among the edits that read free directions alone."""
        return self.fitted(problem)(problem)

    def fitted(self, problem: EditProblem) -> Callable[[EditProblem], EmbeddingMap]:
        """What is preserved stays, and so do the free directions: they are found once."""
        free = null_space(problem.preserved, problem.gram, self, problem.invariants)
        return lambda later: edit_in_null_space(later.moments, free, self)


def null_space(preserved: Tensor, gram: Gram, settings: NullSpace, invariants: Tensor | None = None) -> Tensor:
    """The directions that an edit may read (SPEED, arXiv 2503.07392, equations 3 to 10, from moments).

    Eigenvectors of ``P̄ = P d/tr P`` with values up to τ; rows of a text encoder that ends in a layer norm have squared
    norms near d, and ``P̄`` is then the mean moment that the paper's τ is read against (0.1; for 100 concepts 1e-4).

    Directed augmentation adds ten noisy copies of every preserved row, the noise confined to the r directions ``U``
    that a projection sees least. In moments its expectation has a closed form, ``P̄ + 10/11 · U Uᵀ``, and nothing is
    drawn. The paper takes ``U``, and the filter of its preserved prompts, a layer; here both are those of ``G``, which
    sums over the layers, so that one map serves all. The filter is ``data.preserve: auto``: moments know no prompts any
    more.

    Equality constraints hold some rows exactly. Their closed form by Lagrange multipliers is the same problem on the
    part of the null space that is orthogonal to these rows.

    Args:
        preserved: ``P`` of what is preserved, ``[d, d]``.
        gram: ``G`` of the original projections.
        settings: τ and r.
        invariants: rows that must not move, ``[m, d]``: the begin-of-text token's and the empty prompt's.

    Returns:
        ``N``, ``[d, k]``, with orthonormal columns; k may be 0.
    """
    mean = _mean_moment(preserved)
    if settings.augmented_rank and bool(mean.any()):
        least = torch.linalg.eigh(symmetrized(gram.total))[1][:, : settings.augmented_rank]
        mean = mean + AUGMENTED * (least @ least.mT)
    free = _axes_below(mean, settings.threshold)
    return free if invariants is None else orthogonal_part(free, invariants)


def free_directions(preserved: Tensor, threshold: float) -> Tensor:
    """Directions in which what is preserved has at most a share of its mean energy, orthonormal, ``[d, k]``.

    Args:
        preserved: ``P``, ``[d, d]``.
        threshold: τ, read against ``P d/tr P``.
    """
    return _axes_below(_mean_moment(preserved), threshold)


def _mean_moment(preserved: Tensor) -> Tensor:
    """``P d/tr P``; zero where nothing is preserved."""
    trace = float(preserved.trace())
    return preserved * (len(preserved) / trace) if trace > 0 else torch.zeros_like(preserved)


def _axes_below(mean: Tensor, threshold: float) -> Tensor:
    values, axes = torch.linalg.eigh(symmetrized(mean))
    # An exact zero is rounded to this much.
    rounding = len(mean) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return axes[:, values <= rounding.clamp(min=threshold)]


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


def edit_in_null_space(moments: Moments, free: Tensor, scales: UCE) -> EmbeddingMap:
    """UCE's minimiser among the edits that read free directions alone.

    With ``A = ηS + λ₁P + λ₂I`` and ``N`` the free directions,

        ``E = I + η (X − S) N (Nᵀ A N)⁻¹ Nᵀ``

    gives ``W' = W E``, the minimiser of ``η Σ ‖W' c − W c*‖² + λ₁ Σ ‖W' c_j − W c_j‖² + λ₂ ‖W' − W‖²`` over all
    ``W' = W + K Nᵀ``, for every ``W`` at once. With λ₁ = 0 it is SPEED's problem; λ₂ weighs its ``‖ΔP‖²`` against sums
    over the concepts, where the published code takes means: its 1, and 0.05 for 100 concepts, are here 1 and 0.05
    times the number of concepts. λ₁ weighs what is left of the preserved prompts in directions that count as free: with
    all directions free this is UCE's edit.

    Args:
        moments: of concepts, targets and what is preserved, ``[d, d]`` each, float64.
        free: ``N``, ``[d, k]``.
        scales: η, λ₁ and λ₂.

    Returns:
        ``E``; compose it with the map so far: ``M @ E``.

    Raises:
        ConfigurationError: if no direction is free, or the system is singular.
    """
    if not free.shape[1]:
        raise ConfigurationError(
            "NullSpace.threshold: the preserved prompts and the empty one leave no direction that an edit could "
            "read; give a larger value, or fewer prompts in data.preserve."
        )
    held = preserved_system(moments.preserved, scales)
    system = free.mT @ (scales.erase_scale * moments.erased + held) @ free
    remedy = "Give the editor's lamb (λ₂) a value greater than 0."
    factor = factor_positive_definite(system, what="edit's system in the null space", remedy=remedy)
    right = torch.cholesky_solve(free.mT, factor)
    return narrow(scales.erase_scale * (moments.cross - moments.erased) @ free, right)
