"""The derivation: the embedding that makes the edited model answer as the original did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import check_choice, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, solve_positive_definite

REGULARIZERS = ("norm", "standard", "surrogate")
SURROGATE_ITEMS = ("first", "second", "both")


@dataclass(frozen=True)
class Derivation:
    """``c' = D c + F c*`` for every concept row ``c`` with its target row ``c*``."""

    of_concept: Tensor
    """``D``, ``[d, d]``, float64."""
    of_target: Tensor | None = None
    """``F``, ``[d, d]``; only the regularizer ``standard`` looks at the target."""

    def apply(self, concept: Tensor, target: Tensor | None = None) -> Tensor:
        """Derived rows ``[..., d]`` of concept rows ``[..., d]``, in their dtype."""
        derived = concept.double() @ self.of_concept.mT
        if self.of_target is not None:
            if target is None:
                raise ValueError("the regularizer 'standard' derives from concept and target rows")
            derived = derived + target.double() @ self.of_target.mT
        return derived.to(concept.dtype)


def derive(
    gram: Gram,
    maps: AnyMap,
    regular_scale: float,
    *,
    regularizer: str = "norm",
    surrogate_items: str = "both",
) -> Derivation:
    """Map every concept embedding to the one that brings the concept back (RECE, arXiv 2407.12383).

    With ``A = MᵀGM`` and ``B = MᵀG``, minimises ``Σ_l ‖W_l M c' − W_l c‖²`` plus

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
        gram: ``G`` of the original projections.
        maps: ``M`` so far.
        regular_scale: λ > 0; a smaller one brings back more and lets the next edit change more.
        regularizer: ``norm``, ``standard`` or ``surrogate``.
        surrogate_items: which of the surrogate's two penalties count.

    Returns:
        ``D`` (and ``F``); the derived embedding of a row ``c`` is ``c @ D.T``.

    Raises:
        ConfigurationError: if λ is not positive, a name is unknown, or the system is singular, as it
            becomes for ``surrogate`` with ``first`` once M has lost rank.
    """
    check_number("regular_scale", regular_scale, positive=True)
    check_choice("regularizer", regularizer, REGULARIZERS)
    check_choice("surrogate_items", surrogate_items, SURROGATE_ITEMS)
    edited, cross = maps.edited_gram(gram), maps.cross_gram(gram)
    if regularizer == "surrogate" and surrogate_items == "first":
        system, right = (1 + regular_scale) * edited, cross + regular_scale * edited
    elif regularizer == "surrogate" and surrogate_items == "second":
        system, right = add_ridge(edited, regular_scale), add_ridge(cross, regular_scale)
    elif regularizer == "surrogate":
        system = add_ridge((1 + regular_scale) * edited, regular_scale)
        right = add_ridge(cross + regular_scale * edited, regular_scale)
    else:
        system, right = add_ridge(edited, regular_scale), cross
    remedy = "Take a larger model.regular_scale (λ), or another model.regularizer than 'surrogate' with 'first'."
    eye = torch.eye(gram.width, dtype=torch.float64, device=gram.total.device)
    with_target = regularizer == "standard"
    columns = torch.cat([right, regular_scale * eye], dim=1) if with_target else right
    solution = solve_positive_definite(system, columns, what="derivation's system", remedy=remedy)
    if with_target:
        return Derivation(solution[:, : gram.width].clone(), solution[:, gram.width :].clone())
    return Derivation(solution)
