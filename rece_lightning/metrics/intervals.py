"""Intervals of a measured share."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Share:
    """``hits`` of ``total`` with Wilson's 95 % interval (1927), which holds for small counts and at 0 and 1."""

    hits: int
    total: int

    @property
    def rate(self) -> float:
        """The measured share; NaN when nothing was measured."""
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        return wilson_interval(self.hits, self.total)

    def __str__(self) -> str:
        if not self.total:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.0f} % ({100 * low:.0f}–{100 * high:.0f})"

    def __add__(self, other: Share) -> Share:
        return Share(self.hits + other.hits, self.total + other.total)


def wilson_interval(hits: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval.

    Args:
        hits: successes.
        total: trials; with none the interval is [0, 1].
        z: quantile of the normal distribution; 1.96 is 95 %.

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)
    """
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    middle = share + z * z / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
