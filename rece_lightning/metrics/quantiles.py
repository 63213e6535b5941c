"""Student's t distribution: what a few prompts or seeds need in place of the normal one."""

from __future__ import annotations

from functools import lru_cache
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

NORMAL = NormalDist()


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
def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with ``P(|T| ≤ t) = level``.

    Args:
        freedom: degrees of freedom, 1 or more; above 200 by the Cornish–Fisher expansion, good to six digits there.
        level: of the two-sided interval.

    Example:
        >>> round(t_quantile(4), 3), round(t_quantile(1000), 3)
        (2.776, 1.962)
    """
    z = NORMAL.inv_cdf((1 + level) / 2)
    if freedom > 200:
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, 2 * z
    while t_probability(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < level else (low, middle)
    return (low + high) / 2
