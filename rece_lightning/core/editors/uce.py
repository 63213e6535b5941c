"""UCE's edit: moments in, the least-squares map out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import Editor, EditProblem
from rece_lightning.core.embedding_map import EmbeddingMap, narrow
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.factored import Factored
from rece_lightning.core.linalg import add_ridge, factor_positive_definite
from rece_lightning.core.moments import Moments, RowPairs

SYSTEM, REMEDY = "edit's system ηS + λ₁P + λ₂I", "Give the editor's lamb (λ₂) a value greater than 0."


@dataclass(frozen=True)
class UCE(Editor):
    """UCE's least squares (arXiv 2308.14761), the edit inside RECE's loop: erasing weighed against leaving the rest.

    Args:
        erase_scale: η > 0, weight of the erased concepts.
        preserve_scale: λ₁ ≥ 0, weight of the preserved prompts.
        lamb: λ₂ ≥ 0, weight of leaving the projections as they are.

    Raises:
        ConfigurationError: for a negative or infinite weight.
    """

    erase_scale: float = 1.0
    preserve_scale: float = 0.1
    lamb: float = 0.1

    in_factors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_number(f"{name}.erase_scale", self.erase_scale, positive=True)
        check_number(f"{name}.preserve_scale", self.preserve_scale)
        check_number(f"{name}.lamb", self.lamb)

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        """The minimiser; looks neither at ``G`` nor at ``M``."""
        if isinstance(problem.preserved, Factored):
            return edit_in_factors(problem.moments, self)
        if isinstance(problem.erased, RowPairs):
            return edit_rows(problem.erased, problem.preserved, self)
        return edit(problem.moments, self)


def normal_equations(moments: Moments, scales: UCE) -> tuple[Tensor, Tensor]:
    """``A = ηS + λ₁P + λ₂I`` and ``B = ηX + λ₁P + λ₂I``: the minimiser is ``E A = B``."""
    held = preserved_system(moments.preserved, scales)
    return scales.erase_scale * moments.erased + held, scales.erase_scale * moments.cross + held


def preserved_system(preserved: Tensor, scales: UCE) -> Tensor:
    """``λ₁P + λ₂I``: what both sides share, ``[d, d]``."""
    return add_ridge(scales.preserve_scale * preserved, scales.lamb)


def factor_system(system: Tensor) -> Tensor:
    """Cholesky factor of ``A``.

    Raises:
        ConfigurationError: if it is singular.
    """
    return factor_positive_definite(system, what=SYSTEM, remedy=REMEDY)


def edit(moments: Moments, scales: UCE) -> EmbeddingMap:
    """Map every layer's projection to UCE's minimiser (arXiv 2308.14761).

    ``W E`` with ``E = (ηX + λ₁P + λ₂I)(ηS + λ₁P + λ₂I)⁻¹`` minimises

        ``η Σ ‖W' c − W c*‖² + λ₁ Σ ‖W' c_j − W c_j‖² + λ₂ ‖W' − W‖²``

    for every ``W`` at once: ``E`` holds no layer.

    Args:
        moments: of concepts, targets and what is preserved, ``[d, d]`` each, float64.
        scales: η, λ₁ and λ₂.

    Returns:
        ``E``; compose it with the map so far: ``M @ E``.

    Raises:
        ConfigurationError: if the system is singular, as it is for λ₂ = 0 with fewer rows than ``d``.
    """
    system, right = normal_equations(moments, scales)
    return EmbeddingMap(torch.cholesky_solve(right.mT, factor_system(system)).mT)


def edit_rows(rows: RowPairs, preserved: Tensor, scales: UCE) -> EmbeddingMap:
    """The same minimiser from the rows themselves, where there are fewer of them than ``d``.

    With the rows as columns, ``E = I + η (C* − C) w Cᵀ A⁻¹``: a solve for ``n`` columns, not for ``d``.

    Args:
        rows: what is erased.
        preserved: ``P``, ``[d, d]``.
        scales: η, λ₁ and λ₂.

    Raises:
        ConfigurationError: if the system is singular.
    """
    weighted = rows.weights[:, None] * rows.concept
    factor = factor_system(scales.erase_scale * (rows.concept.mT @ weighted) + preserved_system(preserved, scales))
    right = torch.cholesky_solve(weighted.mT, factor).mT
    return narrow(scales.erase_scale * (rows.target - rows.concept).mT, right)


def edit_in_factors(moments: Moments, scales: UCE) -> EmbeddingMap:
    """The same minimiser where nothing is ``[d, d]``, from moments whose factors are rows.

    With the rows ``Z = √w C``, their targets ``Z*``, the preserved rows ``Y`` and ``H = [√η Z; √λ₁ Y]``, all over the
    rows: ``E = I + √η (Z* − Z)ᵀ [(λ₂I + HHᵀ)⁻¹ H]``, of whose last factor the rows of ``Z`` count.

    Args:
        moments: in factors.
        scales: η, λ₁ and λ₂.

    Raises:
        ConfigurationError: if the system is singular.
    """
    erased, cross, preserved = moments.erased, moments.cross, moments.preserved
    assert isinstance(erased, Factored)
    assert isinstance(cross, Factored)
    assert isinstance(preserved, Factored)
    rows, root = erased.right, scales.erase_scale**0.5
    held = torch.cat([root * rows, scales.preserve_scale**0.5 * preserved.right])
    if scales.lamb == 0 and len(held) < moments.width:
        raise ConfigurationError(f"The {SYSTEM} is singular. {REMEDY}")
    factor = factor_system(add_ridge(held @ held.mT, scales.lamb))
    chosen = torch.eye(len(held), len(rows), dtype=held.dtype, device=held.device)
    right = torch.cholesky_solve(chosen, factor).mT @ held
    return EmbeddingMap(Factored(root * (cross.left.mT - rows).mT, right, 1.0))
