"""Any CLIP: pictures and texts as unit vectors, how well they fit, and which of several descriptions fits best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.texts import filled
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.metrics.figure import KEPT, NOTHING, PictureBatch, PromptMean
from rece_lightning.metrics.pretrained import check_pictures, eight_bit, load_parts


class Clip:
    """The embedded world's CLIP, or any other of ``transformers``; loaded when first used.

    Args:
        model: ``emoji``, a folder or a hub id with a CLIP, its tokenizer and its preprocessor.
        revision: of the hub repository.
        device: where it runs.
        batch_size: pictures or texts at a time.
    """

    def __init__(
        self, model: str = "emoji", revision: str | None = None, device: str = "cpu", batch_size: int = 64
    ) -> None:
        self.model, self.revision, self.device, self.batch_size = model, revision, device, batch_size
        self.name = PurePath(model).name

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """Network, tokenizer and preprocessor (``None`` for the embedded one).

        Raises:
            ConfigurationError: if it cannot be loaded or is no CLIP.
        """
        if self.model == "emoji":
            from rece_lightning.emoji.clip import load_clip

            network, tokenizer, preprocessor = *load_clip(), None
        else:
            classes = ("AutoModel", "AutoTokenizer", "AutoImageProcessor")
            network, tokenizer, preprocessor = load_parts("clip", self.model, self.revision, *classes)
        if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
            raise ConfigurationError(
                f"clip: {self.model!r} is a {type(network).__name__}, which does not compare pictures with texts; "
                "give a CLIP."
            )
        return network.to(self.device).eval().requires_grad_(False), tokenizer, preprocessor

    @torch.no_grad()
    def of_pictures(self, pictures: Tensor) -> Tensor:
        """``[n, 3, h, w]`` in [0, 1] → unit vectors ``[n, d]``, float32 on the CPU."""
        network = self._parts[0]
        return self._in_batches(pictures, lambda part: network.get_image_features(pixel_values=self._pixels(part)))

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts → unit vectors ``[n, d]``, float32 on the CPU. Texts that are too long lose their end."""
        network, tokenizer, _ = self._parts
        positions = network.config.text_config.max_position_embeddings

        def features(part: Sequence[str]) -> Any:
            # One text's vector must not depend on its neighbours', so all are padded to the same length.
            encoded = tokenizer(
                list(part), padding="max_length", truncation=True, max_length=positions, return_tensors="pt"
            )
            ids = encoded["input_ids"].to(self.device)
            if self.model == "emoji":  # trained without a mask
                return network.get_text_features(input_ids=ids)
            return network.get_text_features(input_ids=ids, attention_mask=encoded["attention_mask"].to(self.device))

        return self._in_batches(texts, features)

    def _pixels(self, pictures: Tensor) -> Tensor:
        preprocessor = self._parts[2]
        if preprocessor is None:
            from rece_lightning.emoji.pictures import PICTURE_SIZE

            check_pictures(pictures)
            pictures = pictures.to(self.device).float()
            if pictures.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
                pictures = F.interpolate(pictures, (PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", antialias=True)
            return pictures * 2 - 1
        inputs = preprocessor(images=eight_bit(pictures), return_tensors="pt", input_data_format="channels_last")
        return torch.as_tensor(inputs["pixel_values"]).to(self.device)

    def _in_batches(self, items: Any, features: Any) -> Tensor:
        found = []
        for first in range(0, len(items), self.batch_size):
            output = features(items[first : first + self.batch_size])
            # transformers 5 returns an object whose pooler_output is the projected embedding; 4 the embedding.
            vectors = output if isinstance(output, Tensor) else output.pooler_output
            found.append(F.normalize(vectors.float(), dim=-1).cpu())
        return torch.cat(found)


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
        return ClipScore(self.clip, prompts)

    def kept_of(self, pictures: Tensor) -> Tensor:
        """Nothing: it compares a picture with its prompt."""
        return pictures.new_zeros(len(pictures), 0)

    def take(self, batch: PictureBatch) -> None:
        self.update(batch.pictures, batch.texts, batch.rows)


class ZeroShot(ConceptDetector):
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

    def concepts(self) -> Sequence[str]:
        """The alternatives: of other concepts nobody says what could be drawn instead."""
        return self.alternatives

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
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
            self._texts[concept] = self.clip.of_texts([filled(self.template, concept)])[0]
        return self._texts[concept]
