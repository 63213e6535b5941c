"""The null-space editor: SPEED's formula a layer, the minimum over what it may change, what it leaves alone."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import UCE, Editor, EmbeddingMap, Eraser, Method, Moments, TensorUCE
from rece_lightning.core.editors.null_space import NullSpace, edit_in_null_space, null_space, orthogonal_part
from rece_lightning.core.editors.uce import edit
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.plain import plain_derive
from tests.helpers.problems import Problem, core_weights, method_of, random_problem, relative

EXACT = NullSpace(threshold=0.0, augmented_rank=0)


def problems(preserved: tuple[int, ...] = (0, 1, 3, 5), width: int = 9) -> st.SearchStrategy[Problem]:
    """Models with more width than preserved rows, so that a null space is left."""
    return st.builds(
        lambda seed, preserved, rows, lamb, preserve_scale: random_problem(
            seed, width=width, preserved=preserved, rows=rows, scales=UCE(0.8, preserve_scale, lamb)
        ),
        st.integers(0, 2**20),
        st.sampled_from(preserved),
        st.sampled_from(["independent", "repeated", "common"]),
        st.sampled_from([0.1, 2.0]),
        st.sampled_from([0.0, 0.3]),
    )


def invariant_rows_of(problem: Problem, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, problem.width, generator=generator, dtype=torch.float64)


def with_scales_of(problem: Problem, editor: NullSpace) -> NullSpace:
    """The editor with the problem's η, λ₁ and λ₂."""
    return replace(editor, **asdict(problem.scales))


def confined_map(
    problem: Problem,
    editor: NullSpace,
    epochs: int = 1,
    *,
    accumulate: bool = False,
    held: Tensor | None = None,
    first_editor: Editor | None = None,
) -> EmbeddingMap:
    """The map of this editor with the problem's scales."""
    editor = with_scales_of(problem, editor)
    method = method_of(problem, editor=editor, accumulate=accumulate, first_editor=first_editor)
    found = Eraser(method, replace(problem.evidence, invariants=held), problem.gram).run(epochs).maps
    assert isinstance(found, EmbeddingMap)
    return found


# The published formula


def speed_layer(
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    preserved: Tensor,
    held: Tensor,
    scales: UCE,
    *,
    tau: float,
) -> Tensor:
    """SPEED's edited weight of one layer: a projector by SVD, inverses, Lagrange multipliers (equation 11).

    η weighs the concepts, λ₂ the norm of the update. The published form has no λ₁.
    """
    width = weight.shape[1]
    eye = torch.eye(width, dtype=torch.float64)
    projector = eye
    if len(preserved):
        second = preserved.mT @ preserved
        axes, values, _ = torch.linalg.svd(second * width / second.trace())
        free = axes[:, values <= max(tau, 1e-13 * float(values[0]))]
        projector = free @ free.mT
    columns, wanted = rows.mT * weights.sqrt(), targets.mT * weights.sqrt()
    own = scales.erase_scale * columns @ columns.mT
    cross = scales.erase_scale * wanted @ columns.mT
    middle = torch.linalg.inv(own @ projector + scales.lamb * eye)
    constraints = held.mT
    multipliers = torch.linalg.pinv(constraints.mT @ projector @ middle @ constraints, rtol=1e-10)
    confined = eye - middle @ constraints @ multipliers @ constraints.mT @ projector
    return weight + weight @ (cross - own) @ projector @ confined @ middle


@given(problem=problems(), held=st.integers(0, 2))
def test_every_layer_is_speeds_own_formula(problem: Problem, held: int) -> None:
    """One map from moments and a basis, against a projector and multipliers a layer from rows."""
    problem = replace(problem, scales=replace(problem.scales, preserve_scale=0.0))
    invariants = invariant_rows_of(problem, held)
    rows = torch.cat([pair.first_rows for pair in problem.pairs])
    targets = torch.cat([pair.first_target_rows for pair in problem.pairs])
    weights = torch.cat([torch.full((len(pair.first_rows),), pair.weight) for pair in problem.pairs]).double()
    found = core_weights(problem, confined_map(problem, EXACT, held=invariants))
    for weight, edited in zip(problem.weights, found, strict=True):
        expected = speed_layer(weight, rows, targets, weights, problem.preserved, invariants, problem.scales, tau=0.0)
        assert relative(edited, expected) < 1e-6


@given(problem=problems(preserved=(5, 30)), threshold=st.sampled_from([0.05, 0.3, 0.8]))
def test_a_threshold_frees_what_is_little_seen(problem: Problem, threshold: float) -> None:
    """With more preserved rows than the width no direction is unseen; eigenvalues of the mean moment decide."""
    second = problem.preserved.mT @ problem.preserved
    values = torch.linalg.eigvalsh(second * problem.width / second.trace())
    if bool(((values - threshold).abs() < 1e-9).any()):
        return
    free = null_space(problem.preserving.preserved, problem.gram, NullSpace(threshold=threshold, augmented_rank=0))
    assert free.shape[1] == int((values <= threshold).sum())
    torch.testing.assert_close(free.mT @ free, torch.eye(free.shape[1], dtype=torch.float64))
    energies = (problem.preserved @ free).square().sum(0) * problem.width / problem.preserved.square().sum()
    assert bool((energies <= threshold + 1e-9).all())


def test_augmentation_is_the_mean_over_noisy_copies() -> None:
    """Ten copies of every preserved row with noise along the least seen direction of a layer, drawn many times."""
    problem = random_problem(3, width=6, preserved=5)
    weight = problem.weights[1]
    problem = replace(problem, weights=[weight])
    least = torch.linalg.svd(weight.mT)[0][:, -1:]
    generator = torch.Generator().manual_seed(0)
    rows = problem.preserved * (problem.width / problem.preserved.square().sum(1, keepdim=True)).sqrt()
    total = torch.zeros(6, 6, dtype=torch.float64)
    turns = 1000
    for _ in range(turns):
        noise = torch.randn(10 * len(rows), 6, generator=generator, dtype=torch.float64)
        copies = rows.repeat(10, 1) + noise @ least @ least.mT
        every = torch.cat([rows, copies])
        total += every.mT @ every / len(every)
    mean = total / turns
    # Where the drawn moment has nothing, the closed form must have freed the direction, and only there.
    values, axes = torch.linalg.eigh(mean)
    for threshold in (0.02, 0.3, 0.6):
        free = null_space(rows.mT @ rows, problem.gram, NullSpace(threshold=threshold, augmented_rank=1))
        expected = axes[:, values <= threshold]
        assert free.shape == expected.shape
        assert float(torch.linalg.norm(free @ free.mT - expected @ expected.mT)) < 0.05
    exact = null_space(rows.mT @ rows, problem.gram, NullSpace(threshold=0.0, augmented_rank=1))
    assert exact.shape[1] == 0  # five rows and one direction fill the six
    assert null_space(rows.mT @ rows, problem.gram, EXACT).shape[1] == 1


# Optimality


def objective(problem: Problem, moments: Moments, present: Tensor, edited: Tensor) -> float:
    """UCE's objective of one layer, from moments."""
    scales, change = problem.scales, edited - present
    erased = (edited @ moments.erased * edited).sum() - 2 * (edited @ moments.cross.mT * present).sum()
    held = scales.preserve_scale * (change @ moments.preserved * change).sum() + scales.lamb * change.square().sum()
    return float(scales.erase_scale * erased + held)


@given(problem=problems(), seed=st.integers(0, 1000), held=st.integers(0, 2))
def test_no_other_edit_in_the_null_space_is_better(problem: Problem, seed: int, held: int) -> None:
    """The gradient has nothing along what an edit may change, and every step away from the minimum costs."""
    moments = problem.first_moments
    free = null_space(moments.preserved, problem.gram, EXACT, invariant_rows_of(problem, held))
    found = edit_in_null_space(moments, free, problem.scales).matrix
    eye = torch.eye(problem.width, dtype=torch.float64)
    assert float(torch.linalg.norm((found - eye) @ (eye - free @ free.mT))) < 1e-9 * float(torch.linalg.norm(found))
    scales = problem.scales
    system = scales.erase_scale * moments.erased + scales.preserve_scale * moments.preserved + scales.lamb * eye
    right = scales.erase_scale * moments.cross + scales.preserve_scale * moments.preserved + scales.lamb * eye
    gradient = (found @ system - right) @ free
    assert float(torch.linalg.norm(gradient)) < 1e-8 * float(torch.linalg.norm(right))
    generator = torch.Generator().manual_seed(seed)
    weight = problem.weights[0]
    least = objective(problem, moments, weight, weight @ found)
    for size in (1e-3, 0.1, 3.0):
        # Any weights of this layer, not only those that a map makes.
        step = size * torch.randn(len(weight), free.shape[1], generator=generator, dtype=torch.float64) @ free.mT
        assert objective(problem, moments, weight, weight @ found + step) > least


# What it leaves alone


@given(problem=problems(), epochs=st.integers(1, 3), accumulate=st.booleans(), held=st.integers(0, 2))
def test_preserved_and_invariant_rows_stay_in_every_epoch(
    problem: Problem, epochs: int, accumulate: bool, held: int
) -> None:
    """With nothing but exact zeros free: to the root of the rounding, since moments hold squares; invariants to it."""
    invariants = invariant_rows_of(problem, held)
    found = confined_map(problem, EXACT, epochs, accumulate=accumulate, held=invariants)
    size = 1 + float(torch.linalg.norm(found.change))
    for rows, bound in ((problem.preserved, 1e-6), (invariants, 1e-11)):
        moved = rows @ found.change.mT
        assert float(torch.linalg.norm(moved)) <= bound * size * float(torch.linalg.norm(rows))


def test_without_anything_preserved_it_is_uces_edit() -> None:
    problem = random_problem(8, preserved=0)
    expected = edit(problem.first_moments, problem.scales).matrix
    assert relative(confined_map(problem, EXACT).matrix, expected) < 1e-12
    crowded = random_problem(8, preserved=40)
    expected = edit(crowded.first_moments, crowded.scales).matrix
    assert relative(confined_map(crowded, NullSpace(threshold=1e6, augmented_rank=0)).matrix, expected) < 1e-12


@given(problem=problems(preserved=(20,)))
def test_a_smaller_threshold_frees_less_and_erases_less(problem: Problem) -> None:
    """The spaces are nested, so the objective can only rise; and what is preserved moves only within what is free."""
    moments, weight = problem.first_moments, problem.weights[0]
    former = -torch.inf
    spaces = [
        null_space(moments.preserved, problem.gram, NullSpace(threshold=tau, augmented_rank=0))
        for tau in (1e6, 0.5, 0.1, 0.02)
    ]
    for wider, free in pairwise(spaces):
        assert float(torch.linalg.norm(free - wider @ (wider.mT @ free))) < 1e-9
    for free in spaces:
        if not free.shape[1]:
            break
        found = edit_in_null_space(moments, free, problem.scales).matrix
        value = objective(problem, moments, weight, weight @ found)
        assert value >= former - 1e-9 * abs(former if former > -torch.inf else 0.0)
        former = value
    rank = int(torch.linalg.matrix_rank(problem.preserved, rtol=1e-6))
    assert null_space(moments.preserved, problem.gram, EXACT).shape[1] == problem.width - rank


# Properties


@given(problem=problems(), epochs=st.integers(1, 3), accumulate=st.booleans(), seed=st.integers(0, 100))
def test_order_of_concepts_and_of_what_is_preserved_does_not_matter(
    problem: Problem, epochs: int, accumulate: bool, seed: int
) -> None:
    preserved = problem.preserved[torch.randperm(len(problem.preserved), generator=torch.Generator().manual_seed(seed))]
    other = replace(problem, pairs=problem.pairs[::-1], preserved=preserved)
    settings = NullSpace(threshold=1e-3, augmented_rank=1)
    expected = confined_map(problem, settings, epochs, accumulate=accumulate).matrix
    assert relative(confined_map(other, settings, epochs, accumulate=accumulate).matrix, expected) < 1e-5


@given(problem=problems(), epochs=st.integers(1, 2))
def test_a_concept_twice_is_its_weight_doubled(problem: Problem, epochs: int) -> None:
    pair = problem.pairs[0]
    twice = problem.with_pairs([*problem.pairs, pair])
    doubled = problem.with_pairs([replace(pair, weight=2 * pair.weight), *problem.pairs[1:]])
    expected = confined_map(doubled, EXACT, epochs).matrix
    assert relative(confined_map(twice, EXACT, epochs).matrix, expected) < 1e-6


@given(problem=problems(preserved=(5, 20)), factor=st.sampled_from([0.01, 50.0]))
def test_what_is_free_goes_by_shares(problem: Problem, factor: float) -> None:
    """Neither the number of the preserved prompts nor the size of the embeddings or of the model enters."""
    settings = NullSpace(threshold=0.2, augmented_rank=1)
    expected = null_space(problem.preserving.preserved, problem.gram, settings)
    louder = replace(problem, weights=[factor * weight for weight in problem.weights]).gram
    repeated = Moments.preserving(factor * problem.preserved.repeat(3, 1)).preserved
    found = null_space(repeated, louder, settings)
    assert relative(found @ found.mT + 1e-30, expected @ expected.mT + 1e-30) < 1e-6


@given(problem=problems(), epochs=st.integers(1, 3), accumulate=st.booleans())
def test_rows_and_moments_give_one_map(problem: Problem, epochs: int, accumulate: bool) -> None:
    method, rows = Method(editor=with_scales_of(problem, EXACT), accumulate=accumulate), problem.row_pairs
    evidence = replace(problem.evidence, first=problem.moments, first_prompts=(), whole_prompts=())
    by_moments = Eraser(method, evidence, problem.gram).run(epochs).maps
    by_rows = Eraser(method, replace(evidence, first_rows=rows, whole_rows=rows), problem.gram).run(epochs).maps
    assert relative(by_rows.of_layer(0), by_moments.of_layer(0)) < 1e-6


@given(problem=problems(preserved=(0, 3)))
def test_a_later_epoch_edits_with_what_the_plain_formula_derives(problem: Problem) -> None:
    """RECE's loop around the editor: layer by layer, with the derivation of the oracle."""
    problem = replace(problem, scales=replace(problem.scales, preserve_scale=0.0))
    none = torch.zeros(0, problem.width, dtype=torch.float64)
    first = core_weights(problem, confined_map(problem, EXACT))
    derived = [
        plain_derive(problem.weights, first, row, target, problem.derivation_scale)
        for row, target in zip(problem.rows, problem.target_rows, strict=True)
    ]
    weights = torch.tensor(problem.row_weights, dtype=torch.float64)
    found = core_weights(problem, confined_map(problem, EXACT, 2))
    for old, edited in zip(first, found, strict=True):
        expected = speed_layer(
            old, torch.stack(derived), problem.target_rows, weights, problem.preserved, none, problem.scales, tau=0.0
        )
        assert relative(edited, expected) < 1e-5


def test_narrow_factors_are_the_map() -> None:
    problem = random_problem(9, width=12, preserved=9)
    found = confined_map(problem, EXACT)
    assert found.factors is not None
    left, right = found.factors
    assert left.shape == (12, 3)
    torch.testing.assert_close(left @ right, found.change)


def test_rows_outside_a_space_take_nothing_from_it() -> None:
    basis = torch.eye(4, dtype=torch.float64)[:, :2]
    outside = torch.tensor([[0.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    assert torch.equal(orthogonal_part(basis, outside).abs(), basis) or orthogonal_part(basis, outside).shape == (4, 2)
    left = orthogonal_part(basis, torch.tensor([[3.0, 0.0, 5.0, 0.0]], dtype=torch.float64))
    assert left.shape == (4, 1)
    assert float(left[0].abs()) < 1e-15


# Refusals


def test_no_free_direction_is_refused_with_a_remedy() -> None:
    problem = random_problem(2, preserved=40)
    with pytest.raises(ConfigurationError, match=r"NullSpace\.threshold: .*larger value"):
        confined_map(problem, EXACT)


def test_a_singular_system_is_refused() -> None:
    problem = replace(random_problem(2, preserved=1, tokens=(1,)), scales=UCE(1.0, 0.0, 0.0))
    with pytest.raises(ConfigurationError, match=r"null space is singular.*editor's lamb"):
        confined_map(problem, EXACT)


@pytest.mark.parametrize(
    ("named", "value"),
    [
        ("threshold", -0.1),
        ("threshold", float("nan")),
        ("augmented_rank", -1),
        ("augmented_rank", 1.5),
        ("augmented_rank", True),
    ],
)
def test_settings_that_make_no_sense_are_refused(named: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"NullSpace\.{named}: "):
        NullSpace(**{named: value})  # type: ignore[arg-type]


def test_the_editor_of_epoch_0_may_be_another_and_one_map_a_layer_may_not() -> None:
    """What the first editor found is its own: later epochs look for their free directions themselves."""
    problem = random_problem(6, width=9, preserved=3)
    other = replace(with_scales_of(problem, EXACT), lamb=5.0)
    expected = edit_in_null_space(
        problem.first_moments, null_space(problem.preserving.preserved, problem.gram, EXACT), other
    )
    assert torch.equal(confined_map(problem, EXACT, first_editor=other).matrix, expected.matrix)
    later = confined_map(problem, EXACT, 2, first_editor=UCE())
    first = edit(problem.first_moments, UCE())
    moved = problem.preserved @ (later.matrix - first.matrix).mT
    assert float(torch.linalg.norm(moved)) < 1e-6 * float(torch.linalg.norm(problem.preserved))
    with pytest.raises(ConfigurationError, match=r"model\.method\.first_editor: TensorUCE.*NullSpace"):
        Method(editor=NullSpace(), first_editor=TensorUCE())
