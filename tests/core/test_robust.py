"""The robust loop's epochs against rows, layer by layer, and against optimality."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import (
    UCE,
    Derivation,
    Editor,
    EmbeddingMap,
    Eraser,
    Evidence,
    Method,
    Moments,
    NullSpace,
    Projection,
)
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.robust import Joined, Robust, derivations
from tests.helpers.problems import Problem, erasure_problems, method_of, random_problem, relative

NORMS = st.lists(st.sampled_from([0.2, 0.5, 1.0, 2.0]), min_size=0, max_size=3, unique=True)


def eraser_of(problem: Problem, robust: Robust | None, joined: Joined | None = None, **settings: Any) -> Eraser:
    """The problem's eraser with what joins its rows."""
    evidence = replace(problem.evidence, first_prompts=(), whole_prompts=(), joined=joined)
    return Eraser(method_of(problem, robust=robust, **settings), evidence, problem.gram)


def matrix_of(eraser: Eraser, epochs: int) -> Tensor:
    maps = eraser.run(epochs).maps
    assert isinstance(maps, EmbeddingMap)
    return maps.matrix


def name_of(editor: Editor) -> str:
    return type(editor).__name__


def joined_rows(problem: Problem, seed: int) -> tuple[Joined, dict[str, Tensor]]:
    """Something of each kind that joins, and its rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = {
        name: torch.randn(count, problem.width, generator=generator, dtype=torch.float64)
        for name, count in (("word", 3), ("word*", 3), ("found", 2), ("found*", 2), ("near", 4))
    }
    joined = Joined(
        Moments.of(rows["word"][1:], rows["word*"][1:], 0.7),
        Moments.of(rows["word"], rows["word*"], 0.7),
        Moments.of(rows["found"], rows["found*"], 0.3),
        Moments.preserving(rows["near"]).preserved,
    )
    return joined, rows


def plain_edit(
    problem: Problem, weights: list[Tensor], rows: list[tuple[Tensor, Tensor, float]], preserved: Tensor
) -> Tensor:
    """UCE's minimiser of every layer from rows; returns all edited layers, one below the other."""
    scales = problem.scales
    edited = []
    for weight in weights:
        eye = torch.eye(problem.width, dtype=torch.float64)
        system, right = scales.lamb * eye, scales.lamb * weight
        for concept, target, share in rows:
            system = system + scales.erase_scale * share * concept.mT @ concept
            right = right + scales.erase_scale * share * weight @ target.mT @ concept
        system = system + scales.preserve_scale * preserved.mT @ preserved
        right = right + scales.preserve_scale * weight @ preserved.mT @ preserved
        edited.append(torch.linalg.solve(system, right, left=False))
    return torch.cat(edited)


def bounded(original: Tensor, edited: Tensor, rows: Tensor, radius: float) -> Tensor:
    """``min ‖W c' − W_0 c‖²`` over ``Σ‖c'‖² ≤ ρ²`` by bisection on the multiplier."""
    system, right = edited.mT @ edited, edited.mT @ original @ rows.mT
    eye = torch.eye(len(system), dtype=torch.float64)

    def answer(multiplier: float) -> Tensor:
        return torch.linalg.solve(system + multiplier * eye, right).mT

    low, high = 0.0, 1e9
    if float(torch.linalg.norm(torch.linalg.lstsq(system, right, driver="gelsd").solution)) <= radius:
        return torch.linalg.lstsq(system, right, driver="gelsd").solution.mT
    for _ in range(90):
        middle = (low + high) / 2
        low, high = (middle, high) if float(torch.linalg.norm(answer(middle))) > radius else (low, middle)
    return answer(high)


@given(seed=st.integers(0, 2**20), norms=NORMS, ridges=NORMS, weight=st.sampled_from([0.5, 2.0]))
def test_two_epochs_are_the_plain_ones_on_rows(
    seed: int, norms: list[float], ridges: list[float], weight: float
) -> None:
    """Without moments, maps and eigenvectors: every layer's weights from rows of concepts, words and attacks."""
    problem = random_problem(seed, width=6, outs=(7, 9))
    joined, rows = joined_rows(problem, seed)
    robust = Robust(tuple(norms), tuple(ridges), weight) if norms or ridges else None
    found = matrix_of(eraser_of(problem, robust, joined), 2)

    preserved = torch.cat([problem.preserved, rows["near"]])
    sent = (rows["found"], rows["found*"], 0.3)
    first = [(pair.first_rows, pair.first_target_rows, pair.weight) for pair in problem.pairs]
    once = plain_edit(problem, problem.weights, [*first, (rows["word"][1:], rows["word*"][1:], 0.7), sent], preserved)
    original = torch.cat(problem.weights)
    own = [(pair.rows, pair.target_rows, pair.weight) for pair in problem.pairs] + [(rows["word"], rows["word*"], 0.7)]

    def derived(ridge: float) -> list[tuple[Tensor, Tensor, float]]:
        system = once.mT @ once + ridge * torch.eye(problem.width, dtype=torch.float64)
        return [
            (torch.linalg.solve(system, once.mT @ original @ concept.mT).mT, target, share)
            for concept, target, share in own
        ]

    erased = derived(problem.derivation_scale)
    scaled = torch.cat([share**0.5 * concept for concept, _, share in own])
    ends: list[Tensor] = []
    for norm in sorted(norms):
        answer = bounded(original, once, scaled, norm * float(torch.linalg.norm(scaled)))
        if ends and relative(answer, ends[-1]) < 1e-9:
            continue  # the free optimum again
        ends.append(answer)
        parts = answer.split([len(concept) for concept, _, _ in own])
        erased += [
            (part / share**0.5, target, weight * share) for part, (_, target, share) in zip(parts, own, strict=True)
        ]
    for ridge in ridges:
        erased += [(concept, target, weight * share) for concept, target, share in derived(ridge)]
    layers = list(once.split([len(one) for one in problem.weights]))
    twice = plain_edit(problem, layers, [*erased, sent], preserved)
    assert relative(original @ found, twice) < 1e-7


@pytest.mark.parametrize("editor", [UCE(0.8, 0.3, 0.2), NullSpace(0.8, 0.3, 0.2), Projection(1)], ids=name_of)
@pytest.mark.parametrize("accumulate", [False, True])
def test_without_a_switch_it_is_the_published_loop(editor: Editor, accumulate: bool) -> None:
    """Nothing that joins changes no bit, whatever the editor."""
    options = {"accumulate": accumulate, "editor": editor}
    for seed in range(3):
        problem = random_problem(seed, width=10, outs=(12, 13))
        published = matrix_of(eraser_of(problem, None, **options), 3)
        nothing = Joined.nothing(problem.width)
        assert torch.equal(matrix_of(eraser_of(problem, None, nothing, **options), 3), published)
        for robust in (Robust(synonyms=1), Robust(found="runs/attacked")):
            assert torch.equal(matrix_of(eraser_of(problem, robust, **options), 3), published)
            assert torch.equal(matrix_of(eraser_of(problem, robust, nothing, **options), 3), published)


@given(problem=erasure_problems(), norm=st.sampled_from([0.1, 0.5, 1.0, 3.0]), seed=st.integers(0, 1000))
def test_a_norm_is_the_best_embedding_within_it(problem: Problem, norm: float, seed: int) -> None:
    """Feasible, and no feasible neighbour comes nearer the original's keys and values."""
    maps = eraser_of(problem, None).run(1).maps
    erased = problem.moments.erased
    (matrix,) = derivations(Robust(norms=(norm,)), problem.gram, maps, erased)
    edited, cross = maps.grams(problem.gram)
    limit = norm**2 * float(erased.trace())

    def size(other: Tensor) -> float:
        return float((other @ erased @ other.mT).trace())

    def missed(other: Tensor) -> float:
        answered = (other.mT @ edited @ other @ erased).trace() - 2 * (other.mT @ cross @ erased).trace()
        return float(answered + (problem.gram.total * erased).sum())

    assert size(matrix) <= limit * (1 + 1e-9)
    scale = missed(torch.zeros_like(matrix))
    generator = torch.Generator().manual_seed(seed)
    for step in (1e-4, 1e-2, 1.0):
        other = matrix + step * torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
        other = other * min(1.0, (limit / size(other)) ** 0.5)
        assert missed(other) >= missed(matrix) - 1e-9 * scale


def test_norms_beyond_the_free_optimum_count_once() -> None:
    problem = random_problem(3, width=6, outs=(9,))
    maps = eraser_of(problem, None).run(1).maps
    erased = problem.moments.erased
    free = list(derivations(Robust(norms=(1e6,)), problem.gram, maps, erased))
    several = list(derivations(Robust(norms=(1e7, 1e6, 2e6, 1e-3)), problem.gram, maps, erased))
    assert len(several) == 2
    torch.testing.assert_close(several[1], free[0])


def test_a_ridge_is_the_derivation_with_another_lambda() -> None:
    problem = random_problem(4)
    maps = eraser_of(problem, None).run(1).maps
    (matrix,) = derivations(Robust(ridges=(0.3,)), problem.gram, maps, problem.moments.erased)
    assert torch.equal(matrix, Derivation(0.3)(problem.gram, maps).of_concept)


@pytest.mark.parametrize("editor", [UCE(), NullSpace()], ids=name_of)
@given(seed=st.integers(0, 2**20))
def test_what_joins_comes_no_further_from_its_target(editor: UCE, seed: int) -> None:
    """The minimiser of a sum has the second part no larger than the minimiser of the first alone."""
    problem = random_problem(seed, width=12, outs=(14, 14), preserved=3)
    joined, rows = joined_rows(problem, seed)
    joined = replace(joined, preserved=torch.zeros_like(joined.preserved))
    weights = torch.cat(problem.weights)

    def left(joined: Joined | None) -> float:
        scaled = replace(editor, **asdict(problem.scales))
        edited = weights @ matrix_of(eraser_of(problem, None, joined, editor=scaled), 1)
        word = rows["word"][1:] @ edited.mT - rows["word*"][1:] @ weights.mT
        sent = rows["found"] @ edited.mT - rows["found*"] @ weights.mT
        return float(0.7 * word.square().sum() + 0.3 * sent.square().sum())

    assert left(joined) < left(None)


def test_a_projection_takes_out_what_joins() -> None:
    """With a rank for every difference: all of them are mapped to nothing, words' and attacks' among them."""
    problem = random_problem(5, width=14, outs=(16, 16), tokens=(3, 2))
    joined, rows = joined_rows(problem, 1)
    editor = Projection(7, 3.0)
    # Three rows of epoch 0, two of the words, two that were found.
    found = matrix_of(eraser_of(problem, None, joined, editor=editor), 1)
    published = matrix_of(eraser_of(problem, None, editor=editor), 1)
    differences = torch.cat([(rows["word"] - rows["word*"])[1:], rows["found"] - rows["found*"]])
    assert float(torch.linalg.norm(differences @ found.mT)) < 1e-8
    assert float(torch.linalg.norm(differences @ published.mT)) > 0.1


def test_what_was_found_is_held_in_every_epoch_and_never_derived_from() -> None:
    """With much weight an attack's embedding reads as its target after every epoch."""
    problem = replace(random_problem(6, width=10, outs=(12,)), scales=replace(random_problem(6).scales, lamb=0.1))
    joined, rows = joined_rows(problem, 2)
    heavy = replace(Joined.nothing(problem.width), found=Moments.of(rows["found"], rows["found*"], 1e6))
    for accumulate in (False, True):
        eraser = eraser_of(problem, None, heavy, accumulate=accumulate)
        for _ in range(4):
            before = eraser.maps.of_layer(0)
            eraser.step()
            moved = rows["found"] @ eraser.maps.of_layer(0).mT
            assert relative(moved, rows["found*"] @ before.mT) < 1e-4
    assert joined.found.width == problem.width


def test_neighbours_move_less_where_they_are_preserved() -> None:
    problem = random_problem(7, width=12, outs=(14,), preserved=2)
    joined, rows = joined_rows(problem, 3)
    only = replace(Joined.nothing(problem.width), preserved=joined.preserved)

    def moved(eraser: Eraser) -> float:
        return float((rows["near"] @ (matrix_of(eraser, 2) - torch.eye(problem.width)).mT).square().sum())

    assert moved(eraser_of(problem, None, only)) < moved(eraser_of(problem, None))


def test_rows_and_moments_give_one_map() -> None:
    problem = random_problem(8, width=12)
    rows = problem.row_pairs
    joined, _ = joined_rows(problem, 4)
    robust = Robust((0.5, 1.0), (0.2,), 0.6)
    evidence = Evidence(problem.moments, problem.moments, joined=joined)
    by_rows = replace(evidence, first_rows=rows, whole_rows=rows)
    method = Method(editor=problem.scales, robust=robust)
    one, other = (Eraser(method, part, problem.gram).run(3).maps.of_layer(0) for part in (evidence, by_rows))
    assert relative(one, other) < 1e-9


def test_joined_parts_add_up() -> None:
    problem = random_problem(9)
    one, other = joined_rows(problem, 5)[0], joined_rows(problem, 6)[0]
    both = one + other
    torch.testing.assert_close(both.whole.cross, one.whole.cross + other.whole.cross)
    torch.testing.assert_close(both.found.erased, one.found.erased + other.found.erased)
    torch.testing.assert_close(both.preserved, one.preserved + other.preserved)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "switches nothing on"),
        ({"weight": 2.0}, "switches nothing on"),
        ({"norms": (0.0,)}, r"^robust\.norms: "),
        ({"norms": (1.0, 1.0)}, r"^robust\.norms: .*twice"),
        ({"norms": 0.5}, r"^robust\.norms: .*give a list"),
        ({"norms": (float("inf"),)}, r"^robust\.norms: "),
        ({"ridges": (-1.0,)}, r"^robust\.ridges: "),
        ({"norms": (1.0,), "weight": 0.0}, r"^robust\.weight: "),
        ({"synonyms": -1}, r"^robust\.synonyms: "),
        ({"synonyms": True}, r"^robust\.synonyms: "),
        ({"templates": "a {}"}, r"^robust\.templates: "),
        ({"found": " "}, r"^robust\.found: "),
        ({"norms": (1.0,), "within": 0.5}, r"^robust\.within: only synonyms and neighbours"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Robust(**settings)  # type: ignore[arg-type]
