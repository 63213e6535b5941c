"""Certificates on every processor: other roundings, orders, threads and sizes; nothing that can be undone gets one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rece_lightning.core import EmbeddingMap, LayerMaps
from rece_lightning.core.certificate import BEYOND, Certificate, certify, norm_above
from rece_lightning.core.editors import Projection
from tests.core.test_budget import KINDS
from tests.core.test_certificate_exact import DIGITS, least
from tests.helpers.problems import Problem, core_maps, projected_map, random_problem
from tests.helpers.rounding import OtherRounding

SIZES = [1e-6, 1e-3, 1.0, 1e3, 1e6]
SINGLE = ("nothing", "projected uce", "projection", "rece", "uce", "unedited")
"""Kinds of one map for all layers."""


def resized(problem: Problem, of_weights: float, of_rows: float) -> Problem:
    pairs = [replace(one, rows=of_rows * one.rows, target_rows=of_rows * one.target_rows) for one in problem.pairs]
    return replace(problem, weights=[of_weights * weight for weight in problem.weights], pairs=pairs)


@st.composite
def small_models(draw: st.DrawFn, kinds: tuple[str, ...] = SINGLE) -> tuple[Problem, EmbeddingMap]:
    """Models that are small enough for sixty digits, with weights and embeddings of all sizes."""
    problem = random_problem(
        draw(st.integers(0, 2**20)),
        width=draw(st.integers(2, 5)),
        outs=tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))),
        tokens=(draw(st.integers(1, 3)),),
        rows=draw(st.sampled_from(["independent", "common"])),
        layers=(draw(st.sampled_from(["full", "low_rank", "scaled"])), "full"),
    )
    maps = KINDS[draw(st.sampled_from(kinds))](problem)
    assert isinstance(maps, EmbeddingMap)
    return resized(problem, draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES))), maps


def certified(problem: Problem, maps: EmbeddingMap | LayerMaps, budget: float | None) -> Certificate:
    """Of all rows as one prompt."""
    return certify(problem.gram, maps, problem.rows[None], problem.target_rows[None], budget)


def least_up_to(problem: Problem, maps: EmbeddingMap, found: Certificate, share: float = 1.0) -> mpmath.mpf:
    with mpmath.workdps(DIGITS):
        return least(problem, maps.matrix, share * float(found.holds_to))


@given(
    model=small_models(),
    budget=st.sampled_from([None, 0.0, 0.3, 1.0, 4.0, 1e3]),
    seed=st.integers(0, 2**20),
    share=st.sampled_from([0.01, 1.0]),
)
def test_no_certificate_exceeds_the_minimum_whatever_rounds(
    model: tuple[Problem, EmbeddingMap], budget: float | None, seed: int, share: float
) -> None:
    """G, the point and the bound each with errors as large as an order of summation may make them."""
    problem, maps = model
    with OtherRounding(seed):
        found = certified(problem, maps, budget)
    assert mpmath.mpf(float(found.bound)) <= least_up_to(problem, maps, found, share)


@given(model=small_models(), budget=st.sampled_from([None, 0.3, 1.0]), seed=st.integers(0, 2**20))
def test_order_of_coordinates_rows_and_layers_is_no_matter(
    model: tuple[Problem, EmbeddingMap], budget: float | None, seed: int
) -> None:
    """Every order has a certificate that holds for the first one, and to some digits the same."""
    problem, maps = model
    found = certified(problem, maps, budget)
    generator = torch.Generator().manual_seed(seed)
    places, rows, layers = (
        torch.randperm(count, generator=generator) for count in (problem.width, len(problem.rows), len(problem.weights))
    )
    (pair,) = problem.pairs
    other = replace(
        problem,
        weights=[problem.weights[layer][:, places] for layer in layers.tolist()],
        pairs=[replace(pair, rows=pair.rows[rows][:, places], target_rows=pair.target_rows[rows][:, places])],
    )
    moved = certified(other, EmbeddingMap(maps.matrix[places][:, places]), budget)
    for one in (found, moved):
        assert mpmath.mpf(float(one.bound)) <= least_up_to(problem, maps, one)
    whole = float(sum((problem.rows @ weight.mT).square().sum() for weight in problem.weights))
    assert float(moved.bound) == pytest.approx(float(found.bound), rel=1e-6, abs=1e-7 * whole)


@given(model=small_models(("uce", "rece", "unedited")), seed=st.integers(0, 2**20), perturbed=st.booleans())
def test_a_map_with_an_inverse_has_no_certificate_without_a_budget(
    model: tuple[Problem, EmbeddingMap], seed: int, perturbed: bool
) -> None:
    """``M⁻¹c`` is no longer than ``‖c‖/σ`` and brings the concept back; the reason is soundness alone."""
    problem, maps = model
    assume(float(torch.linalg.svdvals(maps.matrix)[-1]) > 2 / BEYOND)
    if perturbed:
        with OtherRounding(seed):
            found = certified(problem, maps, None)
    else:
        found = certified(problem, maps, None)
    assert float(found.bound) == 0
    assert float(found.holds_to) == math.inf


@given(seed=st.integers(0, 2**20), further=st.sampled_from([1.0, 50.0, 3000.0]), rounding=st.integers(0, 2**20))
def test_what_a_singular_map_still_answers_has_no_certificate(seed: int, further: float, rounding: int) -> None:
    """The concept lies in the range of M, behind an embedding of up to thousands of times its norm."""
    problem = random_problem(seed, width=4, outs=(4, 5), tokens=(2,))
    maps = projected_map(problem, Projection(1, 1.0))
    axis = torch.linalg.svd(maps.matrix).Vh[0]
    squeeze = torch.eye(4, dtype=torch.float64) - (1 - 1 / further) * torch.outer(axis, axis)
    maps = EmbeddingMap(maps.matrix @ squeeze)
    problem = problem.with_pairs([replace(problem.pairs[0], rows=problem.rows @ maps.matrix.mT)])
    size = float(torch.linalg.norm(problem.rows))
    attack = problem.rows @ torch.linalg.pinv(maps.matrix, rcond=1e-9).mT
    assume(float(torch.linalg.norm(attack)) < BEYOND / 2 * size)
    with OtherRounding(rounding):
        found = certified(problem, maps, None)
    assert float(found.bound) == 0


@given(seed=st.integers(0, 2**20), of_weights=st.sampled_from(SIZES), of_rows=st.sampled_from(SIZES))
def test_a_singular_map_keeps_its_certificate_at_every_size(seed: int, of_weights: float, of_rows: float) -> None:
    """What is certified is useful still: in units of the problem it is the same, whatever rounds."""
    problem = random_problem(seed, width=6, outs=(6, 7), tokens=(2,))
    maps = projected_map(problem, Projection(1, 1.0))
    found = certified(problem, maps, None)
    with OtherRounding(seed):
        other = certified(resized(problem, of_weights, of_rows), maps, None)
    assert float(other.relative) == pytest.approx(float(found.relative), rel=2e-3)
    assert min(float(found.holds_to), float(other.holds_to)) >= BEYOND


@pytest.mark.parametrize("size", [1e-160, 1e-90, 1e90, 1e150])
@pytest.mark.parametrize("budget", [None, 0.5])
def test_what_leaves_the_range_of_float64_certifies_nothing_false(size: float, budget: float | None) -> None:
    problem = random_problem(4, width=4, outs=(4, 5), tokens=(2,))
    maps = projected_map(problem, Projection(1, 1.0))
    problem = resized(problem, size, 1.0)
    found = certified(problem, maps, budget)
    assert math.isfinite(float(found.bound))
    assert mpmath.mpf(float(found.bound)) <= least_up_to(problem, maps, found)


@given(seed=st.integers(0, 2**20), exponent=st.integers(-200, 200))
def test_a_norm_is_never_too_short(seed: int, exponent: int) -> None:
    """Where squares underflow and overflow too."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 7, generator=generator, dtype=torch.float64) * 10.0**exponent
    with OtherRounding(seed):
        found = float(norm_above(values))
    with mpmath.workdps(DIGITS):
        exact = mpmath.sqrt(sum(mpmath.mpf(value) ** 2 for value in values.flatten().tolist()))
        assert exact <= found <= exact * (1 + mpmath.mpf(10) ** -13)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["uce", "projection", "tensor"])
@pytest.mark.parametrize("budget", [None, 1.0])
def test_threads_agree_within_what_they_say(kind: str, budget: float | None, threads: None) -> None:
    """Each bound lies below what the other's attack reaches; wide enough that sums are shared among threads."""
    problem = random_problem(7, width=160, outs=(200, 160, 240), tokens=(40, 37), preserved=60)
    maps = KINDS[kind](problem)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(certified(problem, maps, budget))
    one, other = found
    assert float(one.bound) == pytest.approx(float(other.bound), rel=1e-6)
    assert float(one.bound) <= float(other.bound + other.gap + other.error)
    assert float(other.bound) <= float(one.bound + one.gap + one.error)
    if budget is None and kind == "uce":
        assert float(one.bound) == float(other.bound) == 0


def test_other_rounding_does_move_what_is_computed() -> None:
    """Or the tests above would show nothing: within the bound of a product, and not the same twice."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    with OtherRounding(1):
        first = left @ right
    with OtherRounding(2):
        second = left @ right
    bound = 6 * 2.0**-53 * (left.abs() @ right.abs())
    for one in (first, second):
        assert bool(((one - left @ right).abs() <= bound).all())
        assert not torch.equal(one, left @ right)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_an_edit_that_can_be_undone_has_no_certificate_under_any_rounding(epochs: int, seed: int) -> None:
    problem = random_problem(3, width=6, outs=(6, 7))
    maps = core_maps(problem, epochs)
    assert isinstance(maps, EmbeddingMap)
    attack = torch.linalg.solve(maps.matrix, problem.rows.mT)
    assert float(torch.linalg.norm(attack)) < BEYOND / 2 * float(torch.linalg.norm(problem.rows))
    with OtherRounding(seed):
        found = certified(problem, maps, None)
    assert float(found.bound) == 0
