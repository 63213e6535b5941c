"""RECE's score for artists: the erased one's pictures should change, all others should not."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from typing import Any, cast

from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import check_choice
from rece_lightning.metrics.figure import DIFFERENCE, ERASED, KEPT, PAIRS, Figure, PictureBatch
from rece_lightning.metrics.means import Mean
from rece_lightning.metrics.perceptual import FeatureDistance, PerceptualDistance, PictureDistance

ROLES = (ERASED, KEPT)


class ArtistScore(WrapperMetric):
    """Distance to the original model's picture on erased artists minus that on kept ones (RECE's measure for artists).

    With :class:`~rece_lightning.metrics.perceptual.Lpips` the published protocol; with the feature distance its like
    on the embedded world. Higher is better. A model that destroys every picture scores 0, as one without edit does.

    Args:
        distance: the embedded world's feature distance without it.
        prompts: how many there are, where several pictures share one.
    """

    higher_is_better = True
    compares = PAIRS
    groups: tuple[tuple[str, ...], ...] = (ROLES,)

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

    def score(self) -> Mean:
        """Erased − kept with a 95 % interval from those of both distances (Zou and Donner 2008).

        The two sets have no prompt in common, so their errors are independent. All ranks must call it.
        """
        erased, kept = self.means()["erased"], self.means()["kept"]
        value = erased.mean - kept.mean
        low = value - hypot(erased.mean - erased.interval[0], kept.interval[1] - kept.mean)
        high = value + hypot(erased.interval[1] - erased.mean, kept.mean - kept.interval[0])
        method = f"95 % from both intervals ({erased.method})"
        return Mean(value, (low, high), erased.total + kept.total, method)

    def sized(self, prompts: int, seeds: int) -> ArtistScore:
        """An empty one for so many prompts, with the same distance."""
        return ArtistScore(self.of(KEPT).distance, prompts)

    def kept_of(self, pictures: Tensor) -> Tensor:
        """What the distance needs of them."""
        return self.of(KEPT).kept_of(pictures)

    def take_reference(self, kept: Tensor) -> None:
        """Nothing is compared with a set."""

    def take(self, batch: PictureBatch) -> None:
        """Add the pictures of a batch, each beside its reference."""
        self.of(batch.role).take(batch)

    def figures(self, role: str) -> list[Figure]:
        """Both distances, and the score where both were measured."""
        means = self.means()
        found = [figure for name in ROLES for figure in Figure.of_mean(name, means[name])]
        return found + (Figure.of_mean(DIFFERENCE, self.score()) if len(found) == len(ROLES) else [])
