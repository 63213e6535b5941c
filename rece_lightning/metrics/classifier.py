"""Detection by any image classifier of ``transformers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError, check_number, nearest
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.metrics.pretrained import eight_bit, load_parts


class ImageClassifier(ConceptDetector):
    """A concept is detected when its class is among the ``top`` of a classifier, protocol ``classifier-top1 NAME``.

    A concept is a class when it is one of its names: labels such as ``tench, Tinca tinca`` hold several. With a
    threshold its probability must also be above that: ``classifier-top1>0.5 NAME``. Pictures pass through the
    classifier's own preprocessor in eight bits, so that a stored picture gives the same answer. ``objects`` of
    published tables: a ResNet-50, ``top`` 1, Imagenette's classes.

    Args:
        model: folder or hub id with a model for image classification and its preprocessor.
        top: how many classes count as seen.
        threshold: for the softmax probability of the concept's class; none without it.
        aliases: concept → label, where their names differ.
        revision: of the hub repository.
        device: where it runs.
        batch_size: pictures at a time.
    """

    def __init__(
        self,
        model: str,
        top: int = 1,
        threshold: float | None = None,
        aliases: Mapping[str, str] | None = None,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if not isinstance(top, int) or top < 1:
            raise ConfigurationError(f"ImageClassifier.top: {top!r}; give a whole number of 1 or more.")
        if threshold is not None:
            check_number("ImageClassifier.threshold", threshold)
        self.model, self.top, self.threshold = model, top, threshold
        self.aliases = dict(aliases or {})
        self.revision, self.device, self.batch_size = revision, device, batch_size
        above = f">{threshold:g}" if threshold is not None else ""
        self.protocol = f"classifier-top{top}{above} {PurePath(model).name}"

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError with the nearest class."""
        classes = self._parts[2]
        label = self.aliases.get(concept, concept)
        if _plain(label) not in classes:
            close = nearest(_plain(label), classes).split(" Valid:")[0]
            hint = f"{close}; " if close.startswith("did") else ""
            raise ConfigurationError(
                f"concept: {self.model} has no class {label!r}; {hint}give the concept a class with aliases."
            )

    def concepts(self) -> Sequence[str]:
        """The first name of every class."""
        return [_plain(label) for label in self._parts[3]]

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        classes = self._parts[2]
        probabilities = self.probabilities(pictures)
        wanted = torch.tensor([classes[_plain(self.aliases.get(concept, concept))] for concept in concepts])
        own = probabilities.gather(1, wanted[:, None])
        seen = (probabilities > own).sum(1) < self.top
        return seen if self.threshold is None else seen & (own[:, 0] > self.threshold)

    def name(self, pictures: Tensor, concepts: Sequence[str]) -> list[str]:
        """The class of each picture, by the first name of its label."""
        labels = self._parts[3]
        return [labels[index] for index in self.probabilities(pictures).argmax(1).tolist()]

    @torch.no_grad()
    def probabilities(self, pictures: Tensor) -> Tensor:
        """Softmax over the classes: ``[n, 3, h, w]`` in [0, 1] → ``[n, classes]`` on the CPU."""
        network, preprocessor = self._parts[:2]
        found = []
        for part in pictures.split(self.batch_size):
            inputs = preprocessor(images=eight_bit(part), return_tensors="pt", input_data_format="channels_last")
            logits = network(inputs["pixel_values"].to(self.device)).logits
            found.append(logits.float().softmax(-1).cpu())
        return torch.cat(found)

    @cached_property
    def _parts(self) -> tuple[Any, Any, dict[str, int], list[str]]:
        """Network, preprocessor, every name's class, and every class's first name."""
        kinds = ("AutoModelForImageClassification", "AutoImageProcessor")
        network, preprocessor = load_parts("ImageClassifier.model", self.model, self.revision, *kinds)
        labels = {int(index): str(label) for index, label in network.config.id2label.items()}
        classes: dict[str, int] = {}
        for index, label in sorted(labels.items()):
            for one in (label, *label.split(",")):
                classes.setdefault(_plain(one), index)
        names = [labels[index].split(",")[0].strip() for index in sorted(labels)]
        return network.to(self.device).eval().requires_grad_(False), preprocessor, classes, names


def _plain(label: str) -> str:
    """``Cassette_Player`` and ``cassette player`` are one class."""
    return " ".join(label.lower().replace("_", " ").split())
