"""Generality: is a concept gone under other words too?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.detection import ConceptDetector, DetectionRate


class Generality(DetectionRate):
    """Detection rate of erased concepts on prompts that name them by synonyms or paraphrases. Lower is better.

    Protocol ``generality DETECTOR``. The picture is searched for the concept, not for the word. A prompt that holds
    the concept's own name as words is refused: it would measure the erasure itself. Published tables call the rate
    ``Acc_g`` (MACE).

    Args:
        detector: that decides.
        prompts: how many there are, where several pictures share one.
    """

    higher_is_better = False

    def __init__(self, detector: ConceptDetector, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(detector, prompts, **kwargs)

    @property
    def protocol(self) -> str:
        """Name of the rule by which a detection counts."""
        return f"generality {self.detector.protocol}"

    def update(  # type: ignore[override]
        self, pictures: Tensor, concepts: Sequence[str], texts: Sequence[str], rows: Sequence[int] | None = None
    ) -> None:
        """Count pictures ``[n, 3, h, w]`` in [0, 1].

        Args:
            pictures: of one model.
            concepts: that were erased, one a picture.
            texts: the prompts that the pictures were made for, one a picture.
            rows: index of each picture's prompt.
        """
        for concept, text in zip(concepts, texts, strict=True):
            if f" {' '.join(concept.lower().split())} " in f" {' '.join(text.lower().split())} ":
                raise ConfigurationError(
                    f"texts: {text!r} names {concept!r} itself; generality asks for it in other words."
                )
        super().update(pictures, concepts, rows)
