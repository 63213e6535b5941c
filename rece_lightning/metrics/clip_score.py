"""CLIP score: how well a picture fits its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.clip import Clip
from rece_lightning.metrics.figure import KEPT, NOTHING, Figure, PictureBatch
from rece_lightning.metrics.means import PromptMean


class ClipScore(PromptMean):
    """Protocol ``clip-score NAME``: mean of 100 · cosine between a picture and the prompt it was made for.

    Published tables use ``openai/clip-vit-large-patch14`` or ``-base-patch32`` on COCO captions and call the same
    figure CLIP, CLIP score or CS; figures of different CLIPs cannot be compared. Negative cosines are not cut off.

    Args:
        clip: the embedded world's unless another is given.
        prompts: how many there are, where several pictures share one.
    """

    higher_is_better = True
    compares = NOTHING
    # A picture that fits an erased prompt is no merit.
    groups: tuple[tuple[str, ...], ...] = ((KEPT,),)

    def __init__(self, clip: Clip | None = None, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(prompts, **kwargs)
        self.clip = clip or Clip()
        self.protocol = f"clip-score {self.clip.name}"

    def update(self, pictures: Tensor, texts: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Add pictures ``[n, 3, h, w]`` in [0, 1], each with its prompt; ``rows`` are the indices of the prompts."""
        if len(pictures) != len(texts):
            raise ConfigurationError(f"texts: {len(texts)} for {len(pictures)} pictures; give each its prompt.")
        unique = list(dict.fromkeys(texts))
        vectors = self.clip.of_texts(unique)
        own = vectors[[unique.index(text) for text in texts]]
        self.add(100 * (self.clip.of_pictures(pictures).double() * own.double()).sum(1), rows)

    def sized(self, prompts: int, seeds: int) -> ClipScore:
        """An empty one for so many prompts, with the same CLIP."""
        return ClipScore(self.clip, prompts)

    def kept_of(self, pictures: Tensor) -> Tensor:
        """Nothing: it compares a picture with its prompt."""
        return pictures.new_zeros(len(pictures), 0)

    def take_reference(self, kept: Tensor) -> None:
        """Nothing is compared with a set."""

    def take(self, batch: PictureBatch) -> None:
        """Add the pictures of a batch."""
        self.update(batch.pictures, batch.texts, batch.rows)

    def figures(self, role: str) -> list[Figure]:
        """The mean with its interval."""
        return Figure.of_mean(role, self.mean())
