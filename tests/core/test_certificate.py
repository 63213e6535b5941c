"""Certificates: never above what an embedding within the budget reaches, tight, and honest about rounding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import EmbeddingMap
from rece_lightning.core.budget import Reach
from rece_lightning.core.certificate import certify, gamma, storing_error
from rece_lightning.core.editors.projection import Projection
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from tests.core.test_budget import edited_models, squared_distance
from tests.helpers.problems import Problem, core_maps, core_weights, projected_map, random_problem

SAMPLES = 300


def groups(problem: Problem) -> tuple[Tensor, Tensor]:
    """All rows as one prompt, ``[1, n, d]``."""
    return problem.rows[None], problem.target_rows[None]


def samples(problem: Problem, maps: AnyMap, radius: float, seed: int) -> Tensor:
    """Random rows within the budget, and the best that is known, shortened to it: ``[SAMPLES + 1, n, d]``."""
    generator = torch.Generator().manual_seed(seed)
    rows = problem.rows
    tries = torch.randn(SAMPLES, *rows.shape, generator=generator, dtype=torch.float64)
    scale = radius * torch.rand(SAMPLES, 1, 1, generator=generator, dtype=torch.float64)
    tries = tries * scale / tries.norm(dim=(1, 2), keepdim=True)
    attack = Reach.of(problem.gram, maps).attack(rows, torch.zeros(len(rows), dtype=torch.float64))
    attack = attack * min(1.0, radius / max(float(torch.linalg.norm(attack)), 1e-300))
    return torch.cat([tries, attack[None]])


@given(model=edited_models(), budget=st.sampled_from([0.0, 0.3, 1.0, 4.0]), seed=st.integers(0, 99))
def test_no_embedding_within_the_budget_is_nearer_than_certified(
    model: tuple[Problem, AnyMap], budget: float, seed: int
) -> None:
    problem, maps = model
    concept, target = groups(problem)
    radius = budget * float(torch.linalg.norm(concept))
    found = certify(problem.gram, maps, concept, target, budget)
    reached = squared_distance(
        problem, core_weights(problem, maps), samples(problem, maps, radius, seed), problem.rows
    ).sum(-1)
    assert float(found.bound) <= float(reached.min())


@given(model=edited_models(), budget=st.sampled_from([0.0, 0.3, 1.0, 4.0]))
def test_certificate_is_the_residual_less_its_error(model: tuple[Problem, AnyMap], budget: float) -> None:
    """Weak duality is strong here: what is left between bound and attack is rounding."""
    problem, maps = model
    concept, target = groups(problem)
    whole = float((concept @ problem.gram.total * concept).sum())
    found = certify(problem.gram, maps, concept, target, budget)
    residual = float(Reach.of(problem.gram, maps).prompts(concept).residual(budget))
    assert float(found.bound) <= residual + 1e-12 * whole
    assert float(found.bound) == pytest.approx(residual, rel=1e-6, abs=1e-7 * whole)
    assert float(found.gap) == pytest.approx(residual - float(found.bound), abs=1e-7 * whole)
    assert 0 <= float(found.error) < 1e-8 * whole


@given(model=edited_models(), seed=st.integers(0, 99))
def test_without_a_budget_it_holds_as_far_as_it_says(model: tuple[Problem, AnyMap], seed: int) -> None:
    problem, maps = model
    concept, target = groups(problem)
    size = float(torch.linalg.norm(concept))
    found = certify(problem.gram, maps, concept, target)
    far = min(float(found.holds_to), 1e6)
    present = core_weights(problem, maps)
    for radius in (size, 0.99 * far * size):
        reached = squared_distance(problem, present, samples(problem, maps, radius, seed), problem.rows).sum(-1)
        assert float(found.bound) <= float(reached.min())


@given(seed=st.integers(0, 2**20), rank=st.integers(1, 2))
def test_without_a_budget_it_is_the_closed_form_of_the_projection(seed: int, rank: int) -> None:
    """``(Vᵀc)ᵀ (VᵀG⁻¹V)⁻¹ (Vᵀc)`` with V the left null space of M, in a thousandth."""
    problem = random_problem(seed, width=6, outs=(6, 7), tokens=(2, 2))
    maps = projected_map(problem, Projection(rank, 1.0))
    left, values, _ = torch.linalg.svd(maps.matrix)
    null = left[:, values < 1e-9 * values[0]]
    seen = problem.rows @ null
    between = null.mT @ torch.linalg.inv(problem.gram.total) @ null
    closed = float((seen @ torch.linalg.inv(between) * seen).sum())
    concept, target = groups(problem)
    found = certify(problem.gram, maps, concept, target)
    assert float(found.bound) <= closed * (1 + 1e-9)
    assert float(found.bound) == pytest.approx(closed, rel=2e-3)
    assert float(found.holds_to) > 1e3
    difference = (concept - target)[0]
    size = sum(float((difference @ weight.mT).square().sum()) for weight in problem.weights)
    assert float(found.relative) == pytest.approx(float(found.bound) / size)


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_edit_that_can_be_undone_has_no_certificate_without_a_budget(epochs: int) -> None:
    problem = random_problem(3, width=6, outs=(6, 7))
    concept, target = groups(problem)
    found = certify(problem.gram, core_maps(problem, epochs), concept, target)
    assert float(found.bound) == 0
    assert float(found.holds_to) == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_weights_keep_what_is_certified_of_them(dtype: torch.dtype) -> None:
    """The attack is made on the rounded weights, by least squares."""
    problem = random_problem(11, width=8, outs=(10, 12))
    problem = problem.with_pairs(problem.pairs[:1])
    concept, target = groups(problem)
    maps = projected_map(problem, Projection(1, 1.0))
    present = [(weight @ maps.matrix).to(dtype).double() for weight in problem.weights]
    exact = [weight @ maps.matrix for weight in problem.weights]
    moved = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(present, exact, strict=True)))
    assert 0 < moved <= storing_error(problem.gram, maps, dtype)
    stacked, wanted = torch.cat(present), torch.cat([problem.rows @ weight.mT for weight in problem.weights], dim=-1)
    for budget in (0.5, 1.0, 3.0):
        found = float(certify(problem.gram, maps, concept, target, budget, stored=dtype).bound)
        least = math.inf
        radius = budget * float(torch.linalg.norm(concept))
        for ridge in 10 ** torch.linspace(-6, 3, 60, dtype=torch.float64):
            system = stacked.mT @ stacked + ridge * torch.eye(problem.width, dtype=torch.float64)
            attack = torch.linalg.solve(system, stacked.mT @ wanted.mT).mT
            attack = attack * min(1.0, radius / float(torch.linalg.norm(attack)))
            least = min(least, float((attack @ stacked.mT - wanted).square().sum()))
        assert 0 < found <= least
        assert found <= float(certify(problem.gram, maps, concept, target, budget).bound)


def test_prompts_are_certified_one_by_one_and_rows_alone_are_prompts_of_one_row() -> None:
    problem = random_problem(6, width=8, tokens=(3, 3))
    maps = projected_map(problem, Projection(2, 1.0))
    concept, target = problem.rows.reshape(2, 3, -1), problem.target_rows.reshape(2, 3, -1)
    for budget in (None, 0.5):
        together = certify(problem.gram, maps, concept, target, budget)
        for place in range(2):
            alone = certify(problem.gram, maps, concept[place, None], target[place, None], budget)
            assert float(together.bound[place]) == pytest.approx(float(alone.bound), rel=1e-9)
        rows = certify(problem.gram, maps, problem.rows[:, None], problem.target_rows[:, None], budget)
        assert rows.bound.shape == (6,)
    # A budget for all rows may go where it is worth the most: no more is certified for the prompt than for its rows.
    assert float(rows.bound[:3].sum()) >= float(together.bound[0]) - 1e-9


def test_rounding_of_a_sum_is_within_its_bound() -> None:
    """The bound that everything rests on, on sums whose exact value is known."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-(2**20), 2**20, (64, 5000), generator=generator) for _ in range(2))
    exact = [
        sum(int(a) * int(b) for a, b in zip(x, y, strict=True))
        for x, y in zip(left.tolist(), right.tolist(), strict=True)
    ]
    scale = 1 / 3  # makes every factor inexact, both sides alike
    x, y = left.double() * scale, right.double()
    found = (x * y).sum(1)
    sizes = (x.abs() * y.abs()).sum(1)
    # One rounding more for the factor itself, one for that of the comparison.
    wanted = torch.tensor([value / 3 for value in exact], dtype=torch.float64)
    assert bool(((found - wanted).abs() <= gamma(5002) * sizes + 2.0**-52 * wanted.abs()).all())


@pytest.mark.parametrize("budget", [-0.5, math.nan])
def test_a_budget_that_makes_no_sense_is_refused(budget: float) -> None:
    problem = random_problem(1)
    with pytest.raises(ConfigurationError, match="budget"):
        certify(problem.gram, EmbeddingMap.identity(problem.width), *groups(problem), budget)


def test_a_concept_that_is_its_target_has_no_relative_bound() -> None:
    problem = random_problem(2)
    rows = problem.rows[None]
    found = certify(problem.gram, projected_map(problem, Projection(1)), rows, rows, 1.0)
    assert math.isnan(float(found.relative))
