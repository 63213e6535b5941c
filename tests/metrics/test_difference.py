"""Differences of shares: what is above a floor, what an attack reaches above its control."""

from __future__ import annotations

import numpy as np
import pytest

from rece_lightning.metrics import Difference, Share
from rece_lightning.metrics.difference import paired_correlation


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    rows = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return [row[0] for row in rows], [row[1] for row in rows]


def test_independent_shares_have_newcombes_interval() -> None:
    """56 of 70 and 48 of 80: Newcombe 1998, method 10."""
    found = Difference.of(Share(56, 70), Share(48, 80))
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.clear
    assert str(found) == "+20 points (+5 to +33)"


def test_paired_shares_have_newcombes_interval() -> None:
    """The table (1, 1; 7, 12) of Bentur 2009 in Fagerland, Lydersen and Laake 2014: −0.507 to −0.026."""
    first, second = pairs(1, 1, 7, 12)
    found = Difference.paired(first, second, range(21))
    assert found.interval == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_pairs_that_agree_are_nearer_than_strangers() -> None:
    first, second = pairs(20, 2, 0, 20)
    paired = Difference.paired(first, second, range(42))
    apart = Difference.of(Share.of(first, range(42)), Share.of(second, range(42)))
    assert paired_correlation(first, second) > 0.5
    assert np.ptp(paired.interval) < np.ptp(apart.interval)


def test_pictures_of_one_prompt_count_together() -> None:
    """Twelve prompts with ten pictures that always agree tell of twelve prompts, not of 120 pictures."""
    first = [prompt < 6 for prompt in range(12) for _ in range(10)]
    second = [False] * 120
    prompts = [prompt for prompt in range(12) for _ in range(10)]
    wide = Difference.paired(first, second, prompts)
    assert wide.value == 0.5
    assert np.ptp(wide.interval) > 1.8 * np.ptp(Difference.paired(first, second, range(120)).interval)
    # Where all agree in the end, prompts are counted.
    alike = Difference.paired([False] * 120, second, prompts)
    assert alike.interval == pytest.approx((-Share(0, 12).interval[1], Share(0, 12).interval[1]))


@pytest.mark.parametrize(
    ("hits", "floor", "complete"),
    [
        (30, 28, True),  # two points above: chance explains them
        (28, 30, True),  # below
        (60, 28, False),  # clearly above
        (34, 28, False),  # chance might explain six points, but they are many
    ],
)
def test_an_erasure_at_its_floor_is_complete(hits: int, floor: int, complete: bool) -> None:
    first = [place < hits for place in range(100)]
    found = Difference.paired(first, [place < floor for place in range(100)], range(100))
    assert found.complete == complete
    assert found.excess == pytest.approx(max(0, hits - floor) / 100)
