"""What a metric gives an evaluation: means over pictures with intervals, spreads over seeds, and figures of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torchmetrics import Metric

from rece_lightning.metrics.detection import over_ranks, prompt_places
from rece_lightning.metrics.intervals import FEWEST_PROMPTS, cluster_bootstrap, t_quantile

NOTHING, PAIRS, SETS = "nothing", "pairs", "sets"
"""What a metric compares pictures with: nothing, the original's of the same prompt and seed, any other set."""
ERASED, KEPT, DIFFERENCE = "erased", "kept", "difference"
NAN = float("nan")


@dataclass(frozen=True)
class Mean:
    """A mean over ``total`` pictures with its 95 % interval; NaN where it cannot be made."""

    mean: float
    interval: tuple[float, float]
    total: int
    method: str

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:.3g} ({low:.3g}–{high:.3g})" if self.total else "–"


@dataclass(frozen=True)
class Spread:
    """A figure that needs many pictures at once, measured once a seed.

    Its spread over seeds stands in for an interval: a bootstrap of a Fréchet or kernel distance draws pictures twice
    and is biased upwards.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds; NaN without any."""
        return sum(self.values) / len(self.values) if self.values else NAN

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds (n − 1); NaN with fewer than two."""
        if len(self.values) < 2:
            return NAN
        return sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.deviation:.2g}" if len(self.values) > 1 else f"{self.mean:.3g}"


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


class PromptMean(Metric):
    """Mean of one number a picture. States are float64 sums a prompt, summed over ranks.

    Args:
        prompts: how many there are, where several pictures share one.
    """

    is_differentiable = False
    full_state_update = False
    protocol: str
    sums: Tensor
    squares: Tensor
    counts: Tensor

    def __init__(self, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("sums", "squares"):
            self.add_state(name, torch.zeros(prompts, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(prompts, dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values: Tensor, rows: Sequence[int] | None) -> None:
        """Add one number a picture, ``[n]``, at their prompts' places."""
        places = prompt_places(rows, len(values), self.counts)
        values = values.to(self.sums)
        self.sums.index_add_(0, places, values)
        self.squares.index_add_(0, places, values.square())
        self.counts.index_add_(0, places, torch.ones_like(places))

    def compute(self) -> Tensor:
        """The mean, float64; NaN when nothing was counted."""
        return self.sums.sum() / self.counts.sum()

    def mean(self) -> Mean:
        """The mean with its 95 % interval, of the pictures of all ranks; all of them must call it.

        A bootstrap over prompts from six prompts on; with fewer Student's t over the pictures, for these prompts.
        """
        with over_ranks(self):
            kept = self.counts > 0
            sums, counts = self.sums[kept].tolist(), self.counts[kept].tolist()
            total, whole, squares = int(self.counts.sum()), self.sums.sum(), float(self.squares.sum())
        value = float(whole / total) if total else NAN
        if len(counts) >= FEWEST_PROMPTS:
            return Mean(value, cluster_bootstrap(sums, counts), total, "95 % bootstrap over prompts")
        if total < 2:
            return Mean(value, (NAN, NAN), total, "one picture")
        variance = max(0.0, squares - total * value**2) / (total - 1)
        half = t_quantile(total - 1) * sqrt(variance / total)
        return Mean(value, (value - half, value + half), total, "95 % t over pictures, for these prompts")

    def take_reference(self, kept: Tensor) -> None:
        """Nothing is compared with a set."""

    def figures(self, role: str) -> list[Figure]:
        """The mean with its interval."""
        return Figure.of_mean(role, self.mean())
