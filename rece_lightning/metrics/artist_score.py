"""RECE's score for artists: the erased one's pictures should change, all others should not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import check_choice
from rece_lightning.metrics.means import Mean
from rece_lightning.metrics.perceptual import FeatureDistance, PerceptualDistance, PictureDistance

ROLES = ("erased", "kept")


class ArtistScore(WrapperMetric):
    """Distance to the original model's picture on erased artists minus that on kept ones (RECE's measure for artists).

    With :class:`~rece_lightning.metrics.perceptual.Lpips` the published protocol; with the feature distance its like
    on the embedded world. Higher is better. A model that destroys every picture scores 0, as one without edit does.

    Args:
        distance: the embedded world's feature distance without it.
        prompts: how many there are, where several pictures share one.
    """

    higher_is_better = True

    def __init__(self, distance: PictureDistance | None = None, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        distance = distance if distance is not None else FeatureDistance()
        self.protocol = f"artist score, {distance.protocol}"
        self.parts = nn.ModuleDict({role: PerceptualDistance(distance, prompts) for role in ROLES})

    def update(self, original: Tensor, edited: Tensor, role: str, rows: Sequence[int] | None = None) -> None:
        """Add pairs ``[n, 3, h, w]`` of one role, ``erased`` or ``kept``; ``rows`` are the indices of the prompts."""
        check_choice("role", role, ROLES)
        self.of(role).update(original, edited, rows)

    def of(self, role: str) -> PerceptualDistance:
        """The distance of one role."""
        return cast(PerceptualDistance, self.parts[role])

    def compute(self) -> Tensor:
        """Erased − kept; NaN while one has no pictures."""
        return self.of("erased").compute() - self.of("kept").compute()

    def means(self) -> dict[str, Mean]:
        """Both distances with their intervals."""
        return {role: self.of(role).mean() for role in ROLES}

    def reset(self) -> None:
        """Forget all pictures."""
        for role in ROLES:
            self.of(role).reset()
