"""What of a base model is in memory: each part loaded at first use, on the device that the placement names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.devices.offload import WaitingEncoder
from rece_lightning.devices.placement import Placement
from rece_lightning.erasure.wide import kept_in_factors
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.text import EncodesPrompts, PromptEncoder
from rece_lightning.models.text_space import TextSpace

Naming = tuple[str, str | None, str | None, str | None]
"""What names a base model: ``pretrained``, ``revision``, ``variant``, ``config``."""


class LoadedModel:
    """A base model, its text encoder and the Gram matrices of what reads its text.

    Args:
        naming: of the model; it is looked for at first use.
        placement: of its parts.
    """

    def __init__(self, naming: Naming, placement: Placement | None = None) -> None:
        self.naming = naming
        self.placement = placement or Placement()
        self.home = torch.device("cpu")
        """The device of parts that the placement leaves to the trainer."""
        self._encoder: EncodesPrompts | None = None
        self._grams: dict[tuple[tuple[str, ...], bool, bool], Gram] = {}

    @cached_property
    def base(self) -> BaseModel:
        """The base model, found and checked at first use."""
        return find_base(*self.naming)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the base model's stored bytes, computed once."""
        return self.base.fingerprint()

    @property
    def algebra(self) -> torch.device:
        """Where moments, Gram and maps are."""
        return self.placement.device_of("algebra", self.home)

    @property
    def encoder(self) -> EncodesPrompts:
        """Tokenizer and text encoder, loaded at first use."""
        if self._encoder is None:
            with torch.inference_mode(False):  # a fit may follow a validation, and go on with what that loaded
                self._encoder = self.new_encoder()
        return self._encoder

    def new_encoder(self) -> EncodesPrompts:
        """Another one, for who changes it."""
        device = self.placement.device_of("text_encoder", self.home)
        if self.placement.waits("text_encoder"):
            encoder = load_encoder(self.base)
            # Encoders of other families are let go when the prompts are encoded; see ``keeps_encoder``.
            return WaitingEncoder(encoder, device) if isinstance(encoder, PromptEncoder) else encoder
        return load_encoder(self.base, device)

    def rest(self) -> None:
        """No prompt comes for a while: an encoder that waits in host memory goes there."""
        if isinstance(self._encoder, WaitingEncoder):
            self._encoder.rest()

    def stay(self) -> None:
        """More prompts are to come."""
        if isinstance(self.encoder, WaitingEncoder):
            self.encoder.stay()

    def gram(self, space: TextSpace, method: Method | None = None) -> Gram:
        """``G`` of a space's readers; computed once for the same readers.

        Args:
            space: that they read.
            method: that is to erase: it decides whether layers are kept, and whether ``G`` stays in factors.

        Raises:
            BaseModelError: if one holds NaN or infinity.
        """
        keep_layers = method is not None and method.editor.per_layer
        factors = method is not None and kept_in_factors(space, method)
        key = (tuple(space.readers), keep_layers, factors)
        if key not in self._grams:
            with torch.inference_mode(False), torch.no_grad():  # see encoder
                readers = self.base.read_space(space)
                if factors:
                    self._grams[key] = Gram.in_factors(readers, device=self.algebra)
                else:
                    self._grams[key] = Gram.of(
                        readers, keep_layers=keep_layers, device=self.algebra, shards=self.placement.gram
                    )
        return self._grams[key]

    def grams(self, spaces: Sequence[TextSpace], method: Method | None = None) -> dict[str, Gram]:
        """Text space → ``G`` of its readers; see :meth:`gram`."""
        return {space.name: self.gram(space, method) for space in spaces}

    def release_encoder(self) -> None:
        """Let go of the text encoder. It loads again when needed."""
        self._encoder = None
