"""Does a picture show a concept? Detectors, and the rate of detections as a torchmetrics class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torchmetrics import Metric

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.detector import Detector, load_detector
from rece_lightning.metrics.intervals import Share


@runtime_checkable
class ConceptDetector(Protocol):
    """What an evaluation asks of a detector. Any class with these members can be named in YAML."""

    protocol: str
    """Name of the rule by which a detection counts."""

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError if it cannot recognise ``concept``."""

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Whether picture i shows concept i: ``[n, 3, h, w]`` in [0, 1] → ``[n]`` bool."""


class EmojiDetector:
    """The embedded world's detector, protocol ``emoji-top1``.

    A picture shows an object (by name or synonym), a style or a background when that class has the highest
    logit of its head. There is no threshold.

    Args:
        folder: of other weights; the shipped ones without it.
        device: where it runs.
    """

    protocol = "emoji-top1"

    def __init__(self, folder: str | None = None, device: str = "cpu") -> None:
        self.catalog = load_catalog()
        self.device = device
        self._folder = Path(folder) if folder else WEIGHTS / "detector"
        self._detector: Detector | None = None
        self._classes: dict[str, tuple[str, int]] = {}
        for index, item in enumerate(self.catalog.objects):
            for word in (*item.synonyms, item.name):
                self._classes[word] = ("objects", index)
        for index, style in enumerate(self.catalog.styles):
            self._classes[f"{style} style"] = self._classes[style] = ("styles", index)
        for index, name in enumerate(self.catalog.backgrounds):
            self._classes[f"{name} background"] = self._classes[name] = ("backgrounds", index)

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError with the nearest known concept."""
        if concept not in self._classes:
            names = [*self.catalog.names, *self.catalog.styles, *self.catalog.backgrounds]
            close = nearest(concept, names).split(" Valid:")[0]
            hint = close if close.startswith("did") else "give one of its object, style or background names"
            raise ConfigurationError(f"concept: the emoji detector does not know {concept!r}; {hint}.")

    @torch.no_grad()
    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Whether picture i shows concept i."""
        if self._detector is None:
            self._detector = load_detector(self._folder).to(self.device)
        hits = []
        for first in range(0, len(concepts), 256):
            found = self._detector(pictures[first : first + 256].to(self.device) * 2 - 1)
            for row, concept in enumerate(concepts[first : first + 256]):
                head, index = self._classes[concept]
                hits.append(int(getattr(found, head)[row].argmax()) == index)
        return torch.tensor(hits, dtype=torch.bool)


class DetectionRate(Metric):
    """Share of pictures in which their concept is detected.

    States are sums over pictures and reduce over ranks; protocol, threshold and classes are the detector's.

    Args:
        detector: that decides; see :class:`ConceptDetector`.

    Example:
        >>> import torch
        >>> class Bright:
        ...     protocol = "bright"
        ...     def check(self, concept): ...
        ...     def detect(self, pictures, concepts):
        ...         return pictures.mean((1, 2, 3)) > 0.5
        >>> rate = DetectionRate(Bright())
        >>> rate.update(torch.stack([torch.ones(3, 2, 2), torch.zeros(3, 2, 2)]), ["light", "light"])
        >>> float(rate.compute())
        0.5
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, detector: ConceptDetector, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detector = detector
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, pictures: Tensor, concepts: Sequence[str]) -> None:
        """Count pictures ``[n, 3, h, w]`` in [0, 1], each with the concept it is searched for."""
        self.hits += self.detector.detect(pictures, concepts).sum().to(self.hits)
        self.total += len(concepts)

    def compute(self) -> Tensor:
        """The share, NaN when nothing was counted."""
        return self.hits.double() / self.total

    def share(self) -> Share:
        """The share with its 95 % interval."""
        return Share(int(self.hits), int(self.total))
