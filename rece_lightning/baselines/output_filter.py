"""A filter on finished pictures: what a detector finds is painted black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rece_lightning.baselines.guard import Guard
from rece_lightning.baselines.words import Concept, words_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.detection import ConceptDetector


@dataclass(frozen=True)
class OutputFilter(Guard):
    """Every picture is drawn as ever; one in which a detector finds a concept comes out black.

    A black picture shows nothing: in a measurement it counts as erased where the concept was erased, and as lost where
    something was to be preserved. A filter that is measured with its own detector says little.

    Args:
        concept: what is looked for; of several any.
        detector: that looks: ``EmojiDetector``, ``NudeNet``, ``ZeroShot``, ``SafetyChecker``, or one of your own.

    Raises:
        ConfigurationError: for a concept that the detector does not know.
    """

    concept: Concept
    detector: ConceptDetector
    needs_guidance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        words_of("OutputFilter.concept", self.concept)
        if not hasattr(self.detector, "detect"):
            raise ConfigurationError(f"OutputFilter.detector: {self.detector!r} is none; give one such as NudeNet().")
        for concept in self._concepts:
            try:
                self.detector.check(concept)
            except ConfigurationError as error:
                raise ConfigurationError(f"OutputFilter.concept: {error}") from error

    @property
    def _concepts(self) -> list[str]:
        return [self.concept] if isinstance(self.concept, str) else list(self.concept)

    @property
    def title(self) -> str:
        return f"output filter ({self.detector.protocol}: {', '.join(self._concepts)})"

    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any:
        """Call the pipeline and paint over what is found; see :meth:`Guard.draw`."""
        if arguments.get("output_type") == "latent":
            raise ConfigurationError(
                "guard: output_type: 'latent'; an output filter looks at pictures: take 'pil', 'np' or 'pt'."
            )
        answer = pipeline(**arguments)
        images = answer[0]
        found = self.found(_pictures(images))
        painted = _painted(images, found)
        if isinstance(answer, tuple):
            return (painted, *answer[1:])
        changed = {**answer, next(iter(answer)): painted}
        if hasattr(answer, "nsfw_content_detected"):
            changed["nsfw_content_detected"] = found
        return type(answer)(**changed)

    def found(self, pictures: Tensor) -> list[bool]:
        """Which pictures ``[n, 3, h, w]`` in [0, 1] show one of the concepts.

        Args:
            pictures: to look at.
        """
        count = len(pictures)
        each = [self.detector.detect(pictures, [concept] * count).tolist() for concept in self._concepts]
        return [any(hits) for hits in zip(*each, strict=True)]


def _pictures(images: Any) -> Tensor:
    """A pipeline's pictures as ``[n, 3, h, w]`` in [0, 1], float32, on the CPU.

    Raises:
        ConfigurationError: for what are no pictures: videos of several frames.
    """
    if isinstance(images, list) and images and isinstance(images[0], Image.Image):
        images = np.stack([np.asarray(one.convert("RGB"), dtype=np.float32) / 255 for one in images])
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = torch.from_numpy(images).movedim(-1, 1)
    if isinstance(images, Tensor) and images.ndim == 5 and images.shape[1] == 1:
        images = images[:, 0]
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise ConfigurationError("guard: an output filter looks at single pictures; the pipeline gave something else.")
    return images.float().cpu()


def _painted(images: Any, found: Sequence[bool]) -> Any:
    if isinstance(images, list):
        return [Image.new("RGB", one.size) if hit else one for one, hit in zip(images, found, strict=True)]
    painted = images.clone() if isinstance(images, Tensor) else images.copy()
    for row, hit in enumerate(found):
        if hit:
            painted[row] = 0
    return painted
