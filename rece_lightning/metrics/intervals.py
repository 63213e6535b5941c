"""Intervals of a measured share."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt

from rece_lightning.metrics.bootstrap import FEWEST_PROMPTS, cluster_bootstrap


@dataclass(frozen=True)
class Share:
    """``hits`` of ``total`` with a 95 % interval.

    With one picture a prompt it is Wilson's (1927), which holds for small counts and at 0 and 1. Where prompts have
    several pictures, those of one prompt are alike and count for less than as many prompts: give ``clusters``, and
    the interval comes from :func:`clustered_interval`. Two shares are equal when their counts are.
    """

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
        found: dict[Hashable, list[int]] = {}
        for hit, prompt in zip(hits, prompts, strict=True):
            counts = found.setdefault(prompt, [0, 0])
            counts[0] += int(bool(hit))
            counts[1] += 1
        return cls.over((counts[0], counts[1]) for counts in found.values())

    @classmethod
    def over(cls, clusters: Iterable[tuple[int, int]]) -> Share:
        """The share of all pictures, given ``(hits, total)`` of each prompt; prompts without pictures are left out."""
        kept = tuple((int(hits), int(total)) for hits, total in clusters if total)
        return cls(sum(hits for hits, _ in kept), sum(total for _, total in kept), kept)

    @property
    def rate(self) -> float:
        """The measured share; NaN when nothing was measured."""
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        return clustered_interval(self.clusters) if self.clusters else wilson_interval(self.hits, self.total)

    @property
    def method(self) -> str:
        """How the interval is made, in words for a report."""
        return interval_method(self.clusters)

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
    return _wilson(hits / total if total else 0.0, total, z)


def _wilson(share: float, total: float, z: float = 1.959963984540054) -> tuple[float, float]:
    if total == 0:
        return 0.0, 1.0
    middle = share + z * z / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # Rounding must not keep the bounds from what was measured.
    low = max(0.0, (middle - half) / scale) if share > 0 else 0.0
    high = min(1.0, (middle + half) / scale) if share < 1 else 1.0
    return low, high


def clustered_interval(clusters: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """95 % interval of the share of all pictures where prompts have several.

    From :data:`FEWEST_PROMPTS` prompts on it is about prompts of this kind: the bootstrap over prompts, and never
    narrower than Wilson's interval of the pictures, because a bootstrap of few hits is too narrow. Where all the
    pictures agree they cannot show how alike those of one prompt are, so prompts are counted instead of pictures.
    With fewer prompts it is Wilson's interval of the pictures and speaks of these very prompts.

    Args:
        clusters: ``(hits, total)`` of each prompt.
    """
    hits, total = sum(hits for hits, _ in clusters), sum(total for _, total in clusters)
    pictures = wilson_interval(hits, total)
    if not _over_prompts(clusters):
        return pictures
    if hits in (0, total):
        return _wilson(hits / total, len(clusters))
    low, high = cluster_bootstrap([hits for hits, _ in clusters], [total for _, total in clusters])
    return min(low, pictures[0]), max(high, pictures[1])


def interval_method(clusters: Sequence[tuple[int, int]]) -> str:
    """How :class:`Share` makes the interval, in words for a report."""
    if _over_prompts(clusters):
        return "95 % bootstrap over prompts"
    several = any(total > 1 for _, total in clusters)
    return "95 % Wilson over pictures, for these prompts" if several else "95 % Wilson"


def _over_prompts(clusters: Sequence[tuple[int, int]]) -> bool:
    return len(clusters) >= FEWEST_PROMPTS and any(total > 1 for _, total in clusters)
