"""Moments and row pairs: sums over rows, whatever their order, and one edit from either."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.core import UCE, Derivation, Gram, Moments, RowPairs
from rece_lightning.core.editors.uce import edit_rows
from tests.helpers.problems import (
    MOMENTS,
    Problem,
    assert_same_moments,
    drawn_pairs,
    drawn_preserved,
    erasure_problems,
    relative,
)

WIDTH = 24
seeds = st.integers(0, 2**20)


@given(problem=erasure_problems(), seed=seeds)
def test_moments_add_up_in_any_order_and_grouping(problem: Problem, seed: int) -> None:
    """Row by row, shuffled and in random groups, as all rows at once."""
    weights = torch.tensor(problem.row_weights, dtype=torch.float64)
    whole = Moments.of(problem.rows, problem.target_rows, weights) + problem.preserving
    parts = [
        Moments.of(row[None], target[None], float(weight))
        for row, target, weight in zip(problem.rows, problem.target_rows, weights, strict=True)
    ] + [Moments.preserving(row[None]) for row in problem.preserved]
    shuffle = random.Random(seed)
    shuffle.shuffle(parts)
    while len(parts) > 1:
        one, other = parts.pop(shuffle.randrange(len(parts))), parts.pop(shuffle.randrange(len(parts)))
        parts.append(one + other)
    assert_same_moments(parts[0], whole)
    assert_same_moments(problem.moments, whole)
    assert_same_moments(Moments.zeros(problem.width) + whole, whole)


@given(problem=erasure_problems())
def test_moments_are_sums_of_outer_products(problem: Problem) -> None:
    zero = torch.zeros(problem.width, problem.width, dtype=torch.float64)
    sums = {field: zero.clone() for field in MOMENTS}
    for row, target, weight in zip(problem.rows, problem.target_rows, problem.row_weights, strict=True):
        sums["erased"] += weight * torch.outer(row, row)
        sums["cross"] += weight * torch.outer(target, row)
        sums["target"] += weight * torch.outer(target, target)
    for row in problem.preserved:
        sums["preserved"] += torch.outer(row, row)
    assert_same_moments(problem.moments, Moments(**sums))


@given(problem=erasure_problems(), share=st.sampled_from([-1.5, 0.0, 0.7]))
def test_away_from_moves_every_target(problem: Problem, share: float) -> None:
    """``c* − α c`` in place of ``c*``, in all four moments."""
    pairs = [replace(pair, target_rows=pair.target_rows - share * pair.rows) for pair in problem.pairs]
    assert_same_moments(problem.moments.away_from(share), problem.with_pairs(pairs).moments)


@given(problem=erasure_problems())
def test_erasing_also_counts_what_is_preserved_once(problem: Problem) -> None:
    found = problem.moments.erasing_also(problem.first_moments)
    assert_same_moments(found, sum(problem.first_prompts + problem.prompts, problem.preserving))


# Rows in place of their moments


def test_rows_are_derived_one_by_one_as_their_moments_are_together() -> None:
    generator = torch.Generator().manual_seed(4)
    gram = Gram.of((str(layer), torch.randn(16 + layer, WIDTH, generator=generator)) for layer in range(3))
    pairs, preserved = drawn_pairs(5, WIDTH, 3), drawn_preserved(WIDTH)
    derivation = Derivation(0.1, "standard")(gram, edit_rows(pairs, preserved, UCE()))
    together = pairs.moments(preserved).derived(derivation)
    alone = pairs.derived(derivation).moments(preserved)
    for name in MOMENTS:
        assert relative(getattr(alone, name), getattr(together, name)) < 1e-10


def test_weights_count_as_repeated_rows() -> None:
    pair, preserved = drawn_pairs(1, WIDTH, 7), drawn_preserved(WIDTH)
    twice = RowPairs(pair.concept, pair.target, 2 * torch.ones(1, dtype=torch.float64))
    one = RowPairs(pair.concept, pair.target, torch.ones(1, dtype=torch.float64))
    both = one.erasing_also(one)
    assert relative(edit_rows(both, preserved, UCE()).matrix, edit_rows(twice, preserved, UCE()).matrix) < 1e-12
    assert_same_moments(both.moments(preserved), twice.moments(preserved))


@given(problem=erasure_problems())
def test_row_pairs_are_the_moments_of_their_rows(problem: Problem) -> None:
    assert_same_moments(problem.row_pairs.moments(problem.preserving.preserved), problem.moments)
