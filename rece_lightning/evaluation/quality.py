"""The metrics of an evaluation beside the detections: batch by batch, column by column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.distributed import gathered
from rece_lightning.evaluation.drawing import Shot
from rece_lightning.evaluation.folders import References
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.figures import QualityLine
from rece_lightning.metrics import KernelDistance, PictureBatch, PictureMetric
from rece_lightning.metrics.figure import ERASED, KEPT, NOTHING, SETS

SEEDS_APART = 10
"""Sets of seeds that a distance between sets is measured on one by one; of more seeds several make a set."""
THE_ORIGINAL = "the original model"


def check_metrics(metrics: Sequence[object]) -> tuple[PictureMetric, ...]:
    """Raise a ConfigurationError for a metric that an evaluation cannot feed."""
    usable = tuple(metric for metric in metrics if isinstance(metric, PictureMetric))
    others = [type(metric).__name__ for metric in metrics if not isinstance(metric, PictureMetric)]
    if others:
        raise ConfigurationError(
            f"Evaluation.metrics: {others[0]} is not measured beside the detections; give "
            "PerceptualDistance, ArtistScore, ClipScore, FrechetDistance or KernelDistance, or a class with the "
            "members of rece_lightning.metrics.PictureMetric."
        )
    return usable


class Quality:
    """What ``Evaluation.metrics`` measure of every column.

    The metrics' networks are used; every column and group of prompts gets metrics of its own. ``shots`` are those that
    every column is made of: a column of fewer says less. Without ``references`` pictures are compared with the original
    model's.
    """

    def __init__(
        self,
        metrics: Sequence[PictureMetric],
        comparison: Comparison,
        shots: Sequence[Shot],
        references: References | None = None,
    ) -> None:
        self.metrics, self.comparison, self.references = tuple(metrics), comparison, references
        self.names = _names(metrics)
        self._prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(self._prompt_of, shots)))}
        self._seeds = self._places_of_seeds(shots)
        self._sets: dict[int, Tensor | None] = {}

    def _prompt_of(self, shot: Shot) -> tuple[str, str]:
        return self.comparison.prompt_of(shot[0])

    def _places_of_seeds(self, shots: Sequence[Shot]) -> dict[Shot, int]:
        """Which set of seeds a picture belongs to; all to one where kept prompts have unequal numbers of them."""
        times: Counter[tuple[str, str]] = Counter()
        places: dict[Shot, int] = {}
        for shot in shots:
            places[shot] = times[self._prompt_of(shot)] % SEEDS_APART
            times[self._prompt_of(shot)] += 1
        kept = {times[self._prompt_of(shot)] for shot in shots if self._role(shot[0]) == KEPT}
        return places if len(kept) == 1 else dict.fromkeys(places, 0)

    def _role(self, row: int) -> str:
        return KEPT if self.comparison.role(row) == "kept" else ERASED

    # What pictures are compared with

    @property
    def paired(self) -> bool:
        """Whether the folder holds pictures of the same prompts and seeds."""
        return self.references is not None and self.references.paired

    def takes_folder(self, metric: PictureMetric) -> bool:
        """Whether a metric takes the folder's pictures as a set."""
        return metric.compares == SETS and self.references is not None and not self.paired

    @property
    def of_original(self) -> list[str]:
        """Names of the metrics that need the original's pictures of the same prompts and seeds."""
        if self.paired:
            return []
        pairs = zip(self.metrics, self.names, strict=True)
        return [name for metric, name in pairs if metric.compares != NOTHING and not self.takes_folder(metric)]

    def against(self, metric: PictureMetric) -> str:
        """What a metric's pictures are compared with, in words."""
        if metric.compares == NOTHING:
            return ""
        return str(self.references) if self.paired or self.takes_folder(metric) else THE_ORIGINAL

    def kept_of(self, pictures: Tensor) -> list[Tensor | None]:
        """What every metric needs of the original's pictures ``[n, 3, h, w]``; ``None`` where that is nothing."""
        return [
            None if metric.compares == NOTHING or self.takes_folder(metric) else metric.kept_of(pictures)
            for metric in self.metrics
        ]

    def stacked(self, kept: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
        """What was kept shot by shot, as :meth:`kept_of` gives it of all of them."""
        by_metric = [[one for one in of_shots if one is not None] for of_shots in zip(*kept, strict=True)]
        return [torch.stack(of_shots) if of_shots else None for of_shots in by_metric]

    def references_of(self, shots: Sequence[Shot]) -> list[Tensor | None] | None:
        """The same of the folder's pictures; ``None`` where it has none of these prompts and seeds."""
        if not self.paired:
            return None
        assert self.references is not None
        texts = [self.comparison.prompts[row].prompt for row, _ in shots]
        return self.kept_of(self.references.of([(text, seed) for text, (_, seed) in zip(texts, shots, strict=True)]))

    def _set(self, place: int) -> Tensor | None:
        """What a metric keeps of this process's share of the folder's pictures, computed once."""
        if place not in self._sets:
            assert self.references is not None
            parts = [self.metrics[place].kept_of(pictures) for pictures in self.references.batches()]
            self._sets[place] = torch.cat(parts) if parts else None
        return self._sets[place]

    # Columns

    def empty(self, place: int) -> PictureMetric:
        """An empty metric for these prompts and seeds, with its set of references where it has one."""
        seeds = 1 + max(self._seeds.values(), default=0)
        metric = self.metrics[place].sized(len(self._prompts), seeds)
        if isinstance(metric, nn.Module):
            for part in metric.modules():
                if isinstance(part, Metric):
                    # torchmetrics' own sends what lies on the CPU by NCCL, which cannot.
                    part.dist_sync_fn = _gathered
        if isinstance(metric, KernelDistance):
            # Same prompts and seeds, in the same order, wherever the reference is no folder of other pictures.
            metric.paired = not self.takes_folder(metric)
        kept = self._set(place) if self.takes_folder(metric) else None
        if kept is not None:
            metric.take_reference(kept)
        return metric

    def batch(
        self, pictures: Tensor, shots: Sequence[Shot], role: str, reference: Tensor | None
    ) -> PictureBatch | None:
        """The pictures of a batch that are of one role; ``None`` where there are none."""
        chosen = [index for index, (row, _) in enumerate(shots) if self._role(row) == role]
        if not chosen:
            return None
        rows = [shots[index] for index in chosen]
        return PictureBatch(
            pictures=pictures[chosen],
            role=role,
            texts=[self.comparison.prompts[row].prompt for row, _ in rows],
            rows=[self._prompts[self._prompt_of(shot)] for shot in rows],
            seeds=[self._seeds.get(shot, 0) for shot in rows],
            reference=None if reference is None else reference[chosen],
        )


class ColumnQuality:
    """The metrics of one column; ``compared``: it comes with what :meth:`Quality.kept_of` gives of the original's."""

    def __init__(self, quality: Quality, key: str, *, compared: bool) -> None:
        self._quality, self._key = quality, key
        # The same on every process, whatever pictures it gets: together they make the figures.
        self._metrics = {
            (place, group): quality.empty(place)
            for place, metric in enumerate(quality.metrics)
            if metric.compares == NOTHING or quality.takes_folder(metric) or compared
            for group in metric.groups
        }

    def add(self, pictures: Tensor, shots: Sequence[Shot], kept: Sequence[Tensor | None] | None) -> None:
        """Take pictures ``[n, 3, h, w]`` in [0, 1], with what :meth:`Quality.kept_of` gave of the original's."""
        for (place, group), metric in self._metrics.items():
            for role in group:
                batch = self._quality.batch(pictures, shots, role, None if kept is None else kept[place])
                if batch is not None:
                    metric.take(batch)

    def lines(self) -> list[QualityLine]:
        """What was measured by all processes, in the order of the metrics; every process must call it."""
        lines = []
        for (place, group), metric in self._metrics.items():
            asked = self._quality.metrics[place]
            rule = (self._quality.names[place], asked.protocol, self._quality.against(asked))
            lines += [QualityLine(self._key, *rule, figure) for figure in metric.figures(group[0])]
        return lines


def _gathered(state: Tensor, group: object = None) -> list[Tensor]:
    """A state of every process."""
    return gathered(state)


def _names(metrics: Sequence[PictureMetric]) -> list[str]:
    """``perceptual_distance`` for ``PerceptualDistance``; a second one gets ``_2``."""
    seen: Counter[str] = Counter()
    names = []
    for metric in metrics:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(metric).__name__).lower()
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names
