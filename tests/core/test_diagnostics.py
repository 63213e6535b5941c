"""Every figure equals the sum over rows and layers that it stands for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import UCE, Derivation, EmbeddingMap, Eraser, Gram, LayerMaps, Moments
from rece_lightning.core.diagnostics import (
    edit_objectives,
    map_figures,
    mapped_residual,
    norm_ratio,
    objective,
    preservation_drift,
    regeneration_residual,
    remaining_answer,
    trace_product,
)
from rece_lightning.core.editors.uce import edit
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import (
    Problem,
    core_maps,
    core_weights,
    edited_maps,
    erasure_problems,
    method_of,
    random_problem,
    random_rows,
)

CLOSE = {"rel": 1e-9, "abs": 1e-11}


def squares(value: Tensor) -> float:
    return float(value.square().sum())


def weighted_rows(problem: Problem) -> list[tuple[Tensor, Tensor, float]]:
    return list(zip(problem.rows, problem.target_rows, problem.row_weights, strict=True))


def original_answers(problem: Problem) -> float:
    """``Σ w ‖W_0 c‖²`` over rows and layers."""
    return sum(weight * squares(layer @ row) for row, _, weight in weighted_rows(problem) for layer in problem.weights)


def plain_residual(problem: Problem, present: list[Tensor], ridge: float) -> float:
    """The attacker's best for each row by least squares on the stacked layers and √λ_a I: no normal equations."""
    width = problem.width
    stacked = torch.cat([*present, ridge**0.5 * torch.eye(width, dtype=torch.float64)])
    least = 0.0
    for row, _, weight in weighted_rows(problem):
        wanted = torch.cat([layer @ row for layer in problem.weights] + [torch.zeros(width, dtype=torch.float64)])
        attack = torch.linalg.lstsq(stacked, wanted[:, None], driver="gelsd").solution[:, 0]
        least += weight * squares(stacked @ attack - wanted)
    return least / original_answers(problem)


@given(problem=erasure_problems(), ridge=st.sampled_from([None, 1e-3, 0.1, 10.0]))
def test_regeneration_residual_is_the_best_attack_row_by_row(problem: Problem, ridge: float | None) -> None:
    """By default with a thousandth of ``tr(G)/d`` as the attacker's ridge."""
    used = ridge
    if used is None:
        used = 1e-3 * sum(squares(weight) for weight in problem.weights) / problem.width
    for maps in edited_maps(problem):
        found = regeneration_residual(problem.gram, maps, problem.moments.erased, ridge)
        assert found == pytest.approx(plain_residual(problem, core_weights(problem, maps), used), rel=1e-7, abs=1e-10)


def test_regeneration_residual_of_a_model_that_answers_nothing_is_1() -> None:
    problem = random_problem(1)
    nothing = EmbeddingMap(torch.zeros(problem.width, problem.width, dtype=torch.float64))
    assert regeneration_residual(problem.gram, nothing, problem.moments.erased) == 1


def test_an_attackers_system_that_is_singular_to_rounding_leaves_the_figure_out() -> None:
    """A figure that cannot be had stops no erasure: NaN, and one warning that says what to do."""
    problem = random_problem(1)
    lost = torch.eye(problem.width, dtype=torch.float64)
    lost[0, 0], lost[1, 1] = 0.0, 1e9
    with pytest.warns(UserWarning, match=r"No regeneration residual: The attacker's system is singular.*larger lamb"):
        found = regeneration_residual(problem.gram, EmbeddingMap(lost), problem.moments.erased, 1e-12)
    assert math.isnan(found)
    # A mistake of the user's is still one.
    with pytest.raises(ConfigurationError, match="attacker_scale"):
        regeneration_residual(problem.gram, EmbeddingMap(lost), problem.moments.erased, 0.0)


@given(problem=erasure_problems())
def test_mapped_residual_is_the_distance_of_concept_and_target_outputs(problem: Problem) -> None:
    expected = sum(
        weight * squares(layer @ row - layer @ target)
        for row, target, weight in weighted_rows(problem)
        for layer in problem.weights
    ) / original_answers(problem)
    assert mapped_residual(problem.gram, problem.moments) == pytest.approx(expected, **CLOSE)


@given(problem=erasure_problems(), seed=st.integers(0, 1000))
def test_preservation_drift_is_how_far_held_out_outputs_moved(problem: Problem, seed: int) -> None:
    held_out = random_rows(5, problem.width, "common", torch.Generator().manual_seed(seed))
    before = sum(squares(layer @ row) for layer in problem.weights for row in held_out)
    for maps in edited_maps(problem):
        present = core_weights(problem, maps)
        layers = list(zip(problem.weights, present, strict=True))
        moved = sum(squares(now @ row - layer @ row) for layer, now in layers for row in held_out)
        found = preservation_drift(problem.gram, maps, Moments.preserving(held_out).preserved)
        assert found == pytest.approx(moved / before, **CLOSE)


def plain_objective(problem: Problem, present: list[Tensor], edited: list[Tensor]) -> float:
    """UCE's objective summed over layers; ``present`` are the weights before this edit."""
    scales, total = problem.scales, 0.0
    for old, new in zip(present, edited, strict=True):
        for row, target, weight in weighted_rows(problem):
            total += scales.erase_scale * weight * squares(new @ row - old @ target)
        total += scales.preserve_scale * sum(squares(new @ row - old @ row) for row in problem.preserved)
        total += scales.lamb * squares(new - old)
    return total


@given(problem=erasure_problems(), epochs=st.integers(0, 2))
def test_objective_before_and_after_is_the_sum_over_rows_and_layers(problem: Problem, epochs: int) -> None:
    maps = core_maps(problem, epochs)
    assert isinstance(maps, EmbeddingMap)
    step = edit(problem.moments, problem.scales)
    present, edited = core_weights(problem, maps), core_weights(problem, maps @ step)
    gram, eye = maps.edited_gram(problem.gram), EmbeddingMap.identity(problem.width).matrix
    before = objective(gram, EmbeddingMap(eye), problem.moments, problem.scales)
    after = objective(gram, step, problem.moments, problem.scales)
    # What is left after an edit is a difference of terms of the size of those before it.
    size = 1e-11 * sum(squares(weight) for weight in present) * float(problem.moments.target.trace() + 1)
    assert before == pytest.approx(plain_objective(problem, present, present), rel=1e-9, abs=size)
    assert after == pytest.approx(plain_objective(problem, present, edited), rel=1e-9, abs=size)
    assert after <= before + size


def test_objectives_of_an_epoch_are_those_of_its_weights_before_and_after() -> None:
    """From the eraser's record, in a later epoch: the rows are the derived ones."""
    problem = random_problem(6)
    eraser = Eraser(method_of(problem), problem.evidence, problem.gram).run(2)
    record = eraser.step()
    assert record.derivation is not None
    pairs = [replace(pair, rows=record.derivation.apply(pair.rows)) for pair in problem.pairs]
    derived = problem.with_pairs(pairs)
    present, edited = core_weights(problem, record.before), core_weights(problem, eraser.maps)
    assert record.editor == problem.scales
    before, after = edit_objectives(problem.gram, record.before, record.step, record.moments, problem.scales)
    assert before == pytest.approx(plain_objective(derived, present, present), rel=1e-9)
    assert after == pytest.approx(plain_objective(derived, present, edited), rel=1e-9)
    assert after < 0.9 * before


@given(problem=erasure_problems())
def test_norm_ratio_is_that_of_all_rows(problem: Problem) -> None:
    derivation = Derivation(problem.derivation_scale)(problem.gram, core_maps(problem, 1))
    derived = problem.moments.derived(derivation)
    rows = derivation.apply(problem.rows)
    plain = [weight * squares(row) for row, weight in zip(rows, problem.row_weights, strict=True)]
    before = [weight * squares(row) for row, _, weight in weighted_rows(problem)]
    assert norm_ratio(derived.erased, problem.moments.erased) == pytest.approx(math.sqrt(sum(plain) / sum(before)))


def test_trace_product_is_the_trace_of_the_product() -> None:
    left, right = random_problem(1).weights[1], random_problem(2).weights[1]
    assert trace_product(left, right) == pytest.approx(float((left @ right).trace()), rel=1e-12)
    assert trace_product(left, right) != pytest.approx(float((left @ right.mT).trace()), rel=1e-3)


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-8])
def test_map_figures_count_the_directions_that_a_map_changes(rank: int, size: float) -> None:
    """However small the change is beside the identity."""
    generator = torch.Generator().manual_seed(rank)
    left, right = (random_rows(rank, 8, "independent", generator) for _ in range(2))
    change = size * left.mT @ right
    eye = torch.eye(8, dtype=torch.float64)
    figures = map_figures(EmbeddingMap(eye + change))
    assert figures.rank == rank
    assert figures.change_norm == pytest.approx(math.sqrt(squares(change)), rel=1e-6)
    assert figures.condition == pytest.approx(float(torch.linalg.cond(eye + change)), rel=1e-9)


def test_map_figures_of_one_map_a_layer_are_the_largest_and_the_mean_square() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    one, other = torch.diag(torch.tensor([3.0, 1, 1, 1]).double()), torch.diag(torch.tensor([1, 0.5, 0.25, 1]).double())
    figures = map_figures(LayerMaps(torch.stack([one, other, eye])))
    assert figures.rank == 2
    assert figures.condition == pytest.approx(4.0)
    assert figures.change_norm == pytest.approx(math.sqrt((4.0 + 0.25 + 0.5625) / 3))


def test_map_figures_of_a_singular_map_have_an_infinite_condition() -> None:
    figures = map_figures(EmbeddingMap(torch.diag(torch.tensor([0.0, 1, 1]).double())))
    assert (figures.rank, figures.condition) == (1, math.inf)


def test_an_edit_changes_no_more_directions_than_it_erases_rows() -> None:
    """``E − I = η (X − S) A⁻¹``, so UCE's rank is that of the concepts' rows."""
    for seed in range(10):
        problem = random_problem(seed, width=16, tokens=(2, 3), preserved=4, scales=UCE(1.0, 0.1, 0.5))
        assert map_figures(edit(problem.moments, problem.scales)).rank == 5


@pytest.mark.parametrize("epochs", [1, 3])
def test_figures_of_a_map_in_factors_are_those_of_the_map(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of an epoch, and no decomposition of the whole of ``M``."""
    problem = random_problem(3, width=32, tokens=(2, 1), preserved=4, scales=UCE(1.0, 0.1, 0.5))
    evidence = replace(problem.evidence, first_rows=problem.row_pairs, whole_rows=problem.row_pairs)
    eraser = Eraser(method_of(problem), evidence, problem.gram)
    for _ in range(epochs):
        record = eraser.step()
    assert isinstance(eraser.maps, EmbeddingMap)
    assert eraser.maps.factors is not None

    found = eraser.measure(record)

    monkeypatch.setattr(EmbeddingMap, "in_factors", lambda maps: maps)
    formed = eraser.measure(record)
    assert found.keys() == formed.keys()
    for name, value in formed.items():
        assert found[name] == pytest.approx(value, rel=1e-8, abs=1e-10), name


def test_figures_of_layer_maps_need_the_gram_of_every_layer() -> None:
    problem = random_problem(1)
    maps = LayerMaps.identity(len(problem.weights), problem.width)
    summed = Gram(problem.gram.total)
    for ask in (maps.edited_gram, maps.cross_gram, maps.change_gram):
        with pytest.raises(ValueError, match="keep_layers=True"):
            ask(summed)


# What remains of a concept under its own words: against the sum over layers and rows, and at its fixed points.


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


WEIGHTS = [("a", drawn(7, 5, seed=1)), ("b", drawn(4, 5, seed=2))]
CONCEPTS, TARGETS = drawn(6, 5, seed=3), drawn(6, 5, seed=4)
MOMENTS = Moments.of(CONCEPTS, TARGETS)
GRAM = Gram.of(WEIGHTS, keep_layers=True)


def plain_remaining(maps: list[torch.Tensor]) -> float:
    """Layer by layer, row by row."""
    left = size = 0.0
    for (_, weight), matrix in zip(WEIGHTS, maps, strict=True):
        for concept, target in zip(CONCEPTS, TARGETS, strict=True):
            way = weight @ (concept - target)
            left += float((weight @ matrix @ concept - weight @ target) @ way)
            size += float(way @ way)
    return left / size


def test_remaining_answer_is_the_sum_over_layers_and_rows() -> None:
    one, other = drawn(5, 5, seed=5), drawn(5, 5, seed=6)
    torch.testing.assert_close(remaining_answer(GRAM, EmbeddingMap(one), MOMENTS), plain_remaining([one, one]))
    layers = LayerMaps(torch.stack([one, other]))
    torch.testing.assert_close(remaining_answer(GRAM, layers, MOMENTS), plain_remaining([one, other]))


def test_remaining_answer_is_one_unedited_and_zero_at_the_target() -> None:
    assert abs(remaining_answer(GRAM, EmbeddingMap.identity(5), MOMENTS) - 1) < 1e-12
    few = Moments.of(CONCEPTS[:4], TARGETS[:4])
    onto = TARGETS[:4].mT @ torch.linalg.pinv(CONCEPTS[:4].mT)  # every concept row to its target row
    assert abs(remaining_answer(GRAM, EmbeddingMap(onto), few)) < 1e-12


def test_a_concept_that_is_its_own_target_has_nothing_to_erase() -> None:
    assert remaining_answer(GRAM, EmbeddingMap.identity(5), Moments.of(CONCEPTS, CONCEPTS)) == 0.0
