"""The attacker's best within a budget, against searches that know nothing of eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import EmbeddingMap, Gram, ProjectedUCE
from rece_lightning.core.budget import BUDGETS, Reach, residual_figures, secular_root
from rece_lightning.core.diagnostics import regeneration_residual
from rece_lightning.core.editors.projection import Projection
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import Problem, core_maps, core_weights, erasure_problems, projected_map, random_problem

LARGE = 100.0
"""Maps a layer have no bound where a layer has one output direction; those that lose their digits are left out."""

KINDS: dict[str, Callable[[Problem], AnyMap]] = {
    "unedited": lambda problem: EmbeddingMap.identity(problem.width),
    "uce": lambda problem: core_maps(problem, 1),
    "rece": lambda problem: core_maps(problem, 2),
    "tensor": lambda problem: core_maps(problem, 2, technique="tensor"),
    "projection": lambda problem: projected_map(problem, Projection(1)),
    "projected uce": lambda problem: projected_map(problem, ProjectedUCE(rank=1, shrinkage=1.0)),
    "nothing": lambda problem: EmbeddingMap(torch.zeros(problem.width, problem.width, dtype=torch.float64)),
}


@st.composite
def edited_models(draw: st.DrawFn, width: int = 8) -> tuple[Problem, AnyMap]:
    """A problem with one of all kinds of maps."""
    problem = draw(erasure_problems(width=width))
    maps = KINDS[draw(st.sampled_from(sorted(KINDS)))](problem)
    assume(isinstance(maps, EmbeddingMap) or float(maps.matrices.abs().max()) < LARGE)
    return problem, maps


def squared_distance(problem: Problem, present: list[Tensor], attack: Tensor, concept: Tensor) -> Tensor:
    """``Σ_l ‖W_l x − W_{0,l} c‖²`` of rows, layer by layer."""
    sums = [
        (attack @ now.mT - concept @ before.mT).square().sum(-1)
        for now, before in zip(present, problem.weights, strict=True)
    ]
    return torch.stack(sums).sum(0)


def projected_gradient(problem: Problem, present: list[Tensor], concept: Tensor, radius: float) -> float:
    """The least distance over a ball (Frobenius, of all rows), by accelerated projected gradient steps."""
    stacked = torch.cat(present)
    wanted = torch.cat([concept @ before.mT for before in problem.weights], dim=-1)
    length = 1 / (2 * float(torch.linalg.matrix_norm(stacked, 2)) ** 2 + 1e-12)
    point = ahead = torch.zeros_like(concept)
    for step in range(4000):
        moved = ahead - length * 2 * (ahead @ stacked.mT - wanted) @ stacked
        norm = float(torch.linalg.norm(moved))
        moved = moved * min(1.0, radius / norm) if norm > 0 else moved
        ahead = moved + step / (step + 3) * (moved - point)
        point = moved
    return float((point @ stacked.mT - wanted).square().sum())


@given(model=edited_models(), budget=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
def test_attack_stays_within_the_budget_and_has_the_residual_that_is_claimed(
    model: tuple[Problem, AnyMap], budget: float
) -> None:
    """Row by row and for whole prompts, on every kind of map."""
    problem, maps = model
    rows = problem.rows
    reach, present = Reach.of(problem.gram, maps), core_weights(problem, maps)
    single, whole = reach.embeddings(rows), reach.prompts(rows)
    scale = float(whole.unreachable + whole.energies.sum())
    each = reach.attack(rows, single.multiplier(budget))
    assert bool((each.norm(dim=-1) <= budget * rows.norm(dim=-1) * (1 + 1e-9) + 1e-12).all())
    found = squared_distance(problem, present, each, rows)
    torch.testing.assert_close(found, single.residual(budget), rtol=1e-7, atol=1e-9 * scale)
    together = reach.attack(rows, whole.multiplier(budget).expand(len(rows)))
    assert float(torch.linalg.norm(together)) <= budget * float(torch.linalg.norm(rows)) * (1 + 1e-9) + 1e-12
    total = float(squared_distance(problem, present, together, rows).sum())
    assert total == pytest.approx(float(whole.residual(budget)), rel=1e-7, abs=1e-9 * scale)


@given(model=edited_models(), budget=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_multiplier_is_one_of_the_optimality_conditions(model: tuple[Problem, AnyMap], budget: float) -> None:
    """Stationary with μ ≥ 0, and μ > 0 only where the norm is the budget's (Karush, Kuhn and Tucker)."""
    problem, maps = model
    rows = problem.rows
    reach, present = Reach.of(problem.gram, maps), core_weights(problem, maps)
    multiplier = reach.prompts(rows).multiplier(budget)
    attack = reach.attack(rows, multiplier.expand(len(rows)))
    pull = sum((attack @ now.mT - rows @ before.mT) @ now for now, before in zip(present, problem.weights, strict=True))
    layers = zip(present, problem.weights, strict=True)
    size = sum(float(torch.linalg.norm(rows @ before.mT) * torch.linalg.norm(now)) for now, before in layers)
    assert float(multiplier) >= 0
    assert float(torch.linalg.norm(pull + multiplier * attack)) <= 1e-7 * size + 1e-12
    if float(multiplier) > 0:
        assert float(torch.linalg.norm(attack)) == pytest.approx(budget * float(torch.linalg.norm(rows)), rel=1e-9)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("budget", [0.2, 2.0])
def test_no_search_comes_closer(kind: str, budget: float) -> None:
    """Projected gradient steps end at the same residual; no random embedding within the budget is nearer."""
    problem = random_problem(8, width=5, outs=(4, 6), tokens=(2, 2))
    maps, rows = KINDS[kind](problem), problem.rows
    present = core_weights(problem, maps)
    radius = budget * float(torch.linalg.norm(rows))
    found = float(Reach.of(problem.gram, maps).prompts(rows).residual(budget))
    assert projected_gradient(problem, present, rows, radius) == pytest.approx(found, rel=1e-5, abs=1e-8)
    generator = torch.Generator().manual_seed(8)
    tries = torch.randn(4000, *rows.shape, generator=generator, dtype=torch.float64)
    tries *= (
        radius * torch.rand(4000, 1, 1, generator=generator, dtype=torch.float64) / tries.norm(dim=(1, 2), keepdim=True)
    )
    assert float(squared_distance(problem, present, tries, rows).sum(-1).min()) >= found * (1 - 1e-9)


@given(model=edited_models(), low=st.floats(0, 5), more=st.floats(0, 5))
def test_residual_falls_with_the_budget_from_everything_to_what_is_out_of_reach(
    model: tuple[Problem, AnyMap], low: float, more: float
) -> None:
    problem, maps = model
    rows = problem.rows
    attacks = Reach.of(problem.gram, maps).embeddings(rows)
    near, far = attacks.residual(low + more), attacks.residual(low)
    whole = (rows @ problem.gram.total * rows).sum(-1)
    assert bool((near <= far + 1e-9 * whole).all())
    assert bool((attacks.unreachable <= near + 1e-9 * whole).all())
    torch.testing.assert_close(attacks.residual(0.0), whole)
    torch.testing.assert_close(attacks.residual(math.inf), attacks.unreachable)


@given(model=edited_models(), ridge=st.sampled_from([1e-2, 0.1, 10.0]))
def test_an_attacker_with_a_ridge_is_one_with_a_budget(model: tuple[Problem, AnyMap], ridge: float) -> None:
    """The residual of ``core/diagnostics.py`` is that of its own norm, and its penalty."""
    problem, maps = model
    attacks = Reach.of(problem.gram, maps).moments(problem.moments.erased)
    norm = float(attacks.norm(torch.tensor(ridge, dtype=torch.float64)))
    budget = math.sqrt(norm / float(attacks.norms))
    expected = regeneration_residual(problem.gram, maps, problem.moments.erased, ridge)
    whole = float((problem.gram.total * problem.moments.erased).sum())
    assert (float(attacks.residual(budget)) + ridge * norm) / whole == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(model=edited_models())
def test_moments_say_what_rows_say(model: tuple[Problem, AnyMap]) -> None:
    """One budget for all rows, each counted with its weight."""
    problem, maps = model
    weights = torch.tensor(problem.row_weights, dtype=torch.float64)[:, None]
    reach = Reach.of(problem.gram, maps)
    rows, moments = reach.prompts(weights.sqrt() * problem.rows), reach.moments(problem.moments.erased)
    scale = float(rows.energies.sum() + rows.unreachable)
    for budget in BUDGETS:
        expected = float(rows.residual(budget))
        assert float(moments.residual(budget)) == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale)


def test_batches_are_answered_one_by_one() -> None:
    problem = random_problem(5, tokens=(3, 3, 3))
    rows = problem.rows.reshape(3, 3, -1)
    reach = Reach.of(problem.gram, projected_map(problem, Projection(2)))
    for budget in (0.3, 1.0, math.inf):
        together, apart = reach.prompts(rows).residual(budget), [reach.prompts(one).residual(budget) for one in rows]
        torch.testing.assert_close(together, torch.stack(apart))
        single = reach.embeddings(rows).residual(budget)
        assert single.shape == (3, 3)
        torch.testing.assert_close(single[1, 2], reach.embeddings(rows[1, 2]).residual(budget))


def test_figures_are_shares_of_the_original_answers() -> None:
    problem = random_problem(3)
    nothing = EmbeddingMap(torch.zeros(problem.width, problem.width, dtype=torch.float64))
    assert set(residual_figures(problem.gram, nothing, problem.moments.erased).values()) == {1.0}
    identity = residual_figures(problem.gram, EmbeddingMap.identity(problem.width), problem.moments.erased)
    assert identity["regeneration_residual_at_1"] == pytest.approx(0, abs=1e-12)
    # Half of every embedding is within half the norm, and leaves a quarter; the best is no worse.
    assert 0 < identity["regeneration_residual_at_0.5"] <= 0.25


@given(seed=st.integers(0, 2**20), spread=st.sampled_from([0.0, 3.0, 12.0]), radius=st.floats(1e-6, 1e6))
def test_secular_root_solves_its_equation(seed: int, spread: float, radius: float) -> None:
    """Over strengths of up to twelve orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    strengths = 10 ** (-spread * torch.rand(6, generator=generator, dtype=torch.float64))
    weights = torch.rand(3, 6, generator=generator, dtype=torch.float64) * strengths
    root = secular_root(strengths, weights, torch.full((3,), radius, dtype=torch.float64))
    norms = (weights / (strengths + root[:, None]).square()).sum(-1).sqrt()
    for value, norm in zip(root.tolist(), norms.tolist(), strict=True):
        assert norm == pytest.approx(radius, rel=1e-9) if value > 0 else norm <= radius * (1 + 1e-12)


@pytest.mark.parametrize("budget", [-1.0, math.nan, "1", True])
def test_a_budget_that_makes_no_sense_is_refused(budget: float) -> None:
    problem = random_problem(1)
    with pytest.raises(ConfigurationError, match="budget"):
        Reach.of(problem.gram, EmbeddingMap.identity(problem.width)).embeddings(problem.rows).residual(budget)


def test_a_model_that_answers_less_than_the_width_is_no_special_case() -> None:
    """One output: G has rank 1."""
    gram = Gram.of([("only", torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64))])
    attacks = Reach.of(gram, EmbeddingMap.identity(3)).embeddings(torch.tensor([[1.0, 0.0, 5.0]]))
    # The answer 1 is had from ‖x‖ = 1/√5.
    assert float(attacks.residual(1.0)) == pytest.approx(0, abs=1e-12)
    half = 0.5 / math.sqrt(5) / math.sqrt(26)
    assert float(attacks.residual(half)) == pytest.approx(0.25)
