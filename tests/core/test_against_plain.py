"""The map, applied to every layer, equals the papers' formulas written out layer by layer and row by row."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.core import UCE, Derivation, Eraser, TensorUCE
from rece_lightning.core.editors.tensor import edit_tensor
from rece_lightning.core.editors.uce import edit
from rece_lightning.core.embedding_map import AnyMap
from tests.helpers.plain import Erased, plain_derive, plain_edit, plain_rece
from tests.helpers.problems import (
    Problem,
    core_maps,
    core_weights,
    edited_maps,
    erasure_problems,
    method_of,
    random_problem,
    relative,
    tensor_problems,
)

REGULARIZERS = [
    ("norm", "both"),
    ("standard", "both"),
    ("surrogate", "second"),
    ("surrogate", "both"),
]
SHAPES = {
    "fewer tokens than width": {"width": 16, "tokens": (3, 2)},
    "more tokens than width": {"width": 4, "tokens": (5, 6, 3)},
    "nothing preserved": {"width": 8, "preserved": 0},
    "much preserved": {"width": 8, "preserved": 30},
    "one concept, one token, one layer": {"width": 6, "tokens": (1,), "outs": (9,)},
    "layers narrower than the embedding": {"width": 24, "outs": (3, 5)},
    "layers of rank 1 and of any size": {"width": 8, "layers": ("low_rank", "scaled", "full")},
    "embeddings with a large common part": {"width": 8, "rows": "common"},
    "repeated rows": {"width": 8, "rows": "repeated", "tokens": (6, 4)},
}
TOLERANCE = 1e-9
TENSOR_TOLERANCE = 1e-8
"""Of problems drawn at random: α is as large as the old output is small."""


def plain(problem: Problem, epochs: int, **settings: object) -> list[torch.Tensor]:
    return plain_rece(
        problem.weights,
        problem.pairs,
        problem.preserved,
        epochs,
        regular_scale=problem.derivation_scale,
        **{**asdict(problem.scales), **settings},  # type: ignore[arg-type]
    )


def assert_same_weights(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    for layer, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == torch.float64
        assert relative(one, other) < tolerance, f"layer {layer}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("technique", ["replace", "tensor"])
@pytest.mark.parametrize(("regularizer", "items"), REGULARIZERS)
def test_rece_equals_the_formulas_layer_by_layer(shape: str, technique: str, regularizer: str, items: str) -> None:
    """After UCE and after each of three RECE epochs, for every shape, technique and regularizer."""
    problem = random_problem(len(shape), **SHAPES[shape])  # type: ignore[arg-type]
    settings = {"regularizer": regularizer, "surrogate_items": items, "technique": technique}
    for epochs in (1, 2, 3, 4):
        found = core_weights(problem, core_maps(problem, epochs, **settings))  # type: ignore[arg-type]
        assert_same_weights(found, plain(problem, epochs, **settings))


@pytest.mark.parametrize("technique", ["replace", "tensor"])
def test_surrogate_first_equals_the_formulas_after_one_derivation(technique: str) -> None:
    """It has no ridge: where every direction is seen by some layer, one derivation still has its digits."""
    problem = random_problem(3, width=6, tokens=(2, 1))
    settings = {"regularizer": "surrogate", "surrogate_items": "first", "technique": technique}
    found = core_weights(problem, core_maps(problem, 2, **settings))  # type: ignore[arg-type]
    assert_same_weights(found, plain(problem, 2, **settings), tolerance=1e-7)


@pytest.mark.parametrize("technique", ["replace", "tensor"])
@pytest.mark.parametrize("regularizer", ["norm", "standard"])
def test_accumulated_epochs_equal_the_formulas(technique: str, regularizer: str) -> None:
    """Every edit also holds the rows of the epochs before, epoch 0's selected rows included."""
    problem = random_problem(11, width=7, tokens=(4, 3), preserved=5)
    settings = {"regularizer": regularizer, "technique": technique, "accumulate": True}
    for epochs in (1, 2, 3, 4):
        found = core_weights(problem, core_maps(problem, epochs, **settings))  # type: ignore[arg-type]
        assert_same_weights(found, plain(problem, epochs, **settings))
    published = core_weights(problem, core_maps(problem, 4, regularizer=regularizer, technique=technique))
    assert relative(found[0], published[0]) > 1e-3, "the setting makes no difference here: a test of nothing"


def test_a_layer_that_answers_nothing_stays_so_under_tensor() -> None:
    """All-zero projections occur (zero-initialised adapters): no NaN, and the other layers are edited as ever."""
    problem = random_problem(1)
    problem.weights[1].zero_()
    maps = core_maps(problem, 3, technique="tensor")
    found = core_weights(problem, maps)
    assert all(torch.isfinite(maps.of_layer(layer)).all() for layer in range(3))
    assert torch.equal(found[1], torch.zeros_like(found[1]))
    expected = plain(problem, 3, technique="tensor")
    assert_same_weights([found[0], found[2]], [expected[0], expected[2]])


@pytest.mark.parametrize("technique", ["replace", "tensor"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_the_erasers_record_says_what_each_epoch_did(technique: str, accumulate: bool) -> None:
    """Its maps compose, and its moments are those of the rows that the edit was made from."""
    problem = random_problem(9)
    first = UCE(1.0, 1.0, 0.5)
    if technique == "tensor":
        first = TensorUCE(1.0, 1.0, 0.5)
    method = method_of(problem, first_editor=first, technique=technique, accumulate=accumulate)
    eraser = Eraser(method, problem.evidence, problem.gram)
    erased = torch.zeros_like(problem.moments.erased)
    for epoch in range(3):
        record = eraser.step()
        assert eraser.epoch == epoch + 1
        assert (record.derivation is None) == (epoch == 0)
        assert record.editor == (first if epoch == 0 else method.editor)
        now = problem.first_moments if record.derivation is None else problem.moments.derived(record.derivation)
        erased = now.erased + (erased if accumulate else 0)
        assert relative(record.moments.erased, erased) < 1e-12
        assert relative(record.moments.preserved, problem.preserving.preserved) < 1e-12
        for layer in range(len(problem.weights)):
            composed = record.before.of_layer(layer) @ record.step.of_layer(layer)
            assert relative(eraser.maps.of_layer(layer), composed) < 1e-14


def test_the_first_editor_holds_for_epoch_0_alone() -> None:
    problem = random_problem(5)
    first = UCE(erase_scale=problem.scales.erase_scale, preserve_scale=1.0, lamb=0.5)
    for epochs in (1, 3):
        found = core_weights(problem, core_maps(problem, epochs, first_editor=first))
        assert_same_weights(found, plain(problem, epochs, first_edit={"preserve_scale": 1.0, "lamb": 0.5}))


@given(
    problem=erasure_problems(),
    epochs=st.integers(0, 4),
    regularizer=st.sampled_from(REGULARIZERS),
    accumulate=st.booleans(),
)
def test_rece_equals_the_formulas_for_any_problem(
    problem: Problem, epochs: int, regularizer: tuple[str, str], accumulate: bool
) -> None:
    settings = {"regularizer": regularizer[0], "surrogate_items": regularizer[1], "accumulate": accumulate}
    found = core_weights(problem, core_maps(problem, epochs, **settings))  # type: ignore[arg-type]
    assert_same_weights(found, plain(problem, epochs, **settings))


@given(
    problem=tensor_problems(),
    epochs=st.integers(0, 3),
    regularizer=st.sampled_from(REGULARIZERS),
    accumulate=st.booleans(),
)
def test_tensor_equals_the_formulas_for_any_problem(
    problem: Problem, epochs: int, regularizer: tuple[str, str], accumulate: bool
) -> None:
    settings = {
        "regularizer": regularizer[0],
        "surrogate_items": regularizer[1],
        "technique": "tensor",
        "accumulate": accumulate,
    }
    found = core_weights(problem, core_maps(problem, epochs, **settings))  # type: ignore[arg-type]
    assert_same_weights(found, plain(problem, epochs, **settings), TENSOR_TOLERANCE)


@given(problem=erasure_problems())
def test_one_edit_equals_uce_layer_by_layer(problem: Problem) -> None:
    """Without the loop around it: of the original weights and of weights that were edited before."""
    erased = [Erased(pair.rows, pair.target_rows, pair.weight) for pair in problem.pairs]
    for maps in edited_maps(problem)[:3]:
        present = core_weights(problem, maps)
        found = core_weights(problem, maps @ edit(problem.moments, problem.scales))  # type: ignore[operator]
        expected = [plain_edit(weight, erased, problem.preserved, **asdict(problem.scales)) for weight in present]
        assert_same_weights(found, expected)


@given(problem=tensor_problems())
def test_one_tensor_edit_equals_uce_layer_by_layer(problem: Problem) -> None:
    erased = [Erased(pair.rows, pair.target_rows, pair.weight) for pair in problem.pairs]
    maps = core_maps(problem, 1, technique="tensor")
    present = core_weights(problem, maps)
    preserved = problem.preserving.preserved
    step = edit_tensor(problem.prompts, preserved, problem.gram, maps, problem.scales)  # type: ignore[arg-type]
    expected = [
        plain_edit(weight, erased, problem.preserved, technique="tensor", **asdict(problem.scales))
        for weight in present
    ]
    assert_same_weights(core_weights(problem, maps @ step), expected, TENSOR_TOLERANCE)  # type: ignore[operator]


def assert_derives_as_written(problem: Problem, maps: AnyMap, regularizer: tuple[str, str], tolerance: float) -> None:
    """The derived rows and their moments, against the formula for one row at a time."""
    name, items = regularizer
    present = core_weights(problem, maps)
    derivation = Derivation(problem.derivation_scale, name, items)(problem.gram, maps)
    expected = torch.stack(
        [
            plain_derive(problem.weights, present, row, target, problem.derivation_scale, name, items)
            for row, target in zip(problem.rows, problem.target_rows, strict=True)
        ]
    )
    assert relative(derivation.apply(problem.rows, problem.target_rows), expected) < tolerance

    moments = problem.moments.derived(derivation)
    erased, cross = torch.zeros_like(moments.erased), torch.zeros_like(moments.cross)
    for row, target, weight in zip(expected, problem.target_rows, problem.row_weights, strict=True):
        erased += weight * torch.outer(row, row)
        cross += weight * torch.outer(target, row)
    assert relative(moments.erased, erased) < tolerance
    assert relative(moments.cross, cross) < tolerance
    assert torch.equal(moments.target, problem.moments.target)
    assert torch.equal(moments.preserved, problem.moments.preserved)


@given(problem=erasure_problems(), epochs=st.integers(0, 3), regularizer=st.sampled_from(REGULARIZERS))
def test_every_derived_row_equals_rece_row_by_row(problem: Problem, epochs: int, regularizer: tuple[str, str]) -> None:
    assert_derives_as_written(problem, core_maps(problem, epochs), regularizer, TOLERANCE)


@given(problem=tensor_problems(), epochs=st.integers(0, 2), regularizer=st.sampled_from(REGULARIZERS))
def test_every_derived_row_equals_rece_row_by_row_with_one_map_a_layer(
    problem: Problem, epochs: int, regularizer: tuple[str, str]
) -> None:
    maps = core_maps(problem, epochs, technique="tensor")
    assert_derives_as_written(problem, maps, regularizer, TENSOR_TOLERANCE)


def test_derived_rows_keep_the_dtype_of_the_concept_rows() -> None:
    problem = random_problem(2)
    derivation = Derivation(0.1)(problem.gram, core_maps(problem, 1))
    rows = problem.rows.float()
    assert derivation.apply(rows).dtype == torch.float32
    assert torch.equal(derivation.apply(rows), derivation.apply(rows.double()).float())


def test_standard_cannot_derive_without_the_target_rows() -> None:
    problem = random_problem(2)
    derivation = Derivation(0.1, "standard")(problem.gram, core_maps(problem, 1))
    with pytest.raises(ValueError, match="concept and target rows"):
        derivation.apply(problem.rows)
