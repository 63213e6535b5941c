"""Intervals: against published values, brute force, and by how often they hold the truth."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.metrics import Share, cluster_bootstrap, wilson_interval
from rece_lightning.metrics.intervals import t_probability, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799), (500, 1.9647)],
)
def test_quantiles_of_t_are_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_expansion_of_t_joins_the_sum() -> None:
    assert t_probability(t_quantile(201), 201) == pytest.approx(0.95, abs=1e-7)


def test_share_counts_prompts_whatever_the_order() -> None:
    share = Share.of([True, False, True, True], ["a", "b", "a", "c"])
    assert share.clusters == ((2, 2), (0, 1), (1, 1))
    assert share == Share(3, 4)
    assert Share.of(np.array([1, 0, 1, 1], dtype=bool), [0, 1, 0, 2]) == share
    assert Share.over([(0, 0), (1, 2)]).clusters == ((1, 2),)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=12))
def test_sum_of_shares_is_the_share_of_all(pairs: list[tuple[int, int]]) -> None:
    clusters = [(min(hits, total), total) for hits, total in pairs if total]
    half = len(clusters) // 2
    first, second, whole = (Share.over(part) for part in (clusters[:half], clusters[half:], clusters))
    assert first + second == whole
    assert (first + second).clusters == whole.clusters
    assert first + Share(0, 0) == first


def test_shares_without_prompts_add_as_prompts_of_their_own() -> None:
    both = Share(2, 3) + Share.over([(4, 4)])
    assert both.clusters == ((1, 1), (1, 1), (0, 1), (4, 4))
    assert (Share(2, 3) + Share(1, 1)).clusters == ()


def test_one_picture_a_prompt_is_wilsons_interval() -> None:
    share = Share.of([True] * 7 + [False] * 13, range(20))
    assert share.interval == wilson_interval(7, 20)
    assert share.method == "95 % Wilson"


def test_few_prompts_speak_of_themselves() -> None:
    share = Share.over([(4, 8), (8, 8), (0, 8)])
    assert share.interval == wilson_interval(12, 24)
    assert share.method == "95 % Wilson over pictures, for these prompts"
    assert Share.over([(3, 4), (1, 4)] * 3).method == "95 % bootstrap over prompts"


def test_bootstrap_is_that_of_drawing_prompts_one_by_one() -> None:
    sums, counts = [4, 0, 3, 4, 0, 1, 4, 2, 2, 0, 4, 1], [4, 4, 4, 5, 4, 4, 6, 4, 4, 4, 4, 4]
    source = np.random.default_rng(7)
    drawn = source.integers(0, 12, (40_000, 12))
    means = np.array(sums)[drawn].sum(1) / np.array(counts)[drawn].sum(1)
    # The expanded percentile at 12 prompts: Φ(−√(12/11) · 2.20099).
    low, high = np.quantile(means, [0.010761, 1 - 0.010761])
    found = cluster_bootstrap(sums, counts, resamples=40_000)
    assert found == (pytest.approx(low, abs=0.012), pytest.approx(high, abs=0.012))
    assert found == cluster_bootstrap(sums, counts, resamples=40_000)
    assert found != cluster_bootstrap(sums, counts, resamples=40_000, seed=1)


@given(st.lists(st.integers(0, 4), min_size=6, max_size=12))
def test_interval_over_prompts_is_never_narrower_than_that_of_pictures(hits: list[int]) -> None:
    low, high = Share.over([(count, 4) for count in hits]).interval
    inner = wilson_interval(sum(hits), 4 * len(hits))
    assert low <= inner[0] <= sum(hits) / (4 * len(hits)) <= inner[1] <= high


@pytest.mark.parametrize(("prompts", "bound"), [(10, 0.2775), (20, 0.1611)])
def test_pictures_that_all_agree_count_by_prompts(prompts: int, bound: float) -> None:
    assert Share.over([(0, 4)] * prompts).interval == (0, pytest.approx(bound, abs=1e-4))
    assert Share.over([(4, 4)] * prompts).interval == (pytest.approx(1 - bound, abs=1e-4), 1)


@pytest.mark.parametrize("total", [20, 50, 200])
def test_wilson_holds_the_truth(total: int) -> None:
    """The exact coverage, from the binomial distribution: never below 93 % between a tenth and nine tenths."""
    for rate in np.linspace(0.1, 0.9, 17):
        chances = [comb(total, hits) * rate**hits * (1 - rate) ** (total - hits) for hits in range(total + 1)]
        bounds = [wilson_interval(hits, total) for hits in range(total + 1)]
        held = sum(chance for chance, (low, high) in zip(chances, bounds, strict=True) if low <= rate <= high)
        assert held > 0.93


@pytest.mark.parametrize(
    ("prompts", "rate", "alike"),
    [(8, 0.5, 0.5), (20, 0.5, 0.5), (20, 0.05, 0.5), (40, 0.1, 0.5)],
)
def test_bootstrap_holds_the_truth_where_wilson_does_not(prompts: int, rate: float, alike: float) -> None:
    """Four pictures a prompt whose hits correlate by ``alike`` (beta-binomial)."""
    source = np.random.default_rng(11)
    repeats, pictures = 400, 4
    scale = (1 - alike) / alike
    of_prompt = source.beta(rate * scale, (1 - rate) * scale, (repeats, prompts))
    hits = source.binomial(pictures, of_prompt)
    held = naive = 0
    for row in hits.tolist():
        low, high = Share.over([(count, pictures) for count in row]).interval
        held += low <= rate <= high
        low, high = wilson_interval(sum(row), pictures * prompts)
        naive += low <= rate <= high
    assert held / repeats > 0.92
    assert naive / repeats < 0.92
    assert held - naive > 0.05 * repeats
    print(f"{prompts} prompts, rate {rate}, alike {alike}: {held / repeats:.3f}, Wilson {naive / repeats:.3f}")
