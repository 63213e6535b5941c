"""What an evaluation asks of a metric beside the detections, and the figures that it answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from rece_lightning.metrics.means import Mean

NOTHING, PAIRS, SETS = "nothing", "pairs", "sets"
"""What a metric compares pictures with: nothing, the original's of the same prompt and seed, any other set."""
ERASED, KEPT, DIFFERENCE = "erased", "kept", "difference"
NAN = float("nan")


@dataclass(frozen=True)
class Figure:
    """One number about the pictures of a model state."""

    part: str
    """Of which prompts: ``erased`` (synonyms included), ``kept``; ``difference`` is erased − kept."""
    value: float
    total: int
    """Pictures."""
    method: str
    """How interval or spread are made, in words."""
    interval: tuple[float, float] = (NAN, NAN)
    """95 %; NaN where the metric has none."""
    deviation: float = NAN
    """Standard deviation over seeds, where that stands in for an interval."""

    @classmethod
    def of_mean(cls, part: str, mean: Mean) -> list[Figure]:
        """The figure of a mean over pictures; none where nothing was counted."""
        return [cls(part, mean.mean, mean.total, mean.method, mean.interval)] if mean.total else []

    def __str__(self) -> str:
        low, high = self.interval
        if low == low:
            return f"{self.value:.3g} ({low:.3g}–{high:.3g})"
        return f"{self.value:.3g} ± {self.deviation:.2g}" if self.deviation == self.deviation else f"{self.value:.3g}"


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of one model state, all of erased or all of kept prompts."""

    pictures: Tensor
    """``[n, 3, h, w]`` in [0, 1]."""
    role: str
    """``erased`` or ``kept``."""
    texts: Sequence[str]
    """The prompts that they were made for."""
    rows: Sequence[int]
    """Places of these prompts: the same text and concept is the same prompt."""
    seeds: Sequence[int]
    """Places of their seeds."""
    reference: Tensor | None = None
    """What :meth:`PictureMetric.kept_of` gave for the original's pictures, ``[n, …]``."""


@runtime_checkable
class PictureMetric(Protocol):
    """A metric that ``Evaluation.metrics`` takes. Any torchmetrics class with these members can be named in YAML."""

    protocol: str
    """Name of the rule by which it measures."""
    compares: str
    """``nothing``, ``pairs`` or ``sets``; see :data:`NOTHING`."""
    groups: tuple[tuple[str, ...], ...]
    """Roles of prompts (``erased``, ``kept``) that it measures together: each group has a metric of its own."""

    def sized(self, prompts: int, seeds: int) -> PictureMetric:
        """An empty one for so many prompts and seeds, with the same networks."""

    def kept_of(self, pictures: Tensor) -> Tensor:
        """What must be kept of the original's pictures to compare others with them, ``[n, …]``."""

    def take_reference(self, kept: Tensor) -> None:
        """Add a set of reference pictures, as :meth:`kept_of` gave them; for ``sets`` alone."""

    def take(self, batch: PictureBatch) -> None:
        """Add pictures, with their reference where there is one."""

    def figures(self, role: str) -> list[Figure]:
        """What was measured on a group, ``role`` being its first; no figure for prompts without pictures."""
