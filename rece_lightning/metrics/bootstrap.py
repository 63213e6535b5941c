"""The bootstrap over prompts: an interval for pictures of which several share a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import sqrt

import numpy as np

from rece_lightning.metrics.quantiles import NORMAL, t_quantile

RESAMPLES = 10_000
SEED = 0
FEWEST_PROMPTS = 6
"""Fewer prompts than these say too little about other prompts: no test over them can reach 5 %.

Their figures are about these very prompts; the pictures are then the sample.
"""


def cluster_bootstrap(
    sums: Sequence[float], counts: Sequence[int], *, resamples: int = RESAMPLES, seed: int = SEED, level: float = 0.95
) -> tuple[float, float]:
    """Interval of ``Σ sums / Σ counts`` when whole prompts are drawn again, with all their pictures.

    A percentile interval whose percentiles are moved outwards for few prompts as Student's t is wider than the
    normal distribution (Hesterberg 2015, "the expanded percentile interval"): plain percentiles are too narrow by
    ``√(n/(n−1)) · t/z``, a tenth at twenty prompts. The same figures and seed give the same interval.

    Args:
        sums: of a prompt's pictures: hits, scores, distances.
        counts: of a prompt's pictures.
        resamples: how often all the prompts are drawn.
        seed: of the draws.
        level: of the interval.

    Returns:
        Lower and upper bound. With one prompt alone, or when all prompts agree, both are the mean itself.

    Example:
        >>> low, high = cluster_bootstrap([4, 0, 3, 4, 0, 1, 4, 2], [4] * 8)
        >>> 0.1 < low < 0.3 < 18 / 32 < 0.8 < high < 1
        True
    """
    pairs = Counter(zip((float(value) for value in sums), (int(count) for count in counts), strict=True))
    return _bootstrap(tuple(sorted(pairs.items())), resamples, seed, level)


@lru_cache(maxsize=1024)
def _bootstrap(
    pairs: tuple[tuple[tuple[float, int], int], ...], resamples: int, seed: int, level: float
) -> tuple[float, float]:
    # Prompts with the same sum and count are alike: drawing how many of each kind is the same draw, and quicker.
    values = np.array([pair for pair, _ in pairs], dtype=np.float64).reshape(-1, 2)
    times = np.array([count for _, count in pairs], dtype=np.float64)
    prompts = int(times.sum())
    if len(pairs) < 2:
        mean = float(values[0, 0] / values[0, 1]) if prompts and values[0, 1] else float("nan")
        return mean, mean
    draws = np.random.default_rng(seed)
    block = max(1, 2_000_000 // len(pairs))
    means = []
    for first in range(0, resamples, block):
        drawn = draws.multinomial(prompts, times / times.sum(), size=min(block, resamples - first))
        means.append((drawn @ values[:, 0]) / np.maximum(drawn @ values[:, 1], 1))
    tail = NORMAL.cdf(-sqrt(prompts / (prompts - 1)) * t_quantile(prompts - 1, level))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)
