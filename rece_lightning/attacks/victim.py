"""The model under attack: the original and the edited one in one pipeline, and what an attacker may touch of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap, unedited
from rece_lightning.core.gram import Gram
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.models.denoisers import denoisers_of, together
from rece_lightning.models.sampling import Request, Sampling, generate
from rece_lightning.models.text import EncodesPrompts


class Pictures(Protocol):
    """What is asked of the maker of pictures: one pipeline whose projections can be exchanged."""

    pipeline: Any
    encoder: EncodesPrompts

    def use(self, weights: Iterable[tuple[str, Tensor]] | None) -> None:
        """Put edited projections in; ``None`` puts the original ones back."""


class Victim:
    """A model before and after its edit.

    The U-Net is loaded once: :meth:`original` and :meth:`edited` exchange its projections and undo that afterwards.

    Args:
        pictures: the pipeline, original weights in it.
        gram: ``G`` of the original projections; only ``derived`` and what starts from it need it.
        maps: ``M``; the identity (an unedited model) without it.
        weights: edited projections by name; the original ones without them.
        detector: for attacks that choose their pictures.
        sampling: of the pictures that an attacker draws.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        gram: Gram | None = None,
        maps: AnyMap | None = None,
        weights: Mapping[str, Tensor] | None = None,
        detector: ConceptDetector | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.pictures = pictures
        self.gram = gram
        self.maps = maps if maps is not None or gram is None else unedited(gram)
        self.weights = dict(weights) if weights is not None else None
        self.detector = detector
        self.sampling = sampling or Sampling()
        self.drawn: dict[Any, Tensor] = {}
        """Pictures that attackers had drawn, by what decides them."""
        self._is_edited = False
        pictures.use(None)

    @property
    def encoder(self) -> EncodesPrompts:
        """Tokenizers and text encoders: no edit changes them."""
        return self.pictures.encoder

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline; which model it is depends on where it is asked for."""
        return self.pictures.pipeline

    def original(self) -> AbstractContextManager[Any]:
        """The original U-Net."""
        return self._exchanged(edited=False)

    def edited(self) -> AbstractContextManager[Any]:
        """The edited U-Net; the original one where nothing was edited."""
        return self._exchanged(edited=True)

    @contextmanager
    def _exchanged(self, *, edited: bool) -> Iterator[Any]:
        former = self._is_edited
        try:
            self._put(edited)
            # Gradients reach the embeddings; the weights ask for none.
            yield together(denoisers_of(self.pipeline)).eval().requires_grad_(False)
        finally:
            self._put(former)

    def _put(self, edited: bool) -> None:
        if edited != self._is_edited and self.weights is not None:
            self.pictures.use(self.weights.items() if edited else None)
        self._is_edited = edited

    def encoded(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Embedding ``[positions, d]`` of a prompt and SDXL's pooled one, ``[p]``."""
        encoded = self.encoder.encode([prompt])
        return encoded.embeddings[0], None if encoded.pooled is None else encoded.pooled[0]

    def draw(self, requests: list[Request], *, edited: bool) -> Tensor:
        """Pictures ``[n, 3, h, w]`` in [0, 1] of embeddings with their seeds, with the victim's sampling."""
        embedding, pooled = self.encoded("")
        with self._exchanged(edited=edited):
            return generate(self.pipeline, requests, Request(embedding, 0, pooled=pooled), self.sampling)

    @cached_property
    def fingerprint(self) -> str:
        """Of the text encoders and the edited projections."""
        with self.edited() as unet:
            names = self.weights or [name for name, _ in unet.named_parameters() if ".attn2.to_" in name]
            projections = ((name, unet.get_parameter(name)) for name in sorted(names))
            return _digest(hashlib.sha256(self.text_fingerprint.encode()), projections)

    @cached_property
    def text_fingerprint(self) -> str:
        """Of the text encoders."""
        towers = (tower.named_parameters() for _, tower in self.encoder.towers)
        return _digest(hashlib.sha256(), chain.from_iterable(towers))


def _digest(hasher: hashlib._Hash, tensors: Iterable[tuple[str, Tensor]]) -> str:
    for name, tensor in tensors:
        hasher.update(f"{name} {tensor.dtype}".encode())
        hasher.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return hasher.hexdigest()
