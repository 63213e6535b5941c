"""Intervals of a measured share or mean: Wilson's, the bootstrap over prompts, Student's t."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
FEWEST_PROMPTS = 6
"""Fewer prompts than these say too little about other prompts: no test over them can reach 5 %.

Their figures are about these very prompts; the pictures are then the sample.
"""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Share:
    """``hits`` of ``total`` with a 95 % interval. Two shares are equal when their counts are."""

    hits: int
    total: int
    clusters: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)
    """``(hits, total)`` of each prompt; empty: every picture has a prompt of its own."""

    @classmethod
    def of(cls, hits: Iterable[bool], prompts: Iterable[Hashable]) -> Share:
        """Count hits, each with the prompt (its text, its row) of the picture.

        Example:
            >>> Share.of([True, False, True], ["bomb", "bomb", "axe"]).clusters
            ((1, 2), (1, 1))
        """
        hits_of: Counter[Hashable] = Counter()
        total_of: Counter[Hashable] = Counter()
        for hit, prompt in zip(hits, prompts, strict=True):
            hits_of[prompt] += int(bool(hit))
            total_of[prompt] += 1
        return cls.over((hits_of[prompt], total) for prompt, total in total_of.items())

    @classmethod
    def over(cls, clusters: Iterable[tuple[int, int]]) -> Share:
        """The share of all pictures, given ``(hits, total)`` of each prompt; prompts without pictures are left out."""
        counted = tuple((int(hits), int(total)) for hits, total in clusters if total)
        return cls(sum(hits for hits, _ in counted), sum(total for _, total in counted), counted)

    @property
    def rate(self) -> float:
        """The measured share; NaN when nothing was measured."""
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound.

        With one picture a prompt it is Wilson's (1927), which holds for small counts and at 0 and 1. Where prompts have
        several pictures, those of one prompt are alike and count for less than as many prompts. From
        :data:`FEWEST_PROMPTS` prompts on the interval is then about prompts of this kind: the bootstrap over prompts,
        and never narrower than Wilson's interval of the pictures, because a bootstrap of few hits is too narrow. Where
        all the pictures agree they cannot show how alike those of one prompt are, so prompts are counted instead of
        pictures. With fewer prompts it is Wilson's interval of the pictures and speaks of these very prompts.
        """
        low, high = wilson_interval(self.hits, self.total)
        if not self.is_over_prompts:
            return low, high
        prompts = len(self.clusters)
        if self.hits in (0, self.total):
            return wilson_interval(prompts if self.hits else 0, prompts)
        drawn = cluster_bootstrap([hits for hits, _ in self.clusters], [total for _, total in self.clusters])
        return min(drawn[0], low), max(drawn[1], high)

    @property
    def method(self) -> str:
        """How the interval is made, in words for a report."""
        if self.is_over_prompts:
            return "95 % bootstrap over prompts"
        several = any(total > 1 for _, total in self.clusters)
        return "95 % Wilson over pictures, for these prompts" if several else "95 % Wilson"

    @property
    def is_over_prompts(self) -> bool:
        """Whether the interval is about prompts of this kind, not about these alone."""
        return len(self.clusters) >= FEWEST_PROMPTS and any(total > 1 for _, total in self.clusters)

    def __str__(self) -> str:
        if not self.total:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.0f} % ({100 * low:.0f}–{100 * high:.0f})"

    def __add__(self, other: Share) -> Share:
        """Both shares' pictures together. Their prompts count as different ones."""
        clusters = self.prompts + other.prompts if self.clusters or other.clusters else ()
        return Share(self.hits + other.hits, self.total + other.total, clusters)

    @property
    def prompts(self) -> tuple[tuple[int, int], ...]:
        """``(hits, total)`` of each prompt, where every picture is a prompt of its own too."""
        return self.clusters or ((1, 1),) * self.hits + ((0, 1),) * (self.total - self.hits)


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of ``hits`` in ``total`` trials; with none it is [0, 1].

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)
    """
    if total == 0:
        return 0.0, 1.0
    share, z = hits / total, 1.959963984540054
    middle = share + z * z / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # Rounding must not keep the bounds from what was measured.
    low = max(0.0, (middle - half) / scale) if share > 0 else 0.0
    high = min(1.0, (middle + half) / scale) if share < 1 else 1.0
    return low, high


def cluster_bootstrap(
    sums: Sequence[float], counts: Sequence[int], *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """95 % interval of ``Σ sums / Σ counts`` when whole prompts are drawn again, with all their pictures.

    A percentile interval whose percentiles are moved outwards for few prompts as Student's t is wider than the
    normal distribution (Hesterberg 2015, "the expanded percentile interval"): plain percentiles are too narrow by
    ``√(n/(n−1)) · t/z``, a tenth at twenty prompts. The same figures and seed give the same interval.

    Args:
        sums: of a prompt's pictures: hits, scores, distances.
        counts: of a prompt's pictures.
        resamples: how often all the prompts are drawn.
        seed: of the draws.

    Returns:
        Lower and upper bound. With one prompt alone, or when all prompts agree, both are the mean itself.

    Example:
        >>> low, high = cluster_bootstrap([4, 0, 3, 4, 0, 1, 4, 2], [4] * 8)
        >>> 0.1 < low < 0.3 < 18 / 32 < 0.8 < high < 1
        True
    """
    pairs = Counter(zip((float(value) for value in sums), (int(count) for count in counts), strict=True))
    return _bootstrap(tuple(sorted(pairs.items())), resamples, seed)


@lru_cache(maxsize=1024)
def _bootstrap(pairs: tuple[tuple[tuple[float, int], int], ...], resamples: int, seed: int) -> tuple[float, float]:
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
    tail = NORMAL.cdf(-sqrt(prompts / (prompts - 1)) * t_quantile(prompts - 1))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def t_probability(value: float, freedom: int) -> float:
    """``P(|T| ≤ value)`` for ``freedom`` ≥ 1 degrees, as a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = atan(value / sqrt(freedom))
    square = cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for index in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= square * (index + 1) / (index + 2)
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total


@lru_cache(maxsize=256)
def t_quantile(freedom: int) -> float:
    """The t with ``P(|T| ≤ t) = 95 %`` of Student's distribution.

    Args:
        freedom: degrees of freedom, 1 or more; above 200 by the Cornish–Fisher expansion, good to six digits there.

    Example:
        >>> round(t_quantile(4), 3), round(t_quantile(1000), 3)
        (2.776, 1.962)
    """
    z = NORMAL.inv_cdf((1 + LEVEL) / 2)
    if freedom > 200:
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, 2 * z
    while t_probability(high, freedom) < LEVEL:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < LEVEL else (low, middle)
    return (low + high) / 2
