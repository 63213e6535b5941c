"""Any CLIP: pictures and texts as unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.pixels import check_pictures, eight_bit
from rece_lightning.metrics.pretrained import load_parts


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
        self._parts: tuple[Any, Any, Any] | None = None

    def load(self) -> tuple[Any, Any, Any]:
        """Network, tokenizer and preprocessor (``None`` for the embedded one).

        Raises:
            ConfigurationError: if it cannot be loaded or is no CLIP.
        """
        if self._parts is None:
            if self.model == "emoji":
                from rece_lightning.emoji.clip import load_clip

                network, tokenizer = load_clip()
                preprocessor = None
            else:
                network, tokenizer, preprocessor = load_parts(
                    "clip", self.model, self.revision, "AutoModel", "AutoTokenizer", "AutoImageProcessor"
                )
            if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
                raise ConfigurationError(
                    f"clip: {self.model!r} is a {type(network).__name__}, which does not compare pictures with texts; "
                    "give a CLIP."
                )
            self._parts = (network.to(self.device).eval().requires_grad_(False), tokenizer, preprocessor)
        return self._parts

    @torch.no_grad()
    def of_pictures(self, pictures: Tensor) -> Tensor:
        """``[n, 3, h, w]`` in [0, 1] → unit vectors ``[n, d]``, float32 on the CPU."""
        network, _, _ = self.load()
        return self._in_batches(pictures, lambda part: network.get_image_features(pixel_values=self._pixels(part)))

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts → unit vectors ``[n, d]``, float32 on the CPU. Texts that are too long lose their end."""
        network, tokenizer, _ = self.load()
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
        _, _, preprocessor = self.load()
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
