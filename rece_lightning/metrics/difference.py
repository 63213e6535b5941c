"""The difference of two measured shares with its interval: a rate above its floor, an attack above its control."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from rece_lightning.metrics.intervals import Share, cluster_bootstrap

NEAR = 0.05
"""More points than these above its floor are not called complete, however wide the interval is."""


class Rated(Protocol):
    """A share that was measured, with its interval."""

    @property
    def rate(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Difference:
    """One share less another, with a 95 % interval, both from −1 to 1."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, first: Rated, second: Rated, correlation: float = 0.0) -> Difference:
        """``first − second`` from the shares' own intervals, by the method of variance estimates recovery.

        The squared distances of each rate to the bounds of its interval stand for its variance (Zou and Donner 2008);
        with Wilson's intervals this is Newcombe's method 10 (1998) for independent and for paired proportions.

        Args:
            first: share with its interval ``(l₁, u₁)``.
            second: ``(l₂, u₂)``.
            correlation: ``φ`` of pairs of pictures, −1 to 1; 0 for other pictures.

        Example:
            >>> print(Difference.of(Share(56, 70), Share(48, 80)))
            +20 points (+5 to +33)
        """
        (low, high), (bottom, top) = first.interval, second.interval
        value = first.rate - second.rate
        down = _length(first.rate - low, top - second.rate, correlation)
        up = _length(high - first.rate, second.rate - bottom, correlation)
        return cls(value, (max(-1.0, value - down), min(1.0, value + up)))

    @classmethod
    def paired(cls, first: Sequence[bool], second: Sequence[bool], prompts: Sequence[Hashable]) -> Difference:
        """The same where picture i of both is of the same prompt and seed.

        With one picture a prompt, or fewer than :data:`~rece_lightning.metrics.intervals.FEWEST_PROMPTS` prompts,
        Newcombe's method 10 for paired proportions. Otherwise, as with a :class:`Share`, the bootstrap over prompts of
        their differences, never narrower than that; where all the pictures agree, prompts are counted in their place.

        Args:
            first: detections.
            second: of the same shots.
            prompts: of the shots: pictures of one prompt count together.
        """
        shares = Share.of(first, prompts), Share.of(second, prompts)
        one, other = (Share(share.hits, share.total) for share in shares)
        whole = cls.of(one, other, paired_correlation(first, second))
        if not (shares[0].is_over_prompts or shares[1].is_over_prompts):
            return whole
        sums = [hits - less for (hits, _), (less, _) in zip(shares[0].clusters, shares[1].clusters, strict=True)]
        counts = [total for _, total in shares[0].clusters]
        if len({sum_ / count for sum_, count in zip(sums, counts, strict=True)}) == 1:
            one, other = (Share(round(len(counts) * share.rate), len(counts)) for share in shares)
            return cls(whole.value, cls.of(one, other).interval)
        low, high = cluster_bootstrap(sums, counts)
        return cls(whole.value, (min(low, whole.interval[0]), max(high, whole.interval[1])))

    @property
    def excess(self) -> float:
        """As an erased rate that harmonic means use: what is above the floor, 0 where nothing is."""
        return max(0.0, self.value)

    @property
    def complete(self) -> bool:
        """Whether an erasure is at its floor: chance explains the rest, and there is little of it."""
        return self.interval[0] <= 0 and self.value <= NEAR

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def bounds(self) -> str:
        """The interval in percentage points."""
        return f"({points(self.interval[0])} to {points(self.interval[1])})"

    @property
    def short(self) -> str:
        """In a column of percentage points."""
        return f"{points(self.value)} {self.bounds}"

    def __str__(self) -> str:
        return f"{points(self.value)} points {self.bounds}"


def points(share: float) -> str:
    """A difference of shares in percentage points with its sign; the minus is a minus."""
    whole = round(100 * share)
    return f"{'+' if whole > 0 else '−' if whole < 0 else ''}{abs(whole)}"


def paired_correlation(first: Sequence[bool], second: Sequence[bool]) -> float:
    """``φ`` of the fourfold table of pairs, moved towards 0 by half a picture as Newcombe's method 10 has it."""
    pairs = list(zip(map(bool, first), map(bool, second), strict=True))
    both, only, other, none = (pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False,) * 2))
    size = (both + only) * (other + none) * (both + other) * (only + none)
    if not size:
        return 0.0
    above = both * none - only * other
    return (max(above - len(pairs) / 2, 0.0) if above > 0 else above) / sqrt(size)


def _length(first: float, second: float, correlation: float) -> float:
    return sqrt(max(0.0, first**2 - 2 * correlation * first * second + second**2))
