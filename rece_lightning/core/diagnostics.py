"""What can be said of an edit without an image: objective, residual, drift, norms."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.editors.uce import UCE
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, solve_positive_definite
from rece_lightning.core.moments import Moments

ATTACKER_SHARE = 1e-3
"""The attacker's ridge as a share of ``tr(G)/d``: a fixed setting of the measurement, not the defender's λ."""

RANK_TOLERANCE = 1e-12
"""Singular values of ``M − I`` below this share of the largest of ``M`` or ``M − I`` are rounding."""


def trace_product(left: Tensor, right: Tensor) -> float:
    """``tr(A B)`` without forming the product."""
    return float((left * right.mT).sum())


def objective(present_gram: Tensor, step: Tensor, moments: Moments, scales: UCE) -> float:
    """UCE's objective at ``W E`` summed over layers, for ``step`` E and ``present_gram`` ``Σ WᵀW``."""
    eye = torch.eye(len(step), dtype=step.dtype, device=step.device)
    change = step - eye
    # Each term is a trace of products: one factor is formed, the trace is a sum of products of entries.
    outputs = present_gram @ step
    erased = (outputs * (step @ moments.erased)).sum() - 2 * (outputs * moments.cross).sum()
    erased = erased + (present_gram * moments.target).sum()
    moved = outputs - present_gram
    preserved = scales.preserve_scale * (moved * (change @ moments.preserved)).sum()
    return float(scales.erase_scale * erased + (preserved + scales.lamb * (moved * change).sum()))


def objective_unedited(present_gram: Tensor, moments: Moments, scales: UCE) -> float:
    """UCE's objective at ``E = I``: what is preserved has not moved."""
    difference = moments.erased - moments.cross - moments.cross.mT + moments.target
    return scales.erase_scale * trace_product(present_gram, difference)


def regeneration_residual(gram: Gram, maps: AnyMap, erased: Tensor, attacker_scale: float | None = None) -> float:
    """How far the best attacking embedding stays from the original keys and values.

    ``min_{c'} (Σ‖W_t c' − W_0 c‖² + λ_a‖c'‖²) / Σ‖W_0 c‖² = 1 − tr(BᵀA⁻¹B S)/tr(G S)`` with
    ``A = λ_a I + MᵀGM`` and ``B = MᵀG``.

    Args:
        gram: ``G``.
        maps: ``M``.
        erased: ``S`` of the concepts' own embeddings, ``[d, d]``.
        attacker_scale: λ_a > 0; default ``1e-3 · tr(G)/d``.

    Returns:
        A share between 0 (comes back for the asking) and 1. Read it beside its value at ``M = I``. NaN, with a
        warning, where the attacker's system is singular to rounding: a figure that cannot be had stops no erasure.

    Raises:
        ConfigurationError: if λ_a is not positive.
    """
    ridge = ATTACKER_SHARE * gram.scale if attacker_scale is None else attacker_scale
    check_number("attacker_scale", ridge, positive=True)
    edited, cross = maps.grams(gram)
    try:
        answer = solve_positive_definite(add_ridge(edited, ridge), cross, what="attacker's system")
    except ConfigurationError as error:
        warnings.warn(
            f"No regeneration residual: {error} Some directions of the edited model are so much stronger than others "
            "that float64 cannot tell what an attacker regains (map_condition); a larger lamb (λ₂) keeps the "
            "edit smaller, a larger model.attacker_scale asks less of the figure.",
            stacklevel=2,
        )
        return math.nan
    return 1.0 - trace_product(cross.mT @ answer, erased) / trace_product(gram.total, erased)


def mapped_residual(gram: Gram, moments: Moments) -> float:
    """The residual of a concept mapped wholly onto its target and read with its own embedding."""
    difference = moments.erased - moments.cross - moments.cross.mT + moments.target
    return trace_product(gram.total, difference) / trace_product(gram.total, moments.erased)


def preservation_drift(gram: Gram, maps: AnyMap, held_out: Tensor) -> float:
    """``tr((M−I)ᵀG(M−I) P_h)/tr(G P_h)``: how far unrelated keys and values moved.

    Args:
        gram: ``G``.
        maps: ``M``.
        held_out: ``P_h`` of held-out prompts, ``[d, d]``.
    """
    return trace_product(maps.change_gram(gram), held_out) / trace_product(gram.total, held_out)


def norm_ratio(derived: Tensor, erased: Tensor) -> float:
    """``‖c'‖/‖c‖`` over all rows, from their moments ``S'`` and ``S``."""
    return float((derived.trace() / erased.trace()).clamp(min=0).sqrt())


@dataclass(frozen=True)
class MapFigures:
    """How far a map is from the identity, and how well it can be undone."""

    change_norm: float
    """``‖M − I‖`` (Frobenius); root mean square over layers where every layer has its map."""
    rank: int
    """Numerical rank of ``M − I``; the largest over layers."""
    condition: float
    """Condition number of ``M``; the largest over layers. Infinite where M is singular."""


def map_figures(maps: AnyMap) -> MapFigures:
    """Size, rank and condition number of a map, from its singular values."""
    matrices = maps.matrix[None] if isinstance(maps, EmbeddingMap) else maps.matrices
    change = maps.change[None] if isinstance(maps, EmbeddingMap) else maps.change
    changes = torch.linalg.svdvals(change)
    values = torch.linalg.svdvals(matrices)
    # M carries its own rounding into M − I, however small the difference is.
    tolerance = RANK_TOLERANCE * torch.maximum(changes.amax(dim=1, keepdim=True), values.amax(dim=1, keepdim=True))
    rank = int((changes > tolerance).sum(dim=1).max())
    condition = float((values[:, 0] / values[:, -1]).max())
    return MapFigures(float(changes.square().sum(dim=1).mean().sqrt()), rank, condition)


def edit_objectives(gram: Gram, before: AnyMap, step: AnyMap, moments: Moments, scales: UCE) -> tuple[float, float]:
    """The objective before and after an edit, summed over layers that share one map."""
    present = before.edited_gram(gram)
    return objective_unedited(present, moments, scales), objective(present, step.of_layer(0), moments, scales)


def remaining_answer(gram: Gram, maps: AnyMap, moments: Moments) -> float:
    """Share of the way from the target back to the concept that the edited model answers with.

    ``Σ⟨W M c − W c*, W c − W c*⟩ / Σ‖W c − W c*‖²`` over concept rows ``c`` with target rows ``c*`` and layers: the
    component of the answer along the difference that was to be erased. The regeneration residual asks for the best
    embedding; this asks for the concept's own.

    Args:
        gram: ``G``.
        maps: ``M``.
        moments: of the concepts and their targets.

    Returns:
        1 for the unedited model, 0 for a concept mapped wholly onto its target, negative beyond it. 0 where concept and
        target are answered alike: there is nothing to erase.
    """
    cross = maps.cross_gram(gram)
    difference = moments.erased - moments.cross - moments.cross.mT + moments.target
    size = trace_product(gram.total, difference)
    answered = trace_product(cross, moments.erased - moments.cross)
    return (answered - trace_product(gram.total, moments.cross - moments.target)) / size if size > 0 else 0.0
