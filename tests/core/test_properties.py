"""What must hold of edits and derivations whatever the problem."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import UCE, Derivation, EmbeddingMap, Moments
from rece_lightning.core.diagnostics import regeneration_residual
from rece_lightning.core.editors.uce import edit
from tests.helpers.plain import PlainPair
from tests.helpers.problems import (
    Problem,
    assert_same_moments,
    core_maps,
    core_weights,
    edited_maps,
    erasure_problems,
    relative,
)

ROUNDING = 1e-12
seeds = st.integers(0, 2**20)


@given(problem=erasure_problems(), technique=st.sampled_from(["replace", "tensor"]))
def test_a_concept_listed_twice_counts_as_one_of_twice_the_weight(problem: Problem, technique: str) -> None:
    first, *others = problem.pairs
    twice = problem.with_pairs([first, first, *others])
    heavier = problem.with_pairs([replace(first, weight=2 * first.weight), *others])
    assert_same_moments(twice.moments, heavier.moments)
    for epochs in (1, 2):
        maps = [core_maps(one, epochs, technique=technique) for one in (twice, heavier)]
        for layer in range(len(problem.weights)):
            assert relative(maps[0].of_layer(layer), maps[1].of_layer(layer)) < 1e-11


@given(problem=erasure_problems(), seed=seeds)
def test_the_order_of_concepts_changes_nothing(problem: Problem, seed: int) -> None:
    shuffled = list(problem.pairs)
    random.Random(seed).shuffle(shuffled)
    other = problem.with_pairs(shuffled)
    assert_same_moments(other.moments, problem.moments)
    assert relative(edit(other.moments, problem.scales).matrix, edit(problem.moments, problem.scales).matrix) < ROUNDING


@given(problem=erasure_problems(), lamb=st.sampled_from([1.0, 1e3, 1e6, 1e12]))
def test_lamb_bounds_the_change_and_in_the_limit_forbids_it(problem: Problem, lamb: float) -> None:
    """``‖E − I‖ ≤ η ‖X − S‖ / λ₂``: a λ₂ beyond all bounds leaves the weights alone."""
    moments, scales = problem.moments, replace(problem.scales, lamb=lamb)
    bound = scales.erase_scale * float(torch.linalg.norm(moments.cross - moments.erased)) / lamb
    step = edit(moments, scales)
    assert torch.linalg.norm(step.change) <= bound + ROUNDING
    if lamb == 1e12:
        for before, after in zip(problem.weights, core_weights(problem, step), strict=True):
            assert relative(after, before) < 1e-7


@given(problem=erasure_problems(), epochs=st.integers(0, 2))
def test_an_edit_of_concepts_towards_themselves_is_the_identity(problem: Problem, epochs: int) -> None:
    pairs = [PlainPair(pair.rows, pair.rows, pair.rows, pair.rows, pair.weight) for pair in problem.pairs]
    step = edit(problem.with_pairs(pairs).moments, problem.scales)
    assert relative(step.matrix, EmbeddingMap.identity(problem.width).matrix) < ROUNDING
    maps = core_maps(problem, epochs)
    for before, after in zip(core_weights(problem, maps), core_weights(problem, maps @ step), strict=True):  # type: ignore[operator]
        assert relative(after, before) < 1e-11


@given(problem=erasure_problems(), ridge=st.sampled_from([None, 1e-6, 1e-3, 1.0, 1e3]))
def test_the_residual_is_a_share(problem: Problem, ridge: float | None) -> None:
    """With the attacker's fixed ridge it lies between 0 and 1; a larger ridge never makes the attack better."""
    for maps in edited_maps(problem):
        residual = regeneration_residual(problem.gram, maps, problem.moments.erased, ridge)
        assert -ROUNDING <= residual <= 1 + ROUNDING
        used = 1e-3 * problem.gram.scale if ridge is None else ridge
        assert residual <= regeneration_residual(problem.gram, maps, problem.moments.erased, 10 * used) + 1e-9


def changed_output(problem: Problem, maps: EmbeddingMap, step: EmbeddingMap, row: Tensor) -> list[float]:
    """``‖(W_{t+1} − W_t) x‖`` of every layer."""
    before, after = core_weights(problem, maps), core_weights(problem, maps @ step)
    return [float(torch.linalg.norm((new - old) @ row)) for old, new in zip(before, after, strict=True)]


@given(problem=erasure_problems(), seed=seeds, keeping=st.booleans())
def test_an_edit_of_one_derived_row_obeys_the_papers_bound(problem: Problem, seed: int, keeping: bool) -> None:
    """``‖(W_{t+1} − W_t) x‖ ≤ ‖W_t (c* − c')‖ ‖c'‖ ‖x‖ / λ₂`` for η = 1, any x and any layer.

    With nothing preserved and ``x`` along ``c'`` it is the bound with ``λ₂ + ‖c'‖²`` for ``λ₂``, exactly.
    """
    scales = UCE(1.0, problem.scales.preserve_scale, problem.scales.lamb)
    maps = core_maps(problem, 1)
    assert isinstance(maps, EmbeddingMap)
    concept, target = problem.rows[:1], problem.target_rows[:1]
    derived = Derivation(problem.derivation_scale)(problem.gram, maps).apply(concept)
    moments = Moments.of(derived, target)
    step = edit(moments + problem.preserving if keeping else moments, scales)
    length = float(torch.linalg.norm(derived))
    moved = [float(torch.linalg.norm(weight @ (target - derived)[0])) for weight in core_weights(problem, maps)]

    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(problem.width, generator=generator, dtype=torch.float64)
    for change, gap in zip(changed_output(problem, maps, step, row), moved, strict=True):
        assert change <= gap * length * float(torch.linalg.norm(row)) / scales.lamb * (1 + 1e-9)

    if not keeping:
        for change, gap in zip(changed_output(problem, maps, step, derived[0]), moved, strict=True):
            exact = gap * length * length / (scales.lamb + length**2)
            assert abs(change - exact) <= 1e-9 * exact
