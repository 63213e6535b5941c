"""Detections before and after an edit, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.detection import ConceptDetector, prompt_places
from rece_lightning.metrics.intervals import Share
from rece_lightning.metrics.paired import PairedTest, paired_test_of_counts
from rece_lightning.metrics.ranks import over_ranks


class DetectionChange(Metric):
    """Change of a detection rate between two models' pictures of the same prompts and seeds, with a paired test.

    The detector names the protocol. States are whole numbers a prompt and are summed over ranks.

    Args:
        detector: that decides.
        prompts: how many there are, where several pictures share one.
    """

    is_differentiable = False
    full_state_update = False
    pairs: Tensor

    def __init__(self, detector: ConceptDetector, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detector = detector
        # Columns: seen in neither, only before, only after, in both.
        self.add_state("pairs", torch.zeros(prompts, 4, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:
        """Name of the rule by which a detection counts."""
        return self.detector.protocol

    def update(self, before: Tensor, after: Tensor, concepts: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Count pairs of pictures ``[n, 3, h, w]`` in [0, 1] of the same concept, prompt and seed."""
        if len(before) != len(after):
            raise ConfigurationError(f"after: {len(after)} pictures beside {len(before)}; give pairs.")
        places = prompt_places(rows, len(concepts), self.pairs)
        first, second = (self.detector.detect(pictures, concepts).to(self.pairs) for pictures in (before, after))
        self.pairs.view(-1).index_add_(0, 4 * places + first + 2 * second, torch.ones_like(first))

    def compute(self) -> Tensor:
        """Rate after − rate before, float64; NaN when nothing was counted."""
        counts = self.pairs.sum(0)
        return (counts[2] - counts[1]).double() / counts.sum()

    def test(self) -> PairedTest:
        """Whether the change is more than chance; all ranks must call it."""
        with over_ranks(self):
            return paired_test_of_counts((row[1], row[2], sum(row)) for row in self.pairs.tolist())

    def shares(self) -> tuple[Share, Share]:
        """The rates before and after with their intervals; all ranks must call it."""
        with over_ranks(self):
            rows = self.pairs.tolist()
        return Share.over((row[1] + row[3], sum(row)) for row in rows), Share.over(
            (row[2] + row[3], sum(row)) for row in rows
        )
