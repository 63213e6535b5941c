"""The model under attack: the original and the edited one in one pipeline, and what an attacker may touch of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rece_lightning.core.embedding_map import AnyMap, unedited
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.metrics.detection import ConceptDetector
from rece_lightning.models.denoisers import LiveDenoisers, denoisers_of, known_family, together
from rece_lightning.models.sampling import Request, Sampling, generate, requests_of
from rece_lightning.models.text import EncodesPrompts, PromptEncoder
from rece_lightning.models.text_space import TEXT


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
        out_of_reach: why ``gram`` and ``maps`` are not those of the embeddings that a prompt has, where they are not.
        gain: ``g`` of the norm ``x / rms(x) · g`` that the denoiser puts before what reads them, ``[d]``.
        source: which rows the space that was edited first reads: a search of tokens goes through what makes them.
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
        out_of_reach: str | None = None,
        gain: Tensor | None = None,
        source: str = TEXT,
    ) -> None:
        self.pictures = pictures
        self.gram = gram
        self.maps = maps if maps is not None or gram is None else unedited(gram)
        self.weights = dict(weights) if weights is not None else None
        self.detector = detector
        self.sampling = sampling or Sampling()
        self.out_of_reach, self.gain, self.source = out_of_reach, gain, source
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

    def of_the_edit(self, attack: str) -> tuple[Gram, AnyMap]:
        """``G`` and ``M`` of the embeddings of prompts.

        Raises:
            ConfigurationError: if they are not known, or embeddings are read behind something else.
        """
        if self.out_of_reach is not None:
            raise ConfigurationError(f"attacks: {attack}: {self.out_of_reach}.")
        if self.gram is None or self.maps is None:
            raise ConfigurationError(f"attacks: {attack}: it needs the map of the edit; give a run's checkpoint.")
        return self.gram, self.maps

    def encoded(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Embedding ``[positions, d]`` of a prompt and SDXL's pooled one, ``[p]``."""
        encoded = self.encoder.encode([prompt])
        return encoded.embeddings[0], None if encoded.pooled is None else encoded.pooled[0]

    def draw(self, requests: list[Request], *, edited: bool) -> Tensor:
        """Pictures ``[n, 3, h, w]`` in [0, 1] of embeddings with their seeds, with the victim's sampling.

        Its guard stands around the edited model; the original is drawn as it is.
        """
        sampling = self.sampling if edited else self.sampling.unguarded
        with self._exchanged(edited=edited):
            return generate(self.pipeline, requests, self.empty, sampling)

    @property
    def empty(self) -> Request:
        """The empty prompt, for guidance."""
        return self.requests([""])[0]

    def requests(self, prompts: Sequence[str]) -> list[Request]:
        """Pictures of prompts, with everything that the pipeline takes in their place and the seed 0."""
        return requests_of(self.encoder.encode(list(prompts))) if prompts else []

    def given(self, prompt: str, embedding: Tensor, pooled: Tensor | None) -> Request:
        """A picture of embeddings, with the rest of what the pipeline takes in place of a prompt, such as a mask."""
        call = {} if isinstance(self.encoder, PromptEncoder) else self.requests([prompt])[0].call
        return Request(embedding, 0, pooled=pooled, call=call)

    @cached_property
    def fingerprint(self) -> str:
        """Of the text encoders and the edited projections."""
        with self.edited() as unet:
            names = self.weights or self._readers(unet)
            projections = ((name, unet.get_parameter(name)) for name in sorted(names))
            return _digest(hashlib.sha256(self.text_fingerprint.encode()), projections)

    def _readers(self, denoiser: nn.Module) -> list[str]:
        """Names of what reads the text, of a model that nothing was edited of."""
        family = known_family(self.pipeline)
        if family is None:
            return [name for name, _ in denoiser.named_parameters() if ".attn2.to_" in name]
        return [name for space in LiveDenoisers(self.pipeline, family, "attacks").spaces for name in space.readers]

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
