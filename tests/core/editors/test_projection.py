"""The projection editor: the least change that erases, and what it makes unreachable."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import UCE, EditProblem, EmbeddingMap, Eraser, Gram, Method, Moments
from rece_lightning.core.editors.projection import GramRoot, Projection, leading_directions, project
from rece_lightning.core.editors.uce import edit
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import Problem, erasure_problems, projected_map, random_problem, relative


def cost(problem: Problem, change: Tensor, shrinkage: float) -> float:
    """``Σ_l Σ_j ‖W_l N c_j‖²/Σ‖c_j‖² + κ/tr G⁻¹ · Σ_l ‖W_l N G^{-1/2}‖²``, as sums over layers and rows."""
    gram = sum(weight.mT @ weight for weight in problem.weights)
    inverse = torch.linalg.inv(gram)
    root = torch.linalg.cholesky(inverse)
    rows = problem.preserved
    total = 0.0
    for weight in problem.weights:
        moved = weight @ change
        if len(rows):
            total += float((rows @ moved.mT).square().sum() / rows.square().sum())
        total += shrinkage * float((moved @ root).square().sum() / inverse.trace())
    return total


def differences(problem: Problem) -> Tensor:
    """Rows ``√w (c − c*)`` that epoch 0 erases, ``[n, d]``."""
    parts = [pair.weight**0.5 * (pair.first_rows - pair.first_target_rows) for pair in problem.pairs]
    return torch.cat(parts)


def well_posed() -> st.SearchStrategy[Problem]:
    """Models with as many outputs as the width, so that G can be inverted plainly."""
    return st.builds(
        lambda seed, width, preserved, rows: random_problem(
            seed, width=width, outs=(width, width + 2), tokens=(2, 3), preserved=preserved, rows=rows
        ),
        st.integers(0, 2**20),
        st.integers(3, 8),
        st.sampled_from([0, 1, 5, 20]),
        st.sampled_from(["independent", "common"]),
    )


@given(problem=well_posed(), rank=st.integers(1, 2), shrinkage=st.sampled_from([0.03, 1.0, 20.0]))
def test_map_is_the_plain_formula(problem: Problem, rank: int, shrinkage: float) -> None:
    """``I − Δ (VᵀΔ)⁻¹ Vᵀ`` with ``V = (P/tr P + κ G⁻¹/tr G⁻¹)⁻¹ Δ``, by inverses; Δ by singular values of the rows."""
    gram = problem.gram.total
    inverse, eye = torch.linalg.inv(gram), torch.eye(problem.width, dtype=torch.float64)
    rows = differences(problem)
    left, values, _ = torch.linalg.svd(rows @ torch.linalg.cholesky(gram), full_matrices=False)
    if values[rank - 1] - (values[rank] if len(values) > rank else 0) < 1e-3 * values[0]:
        return  # the leading directions are not determined
    # The principal components' scores give the directions back in the span of the rows.
    delta = rows.mT @ left[:, :rank]
    preserved = problem.preserving.preserved
    between = shrinkage * inverse / inverse.trace() + (preserved / preserved.trace() if len(problem.preserved) else 0)
    normal = torch.linalg.inv(between) @ delta
    expected = eye - delta @ torch.linalg.inv(normal.mT @ delta) @ normal.mT
    assert relative(projected_map(problem, Projection(rank, shrinkage)).matrix, expected) < 1e-6


@given(problem=well_posed(), rank=st.integers(1, 2), seed=st.integers(0, 1000))
def test_no_other_map_that_erases_costs_less(problem: Problem, rank: int, seed: int) -> None:
    """Any change of the map that leaves ``E Δ = 0`` costs more."""
    settings = Projection(rank, 1.5)
    found = projected_map(problem, settings).matrix
    eye = torch.eye(problem.width, dtype=torch.float64)
    _, values, right = torch.linalg.svd(found)
    null = right[values < 1e-9 * values[0]].mT
    assert null.shape[1] == rank
    least = cost(problem, found - eye, settings.shrinkage)
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-3, 0.1, 1.0):
        other = torch.randn(eye.shape, generator=generator, dtype=torch.float64) * size
        other = other - other @ null @ null.mT  # keeps what the map does to the span of Δ: nothing
        assert float(torch.linalg.norm((found + other) @ null)) < 1e-8
        assert cost(problem, found + other - eye, settings.shrinkage) >= least * (1 - 1e-12)


def test_it_is_the_limit_of_uce_where_erasing_weighs_all_and_keys_and_values_see_alike() -> None:
    """With ``G = I`` the ridge is UCE's own: λ₁ = 1/tr P, λ₂ = κ/d, the difference onto nothing, and η → ∞."""
    problem = replace(random_problem(4, width=6, preserved=5), weights=[torch.eye(6, dtype=torch.float64)])
    settings = Projection(2, 0.7)
    found = projected_map(problem, settings).matrix
    _, values, right = torch.linalg.svd(found)
    delta = right[values < 1e-9]
    moments = Moments.of(delta, torch.zeros_like(delta)) + problem.preserving
    trace = float(problem.preserved.square().sum())
    limit = edit(moments, UCE(1e7, 1 / trace, settings.shrinkage / 6)).matrix
    assert relative(found, limit) < 1e-5


@given(problem=erasure_problems(), shrinkage=st.sampled_from([0.1, 3.0]))
def test_it_projects(problem: Problem, shrinkage: float) -> None:
    """A projection, on every model: doing it twice is doing it once, and the rank that is lost is the one asked for."""
    for rank in (1, 2):
        found = projected_map(problem, Projection(rank, shrinkage)).matrix
        size = float(torch.linalg.norm(found))
        assert float(torch.linalg.norm(found @ found - found)) < 1e-6 * max(size, size**2) + 1e-12
        lost = problem.width - float(found.trace())
        assert lost == pytest.approx(round(lost), abs=1e-6 * max(size, 1.0))
        assert round(lost) <= min(rank, problem.width)


@given(problem=erasure_problems())
def test_a_concept_of_one_direction_becomes_its_target_but_for_what_the_target_shares(problem: Problem) -> None:
    """``M (c − c*) = 0``: both answer alike."""
    pair = problem.pairs[0]
    one = problem.with_pairs(
        [replace(pair, first_rows=pair.first_rows[:1], first_target_rows=pair.first_target_rows[:1])]
    )
    found = projected_map(one, Projection(1, 1.0))
    concept, target = (found.apply_to_embeddings(rows[:1]) for rows in (pair.first_rows, pair.first_target_rows))
    for weight in problem.weights:
        size = float(torch.linalg.norm(weight) * (torch.linalg.norm(concept) + torch.linalg.norm(pair.first_rows[:1])))
        assert float(torch.linalg.norm((concept - target) @ weight.mT)) <= 1e-7 * size + 1e-12


@given(problem=well_posed(), epochs=st.integers(2, 3), accumulate=st.booleans())
def test_what_was_unreachable_stays_so_and_every_epoch_takes_more(
    problem: Problem, epochs: int, accumulate: bool
) -> None:
    """``VᵀM = 0`` outlives later epochs; what those derive is taken out as well, as far as the width goes."""
    first = projected_map(problem, Projection(1, 1.0)).matrix
    later = projected_map(problem, Projection(1, 1.0), epochs, accumulate=accumulate).matrix
    _, values, right = torch.linalg.svd(first.mT)
    unreachable = right[values < 1e-9 * values[0]]
    assert float(torch.linalg.norm(unreachable @ later)) < 1e-8 * float(torch.linalg.norm(first))
    ranks = [int(torch.linalg.matrix_rank(matrix, atol=1e-9)) for matrix in (first, later)]
    assert ranks[0] == problem.width - 1
    assert ranks[1] <= ranks[0] - (epochs - 1 if problem.width > epochs else 0)


@given(problem=erasure_problems(), epochs=st.integers(1, 3), accumulate=st.booleans())
def test_rows_and_moments_give_one_map(problem: Problem, epochs: int, accumulate: bool) -> None:
    method, rows = Method(editor=Projection(1, 1.0), accumulate=accumulate), problem.row_pairs
    evidence = replace(problem.evidence, first=problem.moments, first_prompts=(), whole_prompts=())
    by_moments = Eraser(method, evidence, problem.gram).run(epochs).maps
    by_rows = Eraser(method, replace(evidence, first_rows=rows, whole_rows=rows), problem.gram).run(epochs).maps
    assert isinstance(by_moments, EmbeddingMap)
    assert isinstance(by_rows, EmbeddingMap)
    if epochs == 1:
        assert relative(by_rows.matrix, by_moments.matrix) < 1e-6


@given(problem=well_posed(), factor=st.sampled_from([0.1, 7.0]))
def test_scale_of_the_model_of_the_weights_and_of_the_preserved_does_not_matter(
    problem: Problem, factor: float
) -> None:
    """The three settings of UCE must be read against ``tr(G)/d``; r and κ need not."""
    settings = Projection(1, 1.0)
    expected = projected_map(problem, settings).matrix
    louder = replace(problem, weights=[factor * weight for weight in problem.weights])
    heavier = problem.with_pairs([replace(pair, weight=factor * pair.weight) for pair in problem.pairs])
    repeated = replace(problem, preserved=problem.preserved.repeat(3, 1))
    for other in (louder, heavier, repeated):
        assert relative(projected_map(other, settings).matrix, expected) < 1e-6


def test_nothing_to_erase_is_no_edit() -> None:
    problem = random_problem(2)
    rows = problem.pairs[0].rows
    moments = Moments.of(rows, rows) + problem.preserving
    identity = EmbeddingMap.identity(problem.width)
    found = Projection()(EditProblem(moments, moments.preserved, problem.gram, identity))
    assert torch.equal(found.matrix, EmbeddingMap.identity(problem.width).matrix)


def test_rank_goes_by_prompts_or_by_the_share_of_the_differences() -> None:
    problem = random_problem(7, width=8, tokens=(2, 2, 2))
    assert projected_map(problem, Projection()).matrix.trace() == pytest.approx(8 - 3)
    gram = problem.gram.total
    rows = differences(problem)
    values = torch.linalg.svdvals(rows @ torch.linalg.cholesky(gram)).square()
    shares = values.cumsum(0) / values.sum()
    root = GramRoot.of(gram).root
    size = float(values.sum())
    for share in (0.3, 0.6, 0.9, float(shares[1])):
        axes, directions = leading_directions(rows.mT @ rows, root, share, size)
        wanted = int((shares < share - 1e-9).sum()) + 1
        assert axes.shape[1] == directions.shape[1] == wanted
        torch.testing.assert_close(root.mT @ directions, axes)


def test_narrow_factors_are_the_map() -> None:
    problem = random_problem(9, width=12)
    found = projected_map(problem, Projection(1))
    assert found.factors is not None
    left, right = found.factors
    torch.testing.assert_close(left @ right, found.change)
    assert left.shape == (12, 1)


@pytest.mark.parametrize(
    ("field", "values"), [("rank", [0, -1, 1.5, float("nan")]), ("shrinkage", [0.0, -1.0, float("inf")])]
)
def test_settings_that_make_no_sense_are_refused(field: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=rf"Projection\.{field}: "):
            Projection(**{field: value})


def test_a_model_with_one_output_is_projected_where_it_looks() -> None:
    """G has rank 1: what no key or value sees is left alone."""
    gram = Gram.of([("only", torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))])
    moments = Moments.of(torch.tensor([[2.0, 1.0, 0.0]]), torch.zeros(1, 3)) + Moments.preserving(torch.eye(3))
    found = project(moments, gram, EmbeddingMap.identity(3), 1, 1.0).matrix
    assert float(found[0].abs().max()) < 1e-12
    assert found[2].tolist() == [0, 0, 1]
