"""What can be said of an edit without an image: objective, residual, drift, norms."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.editors.uce import UCE
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, stored
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.factored import Factored, answer_energy, trace_product
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, factor_positive_definite, solve_positive_definite
from rece_lightning.core.moments import Moments

ATTACKER_SHARE = 1e-3
"""The attacker's ridge as a share of ``tr(G)/d``: a fixed setting of the measurement, not the defender's λ."""

RANK_TOLERANCE = 1e-12
"""Singular values of ``M − I`` below this share of the largest of ``M`` or ``M − I`` are rounding."""


def objective(present_gram: Tensor, step: EmbeddingMap, moments: Moments, scales: UCE) -> float:
    """UCE's objective at ``W E`` summed over layers, for ``step`` E and ``present_gram`` ``Σ WᵀW``."""
    change = step.change
    # Each term is a trace of products: one factor is formed, the trace is a sum of products of entries.
    outputs = present_gram @ step.matrix
    erased = trace_product(outputs.mT, step.matrix @ moments.erased) - 2 * trace_product(outputs.mT, moments.cross)
    erased += trace_product(present_gram, moments.target)
    moved = outputs - present_gram
    preserved = scales.preserve_scale * trace_product(moved.mT, change @ moments.preserved)
    return scales.erase_scale * erased + (preserved + scales.lamb * trace_product(moved.mT, change))


def objective_unedited(present_gram: Tensor, moments: Moments, scales: UCE) -> float:
    """UCE's objective at ``E = I``: what is preserved has not moved."""
    return scales.erase_scale * trace_product(present_gram, moments.difference)


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
    if isinstance(gram.total, Factored):
        return _residual_in_factors(gram.total, maps, erased, ridge)
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


def _residual_in_factors(gram: Factored, maps: AnyMap, erased: Tensor, ridge: float) -> float:
    """The same over the outputs: ``λ Σ (W c)ᵀ(λI + FFᵀ)⁻¹ W c / Σ‖W c‖²`` with the edited maps ``F = W M``."""
    weights, edited = gram.right, gram.right @ stored(maps)
    factor = factor_positive_definite(add_ridge(edited @ edited.mT, ridge), what="attacker's system")
    if not isinstance(erased, Factored):
        answers = weights @ erased @ weights.mT
        return float(ridge * torch.cholesky_solve(answers, factor).trace() / answers.trace())
    answers = weights @ erased.left
    missed = ridge * (answers * torch.cholesky_solve(answers, factor)).sum()
    return float(missed / answers.square().sum())


def mapped_residual(gram: Gram, moments: Moments) -> float:
    """The residual of a concept mapped wholly onto its target and read with its own embedding."""
    return trace_product(gram.total, moments.difference) / trace_product(gram.total, moments.erased)


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
    if isinstance(maps, EmbeddingMap) and isinstance(maps.matrix, Factored):
        return _figures_in_factors(maps.matrix)
    matrices = maps.matrix[None] if isinstance(maps, EmbeddingMap) else maps.matrices
    change = maps.change[None] if isinstance(maps, EmbeddingMap) else maps.change
    changes = torch.linalg.svdvals(change)
    values = torch.linalg.svdvals(matrices)
    # M carries its own rounding into M − I, however small the difference is.
    tolerance = RANK_TOLERANCE * torch.maximum(changes.amax(dim=1, keepdim=True), values.amax(dim=1, keepdim=True))
    rank = int((changes > tolerance).sum(dim=1).max())
    condition = float((values[:, 0] / values[:, -1]).max())
    return MapFigures(float(changes.square().sum(dim=1).mean().sqrt()), rank, condition)


def _figures_in_factors(matrix: Factored) -> MapFigures:
    """The same of ``I + L R``: what happens happens within the span of ``L`` and ``Rᵀ``, elsewhere ``M`` is ``I``."""
    span = torch.linalg.qr(torch.cat([matrix.left, matrix.right.mT], dim=1))[0]
    change = (span.mT @ matrix.left) @ (matrix.right @ span)
    within = change.clone()
    within.diagonal().add_(1.0)
    changes, values = torch.linalg.svdvals(change), torch.linalg.svdvals(within)
    if span.shape[1] < len(span):
        values = torch.cat([values, values.new_ones(1)])
    if not len(values):
        return MapFigures(0.0, 0, 1.0)
    largest = torch.cat([changes, values]).max()
    rank = int((changes > RANK_TOLERANCE * largest).sum())
    return MapFigures(float(changes.square().sum().sqrt()), rank, float(values.max() / values.min()))


def edit_objectives(gram: Gram, before: AnyMap, step: AnyMap, moments: Moments, scales: UCE) -> tuple[float, float]:
    """The objective before and after an edit, summed over layers that share one map."""
    if isinstance(gram.total, Factored) and isinstance(moments.erased, Factored):
        return _objectives_in_factors(gram.total.right @ stored(before), stored(step), moments, scales)
    assert isinstance(step, EmbeddingMap)
    present = before.in_factors().edited_gram(gram)
    return objective_unedited(present, moments, scales), objective(present, step.in_factors(), moments, scales)


def _objectives_in_factors(present: Tensor, step: Tensor, moments: Moments, scales: UCE) -> tuple[float, float]:
    """The same from rows: ``present`` is ``W_t``, ``[o, d]``, and what of the moments counts are rows."""
    erased, cross, preserved = moments.erased, moments.cross, moments.preserved
    assert isinstance(step, Factored)
    assert isinstance(erased, Factored)
    assert isinstance(cross, Factored)
    assert isinstance(preserved, Factored)
    gram, rows, target = Factored.of_rows(present), erased.right, cross.left.mT
    before = scales.erase_scale * answer_energy(gram, rows - target)
    left, right = present @ step.left, step.right
    after = scales.erase_scale * answer_energy(gram, rows @ step.mT - target)
    after += scales.preserve_scale * float(((preserved.right @ right.mT) @ left.mT).square().sum())
    return before, after + scales.lamb * float(((left.mT @ left) * (right @ right.mT)).sum())


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
    difference = moments.difference
    size = trace_product(gram.total, difference)
    answered = trace_product(cross, moments.erased - moments.cross)
    return (answered - trace_product(gram.total, moments.cross - moments.target)) / size if size > 0 else 0.0
