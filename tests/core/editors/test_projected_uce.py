"""UCE behind a projection: the nearest reachable embedding, what it costs, and what no later edit brings back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import UCE, EditProblem, EmbeddingMap, Eraser, Gram, Method, Moments, ProjectedUCE
from rece_lightning.core.certificate import certify
from rece_lightning.core.editors.projected_uce import nearest_reachable, telling_apart, worth_taking
from rece_lightning.core.editors.projection import GramRoot, Projection, project
from rece_lightning.core.errors import ConfigurationError
from tests.core.editors.test_projection import differences, well_posed
from tests.helpers.plain import Erased, plain_edit
from tests.helpers.problems import Problem, core_weights, erasure_problems, projected_map, random_problem, relative

KAPPA = 2.0


def nearest(problem: Problem, rank: int = 1, shrinkage: float = KAPPA) -> EmbeddingMap:
    """``Q`` of the first edit."""
    return nearest_of(problem.first_moments, problem.gram, rank, shrinkage)


def nearest_of(moments: Moments, gram: Gram, rank: int, shrinkage: float) -> EmbeddingMap:
    base = GramRoot.of(gram.total)
    return nearest_reachable(base, telling_apart(moments, gram, base.root, rank, shrinkage / base.inverse_trace))


def plain_normals(problem: Problem, rank: int, shrinkage: float) -> Tensor:
    """``V = (P/tr P + κ G⁻¹/tr G⁻¹)⁻¹ Δ`` by inverses; Δ by singular values of the rows."""
    gram = problem.gram.total
    inverse, rows = torch.linalg.inv(gram), differences(problem)
    left, values, _ = torch.linalg.svd(rows @ torch.linalg.cholesky(gram), full_matrices=False)
    # Otherwise the leading directions are not determined.
    assume(values[rank - 1] - (values[rank] if len(values) > rank else 0) >= 1e-3 * values[0])
    between = shrinkage * inverse / inverse.trace()
    if len(problem.preserved):
        scatter = problem.preserving.preserved
        between = between + scatter / scatter.trace()
    return torch.linalg.inv(between) @ rows.mT @ left[:, :rank]


@given(problem=well_posed(), rank=st.integers(1, 2), shrinkage=st.sampled_from([0.03, 1.0, 20.0]))
def test_every_layer_is_the_plain_formulas(problem: Problem, rank: int, shrinkage: float) -> None:
    """``W Q`` with ``Q = I − G⁻¹V (VᵀG⁻¹V)⁻¹ Vᵀ``, then UCE's closed form a layer, from the rows."""
    normals, inverse = plain_normals(problem, rank, shrinkage), torch.linalg.inv(problem.gram.total)
    inside = torch.linalg.inv(normals.mT @ inverse @ normals)
    projected = torch.eye(problem.width, dtype=torch.float64) - inverse @ normals @ inside @ normals.mT
    erased = [Erased(one.first_rows, one.first_target_rows, one.weight) for one in problem.pairs]
    scales = {"erase_scale": 0.8, "preserve_scale": 0.3, "lamb": 0.2}
    found = projected_map(problem, ProjectedUCE(**scales, rank=rank, shrinkage=shrinkage))
    for weight, edited in zip(problem.weights, core_weights(problem, found), strict=True):
        assert relative(edited, plain_edit(weight @ projected, erased, problem.preserved, **scales)) < 1e-6


@given(problem=well_posed(), rank=st.integers(1, 2), seed=st.integers(0, 1000))
def test_no_reachable_embedding_is_nearer(problem: Problem, rank: int, seed: int) -> None:
    """``Q x`` against other embeddings without a part along V, as keys and values see the distance."""
    normals, found = plain_normals(problem, rank, KAPPA), nearest(problem, rank)
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(problem.width, generator=generator, dtype=torch.float64)
    reached = found.matrix @ row
    size = float(torch.linalg.norm(normals) * torch.linalg.norm(row))
    assert float((normals.mT @ reached).abs().max()) < 1e-8 * size * (1 + float(torch.linalg.norm(found.matrix)))

    def distance(other: Tensor) -> float:
        return sum(float((weight @ (other - row)).square().sum()) for weight in problem.weights)

    orthonormal = torch.linalg.qr(normals)[0]
    for length in (1e-3, 0.1, 1.0, 10.0):
        step = length * torch.randn(problem.width, generator=generator, dtype=torch.float64)
        other = reached + step - orthonormal @ (orthonormal.mT @ step)
        assert distance(other) >= distance(reached) * (1 - 1e-9)


@given(problem=erasure_problems(), rank=st.integers(1, 3))
def test_it_projects_what_keys_and_values_see_orthogonally(problem: Problem, rank: int) -> None:
    """On every model, where G is singular too: ``Fᵀ Q F⁺ᵀ`` is symmetric, idempotent, and loses r directions."""
    base, found = GramRoot.of(problem.gram.total), nearest(problem, rank)
    seen = base.root.mT @ found.matrix @ base.dual
    assert float(torch.linalg.norm(seen - seen.mT)) < 1e-7
    assert float(torch.linalg.norm(seen @ seen - seen)) < 1e-7
    lost = seen.shape[0] - float(seen.trace())
    assert lost == pytest.approx(round(lost), abs=1e-7)
    assert round(lost) <= min(rank, seen.shape[0])


@given(problem=well_posed(), scales=st.sampled_from([(1.0, 0.1, 0.1), (3.0, 0.0, 5.0)]), epochs=st.integers(1, 3))
def test_nothing_that_follows_answers_along_v_again(
    problem: Problem, scales: tuple[float, float, float], epochs: int
) -> None:
    """``VᵀM = 0`` to rounding, whatever UCE's scales and however many epochs, of this editor or of UCE alone."""
    normals = torch.linalg.qr(plain_normals(problem, 1, KAPPA))[0]
    editor = ProjectedUCE(*scales, rank=1, shrinkage=KAPPA)
    for method in (Method(editor=editor), Method(editor=UCE(*scales), first_editor=editor)):
        maps = Eraser(method, problem.evidence, problem.gram).run(epochs).maps
        assert isinstance(maps, EmbeddingMap)
        assert float(torch.linalg.norm(normals.mT @ maps.matrix)) < 1e-9 * (1 + float(torch.linalg.norm(maps.matrix)))


def test_every_epoch_takes_directions_out_and_uce_takes_none() -> None:
    problem = random_problem(3, width=10, outs=(12, 11), tokens=(2, 2))
    editor = ProjectedUCE(rank=1)
    for epochs in (1, 2, 3):
        again = Eraser(Method(editor=editor), problem.evidence, problem.gram).run(epochs).maps.of_layer(0)
        once = Eraser(Method(editor=UCE(), first_editor=editor), problem.evidence, problem.gram).run(epochs).maps
        assert int(torch.linalg.matrix_rank(again, atol=1e-9)) == 10 - epochs
        assert int(torch.linalg.matrix_rank(once.of_layer(0), atol=1e-9)) == 9


@given(problem=well_posed())
def test_the_nearest_point_moves_every_preserved_row_less_than_the_oblique_map(problem: Problem) -> None:
    """``|Vᵀx|/√(VᵀG⁻¹V)`` against ``|Vᵀx| ‖Δ‖/|VᵀΔ|``: their ratio is the root of the certificate's own share."""
    assume(len(problem.preserved) > 0)
    one = problem.with_pairs([replace(problem.pairs[0], first_rows=problem.pairs[0].first_rows[:1],
                                      first_target_rows=problem.pairs[0].first_target_rows[:1])])  # fmt: skip
    identity, moments = EmbeddingMap.identity(one.width), one.first_moments
    oblique = project(moments, one.gram, identity, 1, KAPPA)
    orthogonal = nearest_of(moments, one.gram, 1, KAPPA)
    normals, gram = plain_normals(one, 1, KAPPA)[:, 0], one.gram.total
    delta = differences(one)[0]
    share = float(normals @ delta) ** 2 / float((normals @ torch.linalg.inv(gram) @ normals) * (delta @ gram @ delta))
    assert 0 < share <= 1 + 1e-12
    for row in one.preserved:
        moved = [
            sum(float((weight @ (found.change @ row)).square().sum()) for weight in one.weights) ** 0.5
            for found in (orthogonal, oblique)
        ]
        assert moved[0] == pytest.approx(share**0.5 * moved[1], rel=1e-5, abs=1e-9)


@given(seed=st.integers(0, 2**20), rank=st.integers(1, 2))
def test_its_certificate_is_that_of_v_whatever_uce_makes_of_the_rest(seed: int, rank: int) -> None:
    """``(Vᵀc)ᵀ (VᵀG⁻¹V)⁻¹ (Vᵀc)`` over the rows, in a thousandth."""
    problem = random_problem(seed, width=6, outs=(6, 7), tokens=(2, 2))
    normals, inverse = plain_normals(problem, rank, KAPPA), torch.linalg.inv(problem.gram.total)
    seen = problem.rows @ normals
    closed = float((seen @ torch.linalg.inv(normals.mT @ inverse @ normals) * seen).sum())
    for scales in ((1.0, 0.1, 0.1), (1.0, 5.0, 3.0)):
        maps = projected_map(problem, ProjectedUCE(*scales, rank=rank, shrinkage=KAPPA))
        found = certify(problem.gram, maps, problem.rows[None], problem.target_rows[None])
        assert float(found.bound) <= closed * (1 + 1e-9)
        assert float(found.bound) == pytest.approx(closed, rel=2e-3)
        assert float(found.holds_to) > 1e3


@given(problem=erasure_problems(), epochs=st.integers(1, 3), accumulate=st.booleans())
def test_rows_and_moments_give_one_map(problem: Problem, epochs: int, accumulate: bool) -> None:
    method, rows = Method(editor=ProjectedUCE(rank=1), accumulate=accumulate), problem.row_pairs
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
    """For what is out of reach; UCE's own scales are read against the moments."""
    expected = nearest(problem).matrix
    louder = replace(problem, weights=[factor * weight for weight in problem.weights])
    heavier = problem.with_pairs([replace(pair, weight=factor * pair.weight) for pair in problem.pairs])
    repeated = replace(problem, preserved=problem.preserved.repeat(3, 1))
    for other in (louder, heavier, repeated):
        assert relative(nearest(other).matrix, expected) < 1e-6


@given(problem=well_posed(), price=st.sampled_from([0.3, 1.0, 5.0]), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_no_other_directions_certify_more_for_what_they_move(
    problem: Problem, price: float, rank: int, seed: int
) -> None:
    """Certificates less the price of the drift, both as sums over rows and layers; against random directions."""
    assume(len(problem.preserved) > 0)
    base, moments = GramRoot.of(problem.gram.total), problem.first_moments
    rows = torch.cat([pair.weight**0.5 * pair.first_rows for pair in problem.pairs])

    def seen(some: Tensor) -> float:
        return sum(float((some @ weight.mT).square().sum()) for weight in problem.weights)

    def worth(basis: Tensor) -> float:
        change = nearest_reachable(base, basis).change.mT
        certified = len(problem.pairs) * seen(rows @ change) / seen(differences(problem))
        return certified - price * seen(problem.preserved @ change) / seen(problem.preserved)

    best = worth(worth_taking(moments, base.root, price, len(problem.pairs)))
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(base.root.shape[1], min(rank, problem.width), generator=generator, dtype=torch.float64)
    for tried in (torch.linalg.qr(other)[0], telling_apart(moments, problem.gram, base.root, 1, 1.0)):
        assert worth(tried) <= best + 1e-9 * abs(best)
    assert best >= -1e-12


def test_concepts_that_share_a_direction_cost_one_at_a_price() -> None:
    """Three concepts beside one another differ from the rest alike; what is preserved lies across."""
    eye = torch.eye(8, dtype=torch.float64)
    concept = eye[0] + 0.05 * eye[1:4]
    moments = Moments.of(concept, torch.zeros_like(concept)) + Moments.preserving(eye[1:])
    problem = EditProblem(moments, moments.preserved, Gram.of([("value", eye)]), EmbeddingMap.identity(8), concepts=3)
    found = ProjectedUCE(price=1.0)(problem).matrix
    assert int(torch.linalg.matrix_rank(found, atol=1e-9)) == 7
    assert int(torch.linalg.matrix_rank(ProjectedUCE(rank=None)(problem).matrix, atol=1e-9)) == 5


def test_a_price_needs_something_that_is_preserved_and_something_to_take() -> None:
    problem = random_problem(2)
    rows = problem.pairs[0].rows
    identity, alike = EmbeddingMap.identity(problem.width), Moments.of(rows, rows) + problem.preserving
    editor = ProjectedUCE(price=1.0)
    same = editor(EditProblem(alike, alike.preserved, problem.gram, identity))
    torch.testing.assert_close(same.matrix, identity.matrix)
    nothing = torch.zeros_like(alike.preserved)
    with pytest.raises(ConfigurationError, match=r"ProjectedUCE\.price: 1\.0: .*give data\.preserve"):
        editor(EditProblem(problem.first_moments, nothing, problem.gram, identity))


def test_where_nothing_differs_nothing_is_taken_out() -> None:
    problem = random_problem(2)
    rows = problem.pairs[0].rows
    moments = Moments.of(rows, rows) + problem.preserving
    identity = EmbeddingMap.identity(problem.width)
    given_problem = EditProblem(moments, moments.preserved, problem.gram, identity)
    found = ProjectedUCE()(given_problem)
    torch.testing.assert_close(found.matrix, identity.matrix)
    assert torch.equal(found.matrix, UCE()(given_problem).matrix)


def test_rank_goes_by_prompts_or_by_the_share_of_the_differences() -> None:
    problem = random_problem(7, width=8, tokens=(2, 2, 2))
    for rank, lost in ((None, 3), (2, 2), (0.3, 1)):
        found = projected_map(problem, ProjectedUCE(rank=rank)).matrix
        assert int(torch.linalg.matrix_rank(found, atol=1e-9)) == 8 - lost


def test_a_model_with_one_output_is_projected_where_it_looks() -> None:
    """G has rank 1: what no key or value sees is left alone."""
    gram = Gram.of([("only", torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))])
    moments = Moments.of(torch.tensor([[2.0, 1.0, 0.0]]), torch.zeros(1, 3)) + Moments.preserving(torch.eye(3))
    found = nearest_of(moments, gram, 1, 1.0).matrix
    torch.testing.assert_close(found, torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("rank", [0, -1, 1.5, float("nan")]),
        ("shrinkage", [0.0, -1.0, float("inf")]),
        ("price", [0.0, -1.0, float("nan")]),
        ("lamb", [-1.0]),
        ("erase_scale", [0.0]),
    ],
)
def test_settings_that_make_no_sense_are_refused(field: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=rf"ProjectedUCE\.{field}: "):
            ProjectedUCE(**{field: value})


def test_a_tiny_shrinkage_names_the_setting() -> None:
    problem = random_problem(5, width=8, preserved=1)
    for editor in (ProjectedUCE(shrinkage=1e-18), Projection(shrinkage=1e-18)):
        with pytest.raises(ConfigurationError, match=r"shrinkage \(κ\)"):
            projected_map(problem, editor)
