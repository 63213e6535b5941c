"""Means of a score over pictures, with an interval, and figures over seeds, with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rece_lightning.metrics.bootstrap import FEWEST_PROMPTS, cluster_bootstrap
from rece_lightning.metrics.detection import prompt_places
from rece_lightning.metrics.quantiles import t_quantile
from rece_lightning.metrics.ranks import over_ranks


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
        return sum(self.values) / len(self.values) if self.values else float("nan")

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds (n − 1); NaN with fewer than two."""
        if len(self.values) < 2:
            return float("nan")
        return sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.deviation:.2g}" if len(self.values) > 1 else f"{self.mean:.3g}"


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
            return self._mean()

    def _mean(self) -> Mean:
        total = int(self.counts.sum())
        value = float(self.sums.sum() / total) if total else float("nan")
        kept = self.counts > 0
        if int(kept.sum()) >= FEWEST_PROMPTS:
            interval = cluster_bootstrap(self.sums[kept].tolist(), self.counts[kept].tolist())
            return Mean(value, interval, total, "95 % bootstrap over prompts")
        if total < 2:
            return Mean(value, (float("nan"), float("nan")), total, "one picture")
        variance = max(0.0, float(self.squares.sum()) - total * value**2) / (total - 1)
        half = t_quantile(total - 1) * sqrt(variance / total)
        return Mean(value, (value - half, value + half), total, "95 % t over pictures, for these prompts")
