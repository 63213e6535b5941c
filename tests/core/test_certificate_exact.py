"""The certificate's bound on its own rounding, against exact fractions and sixty digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import mpmath
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import EmbeddingMap
from rece_lightning.core.budget import Reach
from rece_lightning.core.certificate import SLACK, _Dual, certify, storing_error
from rece_lightning.core.editors import Projection
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from tests.core.test_budget import KINDS
from tests.helpers.problems import Problem, projected_map, random_problem

DIGITS = 60
NOTHING = mpmath.mpf(10) ** -40
"""Share of the largest strength below which there is none, in sixty digits."""
Rows = list[list[Fraction]]


@st.composite
def hard_models(draw: st.DrawFn) -> tuple[Problem, AnyMap]:
    """Small models of all kinds of maps and very different sizes; concepts that differ little from a large vector."""
    problem = random_problem(
        draw(st.integers(0, 2**20)),
        width=draw(st.integers(2, 5)),
        outs=tuple(draw(st.lists(st.integers(2, 6), min_size=1, max_size=2))),
        tokens=(draw(st.integers(1, 3)),),
        rows=draw(st.sampled_from(["independent", "common"])),
        layers=(draw(st.sampled_from(["full", "low_rank", "scaled"])), "full"),
    )
    size = draw(st.sampled_from([1e-3, 1.0, 1e4]))
    shift = draw(st.sampled_from([0.0, 1e3, 1e6])) * torch.ones(problem.width, dtype=torch.float64)
    pairs = [replace(one, rows=one.rows + shift, target_rows=one.target_rows + shift) for one in problem.pairs]
    problem = replace(problem, weights=[size * weight for weight in problem.weights], pairs=pairs)
    try:
        return problem, KINDS[draw(st.sampled_from(sorted(set(KINDS) - {"tensor"})))](problem)
    except ConfigurationError:  # too large for its λ₂: an edit refuses it
        reject()


def exact(matrix: Tensor) -> Rows:
    """The numbers that a matrix holds."""
    return [[Fraction(value) for value in row] for row in matrix.double().tolist()]


def product(left: Rows, right: Rows) -> Rows:
    columns = list(zip(*right, strict=True))
    return [[sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in left]


def transposed(matrix: Rows) -> Rows:
    return [list(column) for column in zip(*matrix, strict=True)]


def squares(matrix: Rows) -> Fraction:
    return sum((value * value for row in matrix for value in row), Fraction(0))


def exact_gram(problem: Problem) -> Rows:
    """``Σ WᵀW`` without rounding."""
    total = [[Fraction(0)] * problem.width for _ in range(problem.width)]
    for weight in problem.weights:
        wide = exact(weight)
        part = product(transposed(wide), wide)
        total = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(total, part, strict=True)]
    return total


def in_digits(matrix: Rows) -> mpmath.matrix:
    return mpmath.matrix([[mpmath.mpf(v.numerator) / v.denominator for v in row] for row in matrix])


def least(problem: Problem, matrix: Tensor, budget: float) -> mpmath.mpf:
    """``min Σ‖W M x − W c‖²`` over ``‖x‖ ≤ β‖c‖`` (Frobenius, of all rows): the largest value of its Lagrange dual."""
    gram, maps, rows = exact_gram(problem), exact(matrix), exact(problem.rows)
    crossed = product(transposed(maps), gram)
    strengths, axes = mpmath.eigsy(in_digits(product(crossed, maps)))
    seen = in_digits(product(rows, transposed(crossed))) * axes
    energies = [sum(seen[i, j] ** 2 for i in range(seen.rows)) for j in range(seen.cols)]
    whole = product(product(rows, gram), transposed(rows))
    total = in_digits([[sum((whole[i][i] for i in range(len(whole))), Fraction(0))]])[0]
    size = max(*strengths, in_digits([[max(gram[i][i] for i in range(len(gram)))]])[0])
    parts = [(e, s) for e, s in zip(energies, strengths, strict=True) if s > NOTHING * size]

    radius = mpmath.mpf(budget) ** 2 * in_digits([[squares(rows)]])[0] if math.isfinite(budget) else mpmath.inf

    def norm(multiplier: mpmath.mpf) -> mpmath.mpf:
        return sum((e / (s + multiplier) ** 2 for e, s in parts), mpmath.mpf(0))

    if norm(mpmath.mpf(0)) <= radius:
        return max(total - sum((e / s for e, s in parts), mpmath.mpf(0)), mpmath.mpf(0))
    if radius == 0:
        return total
    low, high = mpmath.mpf(0), mpmath.sqrt(sum(e for e, _ in parts) / radius)
    for _ in range(400):
        middle = (low + high) / 2
        low, high = (middle, high) if norm(middle) > radius else (low, middle)
    return max(total - sum(e / (s + high) for e, s in parts) - high * radius, mpmath.mpf(0))


def whole_energy(problem: Problem) -> float:
    return sum(float((problem.rows @ weight.mT).square().sum()) for weight in problem.weights)


@given(model=hard_models(), seed=st.integers(0, 99))
def test_rounding_of_the_dual_is_within_its_bounds(model: tuple[Problem, AnyMap], seed: int) -> None:
    """For whatever point: the value and what leaks of it, each against fractions."""
    problem, maps = model
    assert isinstance(maps, EmbeddingMap)
    generator = torch.Generator().manual_seed(seed)
    rows = problem.rows[None]
    rest = rows * torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    found = _Dual.of(rest, rows, maps.matrix, problem.gram.total, problem.gram.outputs or 0)
    gram, point, concept = exact_gram(problem), exact(rest[0]), exact(rows[0])
    seen = product(point, gram)
    far = [[2 * c - p for c, p in zip(x, y, strict=True)] for x, y in zip(concept, point, strict=True)]
    value = sum((a * b for x, y in zip(seen, far, strict=True) for a, b in zip(x, y, strict=True)), Fraction(0))
    assert abs(Fraction(float(found.value)) - value) <= Fraction(SLACK * float(found.value_error))
    leak = product(seen, exact(maps.matrix))
    off = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(exact(found.leak[0]), leak, strict=True)]
    assert squares(off) <= Fraction(SLACK * float(found.leak_error)) ** 2


@given(model=hard_models(), budget=st.sampled_from([0.0, 0.3, 1.0, 4.0]))
def test_no_certificate_exceeds_the_minimum_in_sixty_digits(model: tuple[Problem, AnyMap], budget: float) -> None:
    problem, maps = model
    assert isinstance(maps, EmbeddingMap)
    found = certify(problem.gram, maps, problem.rows[None], problem.target_rows[None], budget)
    with mpmath.workdps(DIGITS):
        minimum = least(problem, maps.matrix, budget)
        assert mpmath.mpf(float(found.bound)) <= minimum
        # And what it may be too low by is said.
        assert minimum <= float(found.bound) + float(found.gap) + float(found.error) + 1e-15 * whole_energy(problem)


@given(model=hard_models(), share=st.sampled_from([0.01, 0.5, 1.0]))
def test_a_bound_without_a_budget_holds_in_sixty_digits_as_far_as_it_says(
    model: tuple[Problem, AnyMap], share: float
) -> None:
    problem, maps = model
    assert isinstance(maps, EmbeddingMap)
    found = certify(problem.gram, maps, problem.rows[None], problem.target_rows[None])
    with mpmath.workdps(DIGITS):
        minimum = least(problem, maps.matrix, share * float(found.holds_to))
        assert mpmath.mpf(float(found.bound)) <= minimum


def test_what_is_taken_off_is_needed() -> None:
    """The dual's value itself says too much for some problems: float64 does round here."""
    over = 0
    for seed in range(60):
        problem = random_problem(seed, width=4, outs=(3, 4), tokens=(2,), layers=("low_rank", "full"))
        pairs = [replace(one, rows=one.rows + 1e6, target_rows=one.target_rows + 1e6) for one in problem.pairs]
        problem = problem.with_pairs(pairs)
        maps, rows = KINDS["uce"](problem), problem.rows[None]
        assert isinstance(maps, EmbeddingMap)
        reach = Reach.of(problem.gram, maps)
        attack = reach.attack(rows, reach.prompts(rows).multiplier(1.0)[:, None].expand(rows.shape[:-1]))
        dual = _Dual.of(rows - attack @ maps.matrix.mT, rows, maps.matrix, problem.gram.total, 0)
        plain = float(dual.value - 2 * torch.linalg.norm(rows) * torch.linalg.norm(dual.leak))
        found = certify(problem.gram, maps, rows, problem.target_rows[None], 1.0)
        with mpmath.workdps(DIGITS):
            minimum = least(problem, maps.matrix, 1.0)
            assert mpmath.mpf(float(found.bound)) <= minimum
            over += mpmath.mpf(plain) > minimum
    assert over > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(seed=st.integers(0, 2**20), size=st.sampled_from([1e-9, 1e-4, 1.0, 1e3]))
def test_rounding_to_a_dtype_is_within_its_bound(dtype: torch.dtype, seed: int, size: float) -> None:
    """``‖fl(W M) − W M‖`` over all layers with the product in fractions; entries that underflow among them."""
    problem = random_problem(seed, width=4, outs=(3, 5), layers=("full", "scaled"))
    problem = replace(problem, weights=[size * weight for weight in problem.weights])
    matrix = KINDS["uce"](problem).of_layer(0)
    off = Fraction(0)
    for weight in problem.weights:
        stored, product_ = exact((weight @ matrix).to(dtype)), product(exact(weight), exact(matrix))
        off += squares([[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(stored, product_, strict=True)])
    assert off <= Fraction(storing_error(problem.gram, EmbeddingMap(matrix), dtype)) ** 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(seed=st.integers(0, 2**20), apart=st.sampled_from([0.0, 1e-9, 1e-3]))
def test_weights_that_were_edited_through_factors_are_within_the_bound_too(
    dtype: torch.dtype, seed: int, apart: float
) -> None:
    """However far the factors are from the map."""
    problem = random_problem(seed, width=6, outs=(3, 5), tokens=(2,))
    problem = replace(problem, weights=[weight.to(dtype).double() for weight in problem.weights])
    maps = projected_map(problem, Projection(1))
    assert maps.factors is not None
    left, right = maps.factors
    maps = EmbeddingMap(maps.matrix, (left * (1 + apart), right))
    off = Fraction(0)
    for weight in problem.weights:
        stored, whole = exact(maps.applied_to(weight.to(dtype))), product(exact(weight), exact(maps.matrix))
        off += squares([[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(stored, whole, strict=True)])
    assert 0 < off <= Fraction(storing_error(problem.gram, maps, dtype)) ** 2


@given(
    model=hard_models(), budget=st.sampled_from([0.3, 1.0, 4.0]), dtype=st.sampled_from([torch.float32, torch.float16])
)
def test_certificates_hold_for_the_stored_weights(
    model: tuple[Problem, AnyMap], budget: float, dtype: torch.dtype
) -> None:
    """The minimum over the rounded weights themselves, in sixty digits."""
    problem, maps = model
    assert isinstance(maps, EmbeddingMap)
    found = certify(problem.gram, maps, problem.rows[None], problem.target_rows[None], budget, stored=dtype)
    stored = [(weight @ maps.matrix).to(dtype) for weight in problem.weights]
    if not all(bool(weight.isfinite().all()) for weight in stored):
        return  # too large for the dtype: no model
    with mpmath.workdps(DIGITS):
        assert mpmath.mpf(float(found.bound)) <= least_of_stored(problem, stored, budget)


def least_of_stored(problem: Problem, stored: Sequence[Tensor], budget: float) -> mpmath.mpf:
    """``min Σ‖V x − W c‖²`` for edited weights V: the same problem with V in the place of ``W M`` as one tall layer.

    As :func:`least` takes a map: with ``W`` beside ``V`` in one model of twice the width, ``M x = (x, 0)`` answers with
    V, and the concept ``(0, c)`` with W.
    """
    wide = [torch.cat([now.double(), weight], dim=1) for now, weight in zip(stored, problem.weights, strict=True)]
    width = problem.width
    nothing = torch.zeros_like(problem.rows)
    (pair,) = problem.pairs
    twice = replace(problem, weights=wide, pairs=[replace(pair, rows=torch.cat([nothing, problem.rows], dim=1))])
    keep = torch.zeros(2 * width, 2 * width, dtype=torch.float64)
    keep[:width, :width] = torch.eye(width, dtype=torch.float64)
    return least(twice, keep, budget)
