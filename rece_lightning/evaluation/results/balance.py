"""The harmonic mean of what is gone and what is kept, and whether two states differ in it by more than chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEVEL = 0.05
DRAWS = 2000

Counts = npt.NDArray[np.float64]
"""Hits and pictures a prompt, ``[prompts, 2]``."""


def balance_draws(erased: Counts, kept: Counts, draws: int = DRAWS) -> Counts:
    """Harmonic means of ``1 − erased`` and ``kept`` over resampled prompts: a prompt's pictures stay together.

    The same seed for every state: draw ``k`` of two states resamples the same prompts, so that their difference is
    paired.

    Args:
        erased: of the erased concepts' prompts.
        kept: of the kept ones, in the same order for every state.
        draws: how many.

    Returns:
        ``[draws]``; empty where a role has no prompt.
    """
    if not len(erased) or not len(kept):
        return np.zeros(0)
    generator = np.random.default_rng(0)
    rates = []
    for counts in (erased, kept):
        drawn = counts[generator.integers(len(counts), size=(draws, len(counts)))].sum(axis=1)
        rates.append(drawn[:, 0] / drawn[:, 1])
    gone, stays = 1.0 - rates[0], rates[1]
    total = gone + stays
    return np.divide(2 * gone * stays, total, out=np.zeros(draws), where=total > 0)


def central_interval(draws: Counts) -> tuple[float, float]:
    """The middle 95 %; NaN without draws."""
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def differs(first: Counts, second: Counts) -> bool:
    """Whether paired draws of two states differ by more than chance: the interval of the difference leaves out 0."""
    low, high = central_interval(first - second)
    return low > 0 or high < 0
