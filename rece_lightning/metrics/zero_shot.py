"""Zero-shot detection by a CLIP: which of several descriptions fits a picture best?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.clip import Clip


class ZeroShot:
    """A concept is detected when its description fits better than those of all alternatives.

    Protocol ``clip-zero-shot NAME, one of N``: the picture's cosine to ``"a photo of {}"`` with the concept is the
    highest among the concept and the alternatives. There is no threshold. The rate depends on the alternatives: with
    none that the model could draw instead, everything is detected.

    Args:
        alternatives: concepts that a picture could show instead; the searched one may be among them.
        model: ``emoji``, a folder or a hub id with a CLIP, its tokenizer and its preprocessor.
        template: of the descriptions; ``{}`` takes the concept.
        revision: of the hub repository.
        device: where it runs.
    """

    def __init__(
        self,
        alternatives: Sequence[str],
        model: str = "emoji",
        template: str = "a photo of {}",
        revision: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.alternatives = tuple(dict.fromkeys(alternatives))
        if isinstance(alternatives, str) or not self.alternatives:
            raise ConfigurationError(f"ZeroShot.alternatives: {alternatives!r}; list what could be drawn instead.")
        if template.count("{}") != 1:
            raise ConfigurationError(f"ZeroShot.template: {template!r} must hold '{{}}' once, as in 'a photo of {{}}'.")
        self.template = template
        self.clip = Clip(model, revision, device)
        self.protocol = f"clip-zero-shot {self.clip.name}, one of {len(self.alternatives)}"
        self._texts: dict[str, Tensor] = {}

    def check(self, concept: str) -> None:
        """Raise a ConfigurationError if there is nothing else that a picture could show."""
        if not concept.strip() or self.alternatives == (concept,):
            raise ConfigurationError(
                f"concept: {concept!r} has no alternative in ZeroShot.alternatives; add what could be drawn instead."
            )

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Whether picture i shows concept i rather than an alternative."""
        named = self.name(pictures, concepts)
        return torch.tensor([seen == own for seen, own in zip(named, concepts, strict=True)], dtype=torch.bool)

    def name(self, pictures: Tensor, concepts: Sequence[str]) -> list[str]:
        """The concept or the alternative that fits picture i best."""
        images = self.clip.of_pictures(pictures)
        alternatives = images @ torch.stack([self._text(name) for name in self.alternatives]).T
        best, index = alternatives.max(1)
        own = torch.stack([image @ self._text(concept) for image, concept in zip(images, concepts, strict=True)])
        return [
            concept if concept not in self.alternatives and mine > other else self.alternatives[place]
            for concept, mine, other, place in zip(concepts, own.tolist(), best.tolist(), index.tolist(), strict=True)
        ]

    def _text(self, concept: str) -> Tensor:
        if concept not in self._texts:
            self._texts[concept] = self.clip.of_texts([self.template.format(concept)])[0]
        return self._texts[concept]
