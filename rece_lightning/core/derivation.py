"""The derivation: the embedding that makes the edited model answer as the original did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap, stored
from rece_lightning.core.errors import ConfigurationError, check_choice, check_number
from rece_lightning.core.factored import Factored
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, factor_positive_definite

REGULARIZERS = ("norm", "standard", "surrogate")
SURROGATE_ITEMS = ("first", "second", "both")


@dataclass(frozen=True)
class DerivationMap:
    """``c' = D c + F c*`` for every concept row ``c`` with its target row ``c*``, as the system that it solves.

    A few rows are solved for themselves; ``D`` and ``F`` are formed where all of ``[d, d]`` is needed.
    """

    factor: Tensor
    """Cholesky factor of the system ``A``, ``[d, d]``, float64."""
    right: Tensor
    """``R`` with ``D = A⁻¹ R``, ``[d, d]``."""
    target_scale: float | None = None
    """λ with ``F = λ A⁻¹``; only the regularizer ``standard`` looks at the target."""

    @cached_property
    def of_concept(self) -> Tensor:
        """``D``, ``[d, d]``."""
        return torch.cholesky_solve(self.right, self.factor)

    @cached_property
    def of_target(self) -> Tensor | None:
        """``F``, ``[d, d]``; ``None`` where the target does not count."""
        if self.target_scale is None:
            return None
        eye = torch.eye(len(self.factor), dtype=self.factor.dtype, device=self.factor.device)
        return torch.cholesky_solve(self.target_scale * eye, self.factor)

    def apply(self, concept: Tensor, target: Tensor | None = None) -> Tensor:
        """Derived rows ``[n, d]`` of concept rows ``[n, d]``, in their dtype."""
        columns = self.right @ concept.double().mT
        if self.target_scale is not None:
            if target is None:
                raise ValueError("the regularizer 'standard' derives from concept and target rows")
            columns = columns + self.target_scale * target.double().mT
        return torch.cholesky_solve(columns, self.factor).mT.to(concept.dtype)


@dataclass(frozen=True)
class DerivationInFactors:
    """The same for ``G = WᵀW`` with fewer outputs than inputs, over the outputs: nothing is ``[d, d]``.

    Every regularizer's minimiser is ``c' = s + Fᵀ(λI + κ FFᵀ)⁻¹(W c − F s)`` with the edited maps ``F = W M``, a start
    ``s`` (nothing, the target, or the concept itself) and ``κ`` 1, or ``1 + λ`` where the surrogate counts both items.
    """

    weights: Tensor
    """``W``, ``[o, d]``, float64."""
    edited: Tensor
    """``F``, ``[o, d]``."""
    factor: Tensor
    """Cholesky factor of ``λI + κ FFᵀ``, ``[o, o]``."""
    start: str | None = None
    """Whose row is ``s``: ``concept`` or ``target``."""

    def apply(self, concept: Tensor, target: Tensor | None = None) -> Tensor:
        """Derived rows ``[n, d]`` of concept rows ``[n, d]``, in their dtype."""
        rows = concept.double()
        if self.start is None:
            return (torch.cholesky_solve(self.weights @ rows.mT, self.factor).mT @ self.edited).to(concept.dtype)
        if self.start == "target" and target is None:
            raise ValueError("the regularizer 'standard' derives from concept and target rows")
        start = rows if self.start == "concept" or target is None else target.double()
        missing = self.weights @ rows.mT - self.edited @ start.mT
        return (start + torch.cholesky_solve(missing, self.factor).mT @ self.edited).to(concept.dtype)

    @cached_property
    def of_concept(self) -> Tensor:
        """``D``."""
        weights = self.weights - self.edited if self.start == "concept" else self.weights
        scale = 1.0 if self.start == "concept" else 0.0
        return Factored(self.edited.mT, torch.cholesky_solve(weights, self.factor), scale)

    @cached_property
    def of_target(self) -> Tensor | None:
        """``F``; ``None`` where the target does not count."""
        if self.start != "target":
            return None
        return Factored(-self.edited.mT, torch.cholesky_solve(self.edited, self.factor), 1.0)


AnyDerivation = DerivationMap | DerivationInFactors


@dataclass(frozen=True)
class Derivation:
    """The derivation's settings; its call maps every concept embedding to the one that brings the concept back.

    With ``A = MᵀGM`` and ``B = MᵀG``, minimises ``Σ_l ‖W_l M c' − W_l c‖²`` (RECE, arXiv 2407.12383) plus

    ========================== ======================= =====================================
    regularizer                penalty                 minimiser
    ========================== ======================= =====================================
    ``norm`` (the paper's)     ``λ‖c'‖²``              ``(λI + A)⁻¹ B c``
    ``standard``               ``λ‖c' − c*‖²``         ``(λI + A)⁻¹ (B c + λ c*)``
    ``surrogate``, ``first``   ``λ Σ‖W_t c' − W_t c‖²``  ``((1+λ)A)⁻¹ (B + λA) c``
    ``surrogate``, ``second``  ``λ‖c' − c‖²``          ``(λI + A)⁻¹ (λI + B) c``
    ``surrogate``, ``both``    both                    ``(λI + (1+λ)A)⁻¹ (λI + B + λA) c``
    ========================== ======================= =====================================

    Args:
        scale: λ > 0; a smaller one brings back more and lets the next edit change more.
        regularizer: ``norm`` (the paper's), ``standard`` or ``surrogate``.
        surrogate_items: which of the surrogate's two penalties count: ``first``, ``second``, ``both``.

    Raises:
        ConfigurationError: if λ is not positive, or a name is unknown.
    """

    scale: float = 0.1
    regularizer: str = "norm"
    surrogate_items: str = "both"

    def __post_init__(self) -> None:
        check_number("derivation.scale", self.scale, positive=True)
        check_choice("derivation.regularizer", self.regularizer, REGULARIZERS)
        check_choice("derivation.surrogate_items", self.surrogate_items, SURROGATE_ITEMS)

    def __call__(self, gram: Gram, maps: AnyMap) -> AnyDerivation:
        """Solve for an edited model.

        Args:
            gram: ``G`` of the original projections.
            maps: ``M`` so far.

        Raises:
            ConfigurationError: if the system is singular, as it becomes for ``surrogate`` with ``first`` once M has
                lost rank.
        """
        scale = self.scale
        remedy = "Take a larger derivation.scale (λ), or another derivation.regularizer than 'surrogate' with 'first'."
        if isinstance(gram.total, Factored):
            return self._in_factors(gram.total.right, maps, remedy)
        edited, cross = maps.grams(gram)
        if self.regularizer == "surrogate" and self.surrogate_items == "first":
            system, right = (1 + scale) * edited, cross + scale * edited
        elif self.regularizer == "surrogate" and self.surrogate_items == "second":
            system, right = add_ridge(edited, scale), add_ridge(cross, scale)
        elif self.regularizer == "surrogate":
            system = add_ridge((1 + scale) * edited, scale)
            right = add_ridge(cross + scale * edited, scale)
        else:
            system, right = add_ridge(edited, scale), cross
        factor = factor_positive_definite(system, what="derivation's system", remedy=remedy)
        return DerivationMap(factor, right, scale if self.regularizer == "standard" else None)

    def _in_factors(self, weights: Tensor, maps: AnyMap, remedy: str) -> DerivationInFactors:
        what = "derivation's system"
        surrogate = self.regularizer == "surrogate"
        if surrogate and self.surrogate_items == "first":  # it has no ridge, and G has fewer directions than d
            raise ConfigurationError(f"The {what} is singular. {remedy}")
        edited = weights @ stored(maps)
        products = edited @ edited.mT
        if surrogate and self.surrogate_items == "both":
            products *= 1 + self.scale
        factor = factor_positive_definite(add_ridge(products, self.scale), what=what, remedy=remedy)
        starts = {"norm": None, "standard": "target", "surrogate": "concept"}
        return DerivationInFactors(weights, edited, factor, starts[self.regularizer])
