"""Before and after with the same prompts and seeds: is the difference more than chance?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rece_lightning.metrics.intervals import FEWEST_PROMPTS, RESAMPLES, SEED

SIGNIFICANT = 0.05
EXACT_UP_TO = 16
"""Differences of which every choice of signs is tried; above, signs are drawn at random."""


@dataclass(frozen=True)
class PairedTest:
    """Outcome of a paired test."""

    change: float
    """Mean of after − before over all pictures."""
    p_value: float
    """Two-sided."""
    test: str
    """What was tested, in words for a report."""
    total: int
    """Pairs of pictures."""

    @property
    def clear(self) -> bool:
        """Whether the difference is more than chance (p < 0.05)."""
        return self.p_value < SIGNIFICANT

    def __str__(self) -> str:
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return f"{p} ({self.test})"


def paired_test(before: Sequence[bool], after: Sequence[bool], prompts: Iterable[Hashable] | None = None) -> PairedTest:
    """Test detections before and after an edit, picture i of both from the same prompt and seed.

    Args:
        before: whether the concept was detected.
        after: the same of the edited model's pictures.
        prompts: of the pictures; without them every picture has one of its own.

    Returns:
        With one picture a prompt the exact McNemar test. With several, and with :data:`FEWEST_PROMPTS` prompts or
        more, the exact sign-flip test over prompts: were the edit without effect on the whole, a prompt's sum of
        changes could as well have had the other sign. With fewer prompts McNemar's over the pictures, whose outcome
        is about these very prompts.

    Example:
        >>> str(paired_test([True] * 8, [False] * 7 + [True]))
        'p = 0.016 (exact McNemar)'
    """
    names = range(len(before)) if prompts is None else prompts
    lost: Counter[Hashable] = Counter()
    gained: Counter[Hashable] = Counter()
    total: Counter[Hashable] = Counter()
    for first, second, name in zip(before, after, names, strict=True):
        lost[name] += int(bool(first) and not second)
        gained[name] += int(bool(second) and not first)
        total[name] += 1
    return paired_test_of_counts((lost[name], gained[name], pairs) for name, pairs in total.items())


def paired_test_of_counts(prompts: Iterable[tuple[int, int, int]]) -> PairedTest:
    """The same from ``(only before, only after, pairs)`` of each prompt."""
    rows = [row for row in prompts if row[2]]
    lost, gained = sum(row[0] for row in rows), sum(row[1] for row in rows)
    total = sum(row[2] for row in rows)
    change = (gained - lost) / total if total else float("nan")
    if any(row[2] > 1 for row in rows) and len(rows) >= FEWEST_PROMPTS:
        p = sign_flip([row[1] - row[0] for row in rows])
        return PairedTest(change, p, "exact sign flips over prompts", total)
    alone = all(row[2] == 1 for row in rows)
    # McNemar's test flips the sign of every pair that changed.
    p = sign_flip([1] * gained + [-1] * lost)
    return PairedTest(change, p, "exact McNemar" if alone else "exact McNemar, for these prompts", total)


def paired_test_of_values(differences: Sequence[float], counts: Sequence[int]) -> PairedTest:
    """Test a score before and after: the sum of a prompt's differences, and its pictures.

    Signs are flipped over prompts; all choices up to 16 prompts that differ, random ones above.
    """
    total = sum(counts)
    change = sum(differences) / total if total else float("nan")
    return PairedTest(change, sign_flip_values(differences), "sign flips over prompts", total)


def sign_flip(differences: Sequence[int]) -> float:
    """Exact two-sided p-value of ``|Σ d|`` when every whole number d keeps or changes its sign by a fair coin.

    The distribution of the sum is built up one difference after the other, so nothing is drawn.

    Example:
        >>> sign_flip([1] * 5), sign_flip([1, -1])
        (0.0625, 1.0)
    """
    sizes = [abs(difference) for difference in differences if difference]
    reach, observed = sum(sizes), abs(sum(differences))
    # chances[k] is the probability that the sizes with a plus add up to k.
    chances = np.zeros(reach + 1)
    chances[0] = 1.0
    so_far = 0
    for size in sizes:
        so_far += size
        chances[size : so_far + 1] = (chances[size : so_far + 1] + chances[: so_far - size + 1]) / 2
        chances[:size] /= 2
    sums = 2 * np.arange(reach + 1) - reach
    return min(1.0, float(chances[np.abs(sums) >= observed].sum()))


def sign_flip_values(differences: Sequence[float]) -> float:
    """Two-sided p-value of ``|Σ d|`` under random signs; exact up to 16 differences other than zero."""
    sizes = np.array([difference for difference in differences if difference], dtype=np.float64)
    # Sums of the same numbers in another order differ in their last digits.
    observed = abs(float(sizes.sum())) * (1 - 1e-12)
    if len(sizes) <= EXACT_UP_TO:
        choices = (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1
        return float((np.abs((2 * choices - 1) @ sizes) >= observed).mean())
    draws = np.random.default_rng(SEED)
    extreme, block = 0, max(1, 2_000_000 // len(sizes))
    for first in range(0, RESAMPLES, block):
        signs = 2 * draws.integers(0, 2, (min(block, RESAMPLES - first), len(sizes))) - 1
        extreme += int((np.abs(signs @ sizes) >= observed).sum())
    return (1 + extreme) / (1 + RESAMPLES)
