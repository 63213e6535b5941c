"""DP: concepts become their safe projections, and what is preserved does not see it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import DP, EmbeddingMap, Moments
from rece_lightning.core.editors.dp import project_twice
from rece_lightning.core.editors.null_space import free_directions
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import Problem, projected_map, random_problem, relative

EXACT = 1e-9
"""τ so small that a direction is free where the preserved prompts have nothing but rounding."""


def problems(tokens: tuple[int, ...] = (2, 3)) -> st.SearchStrategy[Problem]:
    """More directions than what is preserved, its targets and the concepts fill."""
    return st.builds(
        lambda seed, width, preserved: random_problem(seed, width=width, tokens=tokens, preserved=preserved),
        st.integers(0, 2**20),
        st.integers(12, 20),
        st.integers(1, 4),
    )


def span(rows: Tensor) -> Tensor:
    """The projector on the span of rows, by singular vectors."""
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    axes = right[values > 1e-7 * values[0]] if len(rows) else right
    return axes.mT @ axes


def erased_rows(problem: Problem) -> tuple[Tensor, Tensor]:
    pairs = problem.pairs
    return torch.cat([one.first_rows for one in pairs]), torch.cat([one.first_target_rows for one in pairs])


@given(problem=problems(tokens=(1,)))
def test_one_row_is_the_papers_formula_in_every_layer(problem: Problem) -> None:
    """``ΔW = W (P_S c − c)(U₂ᵀc)ᵀ U₂ᵀ/‖U₂ᵀc‖²``, U₂ of the preserved rows' singular vectors, S of rows and target."""
    concept, target = (rows[0] for rows in erased_rows(problem))
    u2 = torch.linalg.svd(problem.preserved.mT)[0][:, len(problem.preserved) :]
    proxy = span(torch.cat([problem.preserved, target[None]])) @ concept
    seen = u2.mT @ concept
    found = projected_map(problem, DP(EXACT, None))
    for weight in problem.weights:
        expected = weight + torch.outer(weight @ (proxy - concept), seen) @ u2.mT / (seen @ seen)
        assert relative(weight @ found.matrix, expected) < 1e-6


@given(problem=problems())
def test_concepts_become_their_proxies_and_what_is_preserved_stays(problem: Problem) -> None:
    concepts, targets = erased_rows(problem)
    found = projected_map(problem, DP(EXACT, len(concepts)))
    safe = span(torch.cat([problem.preserved, targets]))
    assert relative(concepts @ found.matrix.mT, concepts @ safe) < 1e-6
    assert relative(problem.preserved @ found.matrix.mT, problem.preserved) < 1e-6


@given(problem=problems(), seed=st.integers(0, 1000))
def test_no_smaller_change_does_so(problem: Problem, seed: int) -> None:
    """Any other change that reads free directions alone and takes the concepts to their proxies is larger."""
    concepts, _ = erased_rows(problem)
    found = projected_map(problem, DP(EXACT, len(concepts))).change
    free = torch.eye(problem.width, dtype=torch.float64) - span(torch.cat([problem.preserved, concepts]))
    other = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ free
    assert float(torch.linalg.norm(other @ torch.cat([problem.preserved, concepts]).mT)) < 1e-6
    assert float(torch.linalg.norm(found + other)) > float(torch.linalg.norm(found))


@given(problem=problems())
def test_what_lies_in_no_safe_direction_is_out_of_every_embeddings_reach(problem: Problem) -> None:
    """With one target for all of them, that is not preserved: one direction of the concepts can still be reached."""
    target = problem.pairs[0].first_target_rows[:1]
    pairs = [replace(one, first_target_rows=target.expand_as(one.first_rows)) for one in problem.pairs]
    concepts, _ = erased_rows(problem)
    found = projected_map(problem.with_pairs(pairs), DP(EXACT, len(concepts))).matrix
    values = torch.linalg.svdvals(found)
    assert int((values < 1e-7).sum()) == len(concepts) - 1


@given(problem=problems(), first=st.integers(1, 3))
def test_a_target_that_is_preserved_leaves_an_orthogonal_projection(problem: Problem, first: int) -> None:
    kept = replace(problem, preserved=torch.cat([problem.preserved, erased_rows(problem)[1]]))
    found = projected_map(kept, DP(EXACT, first)).matrix
    assert relative(found, found.mT) < 1e-6
    assert relative(found @ found, found) < 1e-6
    assert float(found.trace()) == pytest.approx(problem.width - first, abs=1e-6)


def test_directions_of_a_target_count_as_safe_from_the_threshold_on() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    moments = Moments.of(eye[2:3] + eye[3:4], torch.tensor([[0.0, 0.0, 3.0, 0.1]], dtype=torch.float64))
    free = eye[:, 2:]
    concept = eye[2] + eye[3]
    assert relative(project_twice(moments, free, 1, 0.1).matrix @ concept, torch.tensor([0, 0, 1.0, 0]).double()) < 0.1
    assert float(torch.linalg.norm(project_twice(moments, free, 1, 5.0).matrix @ concept)) < 1e-12


def test_free_directions_are_read_against_the_mean_energy() -> None:
    energies = torch.tensor([7.0, 0.8, 0.2, 0.0], dtype=torch.float64)
    found = [free_directions(factor * torch.diag(energies), 0.3).shape[1] for factor in (1.0, 1e-6, 1e6)]
    assert found == [2, 2, 2]  # the mean is 2, and 0.2 and 0 lie below 0.6
    assert free_directions(torch.zeros(4, 4, dtype=torch.float64), 0.1).shape == (4, 4)


def test_factors_are_narrow() -> None:
    found = projected_map(random_problem(3, width=12, tokens=(1,), preserved=2), DP(EXACT))
    assert isinstance(found, EmbeddingMap)
    assert found.factors is not None
    torch.testing.assert_close(found.factors[0] @ found.factors[1], found.change)


def test_it_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ConfigurationError, match=r"DP\.threshold: .*larger value"):
        projected_map(random_problem(2, preserved=40), DP(EXACT))
    for settings, named in (({"threshold": -1.0}, "threshold"), ({"rank": 1.5}, "rank"), ({"rank": 0}, "rank")):
        with pytest.raises(ConfigurationError, match=rf"DP\.{named}: "):
            DP(**settings)  # type: ignore[arg-type]
