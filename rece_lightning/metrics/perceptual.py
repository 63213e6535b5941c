"""How far an edited model's pictures are from the original's of the same prompts and seeds, and scores of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import hypot
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.metrics.features import EmojiFeatures, FeatureNetwork
from rece_lightning.metrics.figure import DIFFERENCE, ERASED, KEPT, PAIRS, Figure, Mean, PictureBatch, PromptMean
from rece_lightning.metrics.pretrained import check_pictures

ROLES = (ERASED, KEPT)


class PictureDistance(ABC):
    """How far two pictures are apart, pair by pair. Distances of one's own are subclasses: YAML names those."""

    protocol: str

    @abstractmethod
    def kept_of(self, pictures: Tensor) -> Tensor:
        """What the distance needs of pictures ``[n, 3, h, w]`` in [0, 1]: ``[n, …]``."""

    @abstractmethod
    def between(self, first: Tensor, second: Tensor) -> Tensor:
        """What :meth:`kept_of` gave, twice → ``[n]``, float64 on the CPU; 0 for equal pictures."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """``[n, 3, h, w]`` in [0, 1], twice → ``[n]``."""
        return self.between(self.kept_of(first), self.kept_of(second))


class FeatureDistance(PictureDistance):
    """Protocol ``feature-distance FEATURES``: 1 − cosine of two pictures' features, 0 to 2.

    Stands in for LPIPS on the embedded world, whose pictures are too small and too plain for it.

    Args:
        features: network; the embedded world's detector without it.
    """

    def __init__(self, features: FeatureNetwork | nn.Module | None = None) -> None:
        self.features = cast(FeatureNetwork, features) if features is not None else EmojiFeatures()
        self.protocol = f"feature-distance {self.features.protocol}"

    def kept_of(self, pictures: Tensor) -> Tensor:
        """The features, ``[n, d]``."""
        return self.features(pictures)

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        """``[n]``, float64."""
        return 1 - torch.nn.functional.cosine_similarity(first.double(), second.double())


class Lpips(PictureDistance):
    """Protocol ``lpips-alex-64``: LPIPS of AlexNet on pictures made 64×64, as RECE's released code measures artists.

    Needs the extra ``perceptual``; torchvision downloads AlexNet's weights. Not run by this project with real
    weights, which could not be fetched. The published code scales with OpenCV's bilinear interpolation, which does
    not smooth; so does this.

    Args:
        size: edge that the pictures are scaled to; ``None`` leaves them as they are.
        network: of pairs in [−1, 1] → distances; torchmetrics' LPIPS without it.
    """

    def __init__(self, size: int | None = 64, network: nn.Module | None = None) -> None:
        self.size = size
        self.protocol = f"lpips-alex-{size}" if size else "lpips-alex"
        self.network = network if network is not None else _lpips_network()

    def kept_of(self, pictures: Tensor) -> Tensor:
        """The pictures in [−1, 1], at the size that is compared."""
        check_pictures(pictures)
        if self.size:
            pictures = nn.functional.interpolate(pictures.float(), (self.size, self.size), mode="bilinear")
        return pictures.clamp(0, 1) * 2 - 1

    @torch.no_grad()
    def between(self, first: Tensor, second: Tensor) -> Tensor:
        """``[n]``, on the CPU."""
        return self.network(first, second).reshape(len(first)).double().cpu()


def _lpips_network() -> nn.Module:
    try:
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex").net
    except (ImportError, RuntimeError) as error:  # torchvision for another torch raises RuntimeError
        raise ConfigurationError(
            f"Lpips needs the package torchvision and AlexNet's weights ({error}); install the extra: "
            "pip install 'rece-lightning[perceptual]'."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"Lpips: AlexNet's weights could not be fetched ({error}); put them into torch's cache "
            "(~/.cache/torch/hub/checkpoints) from a machine that can."
        ) from error


class PerceptualDistance(PromptMean):
    """Mean distance between two models' pictures of the same prompts and seeds; the distance names the protocol.

    Low on preserved concepts: the edit leaves their pictures alone. High on erased ones says that they changed, not
    that the concept is gone.

    Args:
        distance: the embedded world's feature distance without it.
        prompts: how many there are, where several pictures share one.
    """

    higher_is_better = None
    compares = PAIRS
    groups: tuple[tuple[str, ...], ...] = ((ERASED,), (KEPT,))

    def __init__(self, distance: PictureDistance | None = None, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(prompts, **kwargs)
        self.distance = distance if distance is not None else FeatureDistance()
        self.protocol = self.distance.protocol

    def update(self, original: Tensor, edited: Tensor, rows: Sequence[int] | None = None) -> None:
        """Add pairs ``[n, 3, h, w]`` in [0, 1] of the same prompt and seed; ``rows`` are the indices of the prompts."""
        if original.shape != edited.shape:
            raise ConfigurationError(
                f"edited: {list(edited.shape)} beside {list(original.shape)}; give pairs of the same prompts and seeds."
            )
        self.add(self.distance(original, edited), rows)

    def sized(self, prompts: int, seeds: int) -> PerceptualDistance:
        return PerceptualDistance(self.distance, prompts)

    def kept_of(self, pictures: Tensor) -> Tensor:
        return self.distance.kept_of(pictures)

    def take(self, batch: PictureBatch) -> None:
        if batch.reference is not None:
            self.add(self.distance.between(batch.reference, self.kept_of(batch.pictures)), batch.rows)


class ArtistScore(WrapperMetric):
    """Distance to the original model's picture on erased artists minus that on kept ones (RECE's measure for artists).

    With :class:`Lpips` the published protocol; with the feature distance its like
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
        return self.of(ERASED).compute() - self.of(KEPT).compute()

    def means(self) -> dict[str, Mean]:
        """Both distances with their intervals."""
        return {role: self.of(role).mean() for role in ROLES}

    def reset(self) -> None:
        for role in ROLES:
            self.of(role).reset()

    def score(self) -> Mean:
        """Erased − kept with a 95 % interval from those of both distances (Zou and Donner 2008).

        The two sets have no prompt in common, so their errors are independent. All ranks must call it.
        """
        erased, kept = self.means().values()
        value = erased.mean - kept.mean
        low = value - hypot(erased.mean - erased.interval[0], kept.interval[1] - kept.mean)
        high = value + hypot(erased.interval[1] - erased.mean, kept.mean - kept.interval[0])
        method = f"95 % from both intervals ({erased.method})"
        return Mean(value, (low, high), erased.total + kept.total, method)

    def sized(self, prompts: int, seeds: int) -> ArtistScore:
        return ArtistScore(self.of(KEPT).distance, prompts)

    def kept_of(self, pictures: Tensor) -> Tensor:
        return self.of(KEPT).kept_of(pictures)

    def take_reference(self, kept: Tensor) -> None:
        """Nothing is compared with a set."""

    def take(self, batch: PictureBatch) -> None:
        self.of(batch.role).take(batch)

    def figures(self, role: str) -> list[Figure]:
        """Both distances, and the score where both were measured."""
        means = self.means()
        found = [figure for name in ROLES for figure in Figure.of_mean(name, means[name])]
        return found + (Figure.of_mean(DIFFERENCE, self.score()) if len(found) == len(ROLES) else [])
