"""The statistics of ``benchmarks/certificate``: known answers, ties, and a rule that cannot be met by chance."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.certificate.page import FEWEST, bootstrap, ranks, spearman, threshold


@dataclass(frozen=True)
class Measured:
    """A point of a residual and so many of ten pictures."""

    residual: float
    hits: int
    concept: str = "bomb"
    kind: str = "objects"
    edit: str = "UCE"
    budget: float = 1.0
    certificate: float = 0.0
    total: int = 10


def residual(point: Measured) -> float:
    return point.residual


@given(values=st.lists(st.integers(-5, 5), min_size=1, max_size=12))
def test_ranks_count_what_is_smaller_and_half_of_what_is_equal(values: list[int]) -> None:
    for value, rank in zip(values, ranks(values).tolist(), strict=True):
        smaller, equal = sum(other < value for other in values), sum(other == value for other in values)
        assert rank == pytest.approx(smaller + (equal + 1) / 2)


def test_rank_correlation_sees_order_alone() -> None:
    x = [0.1, 0.5, 2.0, 7.0, 30.0]
    assert spearman(x, [math.exp(-value) for value in x]) == pytest.approx(-1)
    assert spearman(x, [value**3 for value in x]) == pytest.approx(1)
    # Spearman's own formula, 1 − 6Σd²/(n(n² − 1)), without ties: d = 0, 1, 1, 1, 1.
    assert spearman([1, 2, 3, 4, 5], [1, 3, 2, 5, 4]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert math.isnan(spearman(x, [3.0] * 5))


def test_threshold_is_where_detection_falls() -> None:
    points = [Measured(0.01 * place, 9 if place < 40 else 0) for place in range(100)]
    found = threshold(points, residual)
    # One point in ten of the tail may be high: six beside sixty low ones, not seven.
    assert found == pytest.approx(0.34)
    tail = [point for point in points if point.residual >= found]
    assert sum(point.hits <= 1 for point in tail) >= 0.9 * len(tail)
    random.Random(0).shuffle(points)
    assert threshold(points, residual) == found


def test_threshold_needs_enough_points_and_takes_equal_ones_together() -> None:
    assert math.isinf(threshold([Measured(0.5, 0)] * (FEWEST - 1), residual))
    assert threshold([Measured(0.5, 0)] * FEWEST, residual) == 0.5
    assert math.isinf(threshold([Measured(0.5, 9)] * 50, residual))
    # Twenty low and twenty high at one residual: half of them.
    assert math.isinf(threshold([*[Measured(0.5, 0)] * FEWEST, *[Measured(0.5, 9)] * FEWEST], residual))


def test_bootstrap_draws_whole_concepts() -> None:
    points = [Measured(place, hits, concept) for concept, hits in (("a", 0), ("b", 10)) for place in range(50)]

    def seen(some: list[Measured]) -> float:
        return sum(point.hits for point in some) / (10 * len(some))

    value, low, high = bootstrap(points, seen)  # type: ignore[arg-type]
    assert (value, low, high) == (0.5, 0.0, 1.0)
    assert bootstrap(points, lambda some: math.inf)[1:] == (math.inf, math.inf)
