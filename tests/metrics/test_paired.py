"""The paired tests, against enumeration and by how often they are wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.metrics import DetectionChange, paired_test, paired_test_of_values
from rece_lightning.metrics.paired import sign_flip, sign_flip_values


def enumerated(differences: Sequence[float]) -> float:
    """Every choice of signs."""
    observed = abs(sum(differences)) - 1e-9
    sums = [abs(sum(signs)) for signs in itertools.product(*((-d, d) for d in differences))]
    return sum(value >= observed for value in sums) / len(sums)


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_sign_flips_are_exact(differences: list[int]) -> None:
    assert sign_flip(differences) == pytest.approx(enumerated(differences), abs=1e-12)


@given(st.lists(st.floats(-2, 2).map(lambda value: round(value, 3)), max_size=9))
def test_sign_flips_of_scores_are_exact_for_few(differences: list[float]) -> None:
    assert sign_flip_values(differences) == pytest.approx(enumerated(differences), abs=1e-12)


def test_sign_flips_of_many_scores_come_near_the_exact_value() -> None:
    differences = [1.0] * 14 + [-1.0] * 6
    assert sign_flip_values(differences) == pytest.approx(sign_flip([1] * 14 + [-1] * 6), abs=0.01)


@given(lost=st.integers(0, 40), gained=st.integers(0, 40), same=st.integers(0, 5))
def test_one_picture_a_prompt_is_mcnemars_test(lost: int, gained: int, same: int) -> None:
    before = [True] * lost + [False] * gained + [True] * same
    after = [False] * lost + [True] * gained + [True] * same
    found = paired_test(before, after)
    total = lost + gained
    exact = min(1.0, 2 * sum(comb(total, k) for k in range(min(lost, gained) + 1)) / 2**total)
    assert found.p_value == pytest.approx(exact, rel=1e-9)
    assert found.test == "exact McNemar"
    if total + same:
        assert found.change == pytest.approx((gained - lost) / (total + same))


def test_several_seeds_are_flipped_by_prompt() -> None:
    prompts = [name for name in "abcdefgh" for _ in range(4)]
    before = [True] * 32
    found = paired_test(before, [False] * 32, prompts)
    assert found.test == "exact sign flips over prompts"
    assert found.p_value == pytest.approx(2 / 2**8)
    assert found.clear
    assert found.change == -1
    # The same change in five prompts is about these five.
    few = paired_test(before[:20], [False] * 20, prompts[:20])
    assert few.test == "exact McNemar, for these prompts"
    assert few.p_value == pytest.approx(2 / 2**20)
    # No change at all is no difference.
    assert paired_test(before, before, prompts).p_value == 1
    assert str(found) == "p = 0.008 (exact sign flips over prompts)"


def test_a_test_over_pictures_sees_more_than_there_is_where_prompts_differ() -> None:
    """Prompts change up or down as wholes, none on average: 5 % of all runs may find a difference, not more."""
    source = np.random.default_rng(3)
    wrong = naive = 0
    for _ in range(300):
        direction = source.integers(0, 2, 12)
        after = (source.random((12, 6)) < np.where(direction, 0.9, 0.1)[:, None]).ravel()
        before = (source.random((12, 6)) < np.where(direction, 0.1, 0.9)[:, None]).ravel()
        prompts = np.repeat(np.arange(12), 6).tolist()
        wrong += paired_test(before.tolist(), after.tolist(), prompts).clear
        naive += paired_test(before.tolist(), after.tolist()).clear
    assert wrong / 300 < 0.075
    assert naive / 300 > 0.2


def test_scores_are_compared_by_prompt() -> None:
    found = paired_test_of_values([0.5, 0.4, 0.6, 0.7, 0.3, 0.5], [2] * 6)
    assert found.p_value == pytest.approx(2 / 64)
    assert found.change == pytest.approx(0.25)
    assert found.clear


class Bright:
    """Sees a concept in every bright picture."""

    protocol = "bright"

    def check(self, concept: str) -> None:
        """Knows everything."""

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Bright pictures."""
        return pictures.mean((1, 2, 3)) > 0.5


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=1, max_size=30))
def test_change_counts_pairs(pairs: list[tuple[bool, bool, int]]) -> None:
    metric = DetectionChange(Bright(), prompts=7)
    for part in (pairs[::2], pairs[1::2]):
        if part:
            before, after = (torch.tensor(column).float()[:, None, None, None].expand(-1, 3, 2, 2)
                             for column in list(zip(*part, strict=True))[:2])  # fmt: skip
            metric.update(before, after, ["light"] * len(part), [row for _, _, row in part])
    plain = paired_test([b for b, _, _ in pairs], [a for _, a, _ in pairs], [row for _, _, row in pairs])
    found = metric.test()
    assert (found.p_value, found.test, found.total) == (pytest.approx(plain.p_value), plain.test, len(pairs))
    assert float(metric.compute()) == pytest.approx(plain.change)
    first, second = metric.shares()
    assert first.hits == sum(b for b, _, _ in pairs)
    assert second.hits == sum(a for _, a, _ in pairs)
    assert metric.protocol == "bright"


def test_a_row_outside_is_refused() -> None:
    metric = DetectionChange(Bright(), prompts=2)
    pictures = torch.zeros(2, 3, 2, 2)
    with pytest.raises(ConfigurationError, match="rows"):
        metric.update(pictures, pictures, ["light"] * 2, [0, 2])
    with pytest.raises(ConfigurationError, match="pairs"):
        metric.update(pictures, pictures[:1], ["light"], [0])
