"""What is to be erased from a model in memory and how, checked before any model is touched."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.data.concept_table import read_concepts
from rece_lightning.data.concepts import ConceptsSetting, PromptPair, check_disjoint, prompt_pairs, read_preserved
from rece_lightning.erasure.encoding import ConceptEncoder, in_parts
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.erasure.wide import kept_in_factors, names_in_factors
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TextSpace, edited_spaces


@dataclass(frozen=True)
class ErasurePlan:
    """Concepts, what is preserved, method and epochs of :func:`erase` and of the callback ``Erase``."""

    pairs: tuple[PromptPair, ...]
    preserved: tuple[str, ...]
    method: Method
    epochs: int

    @classmethod
    def of(
        cls,
        where: str,
        concepts: ConceptsSetting,
        *,
        preserve: str | Sequence[str],
        target: str,
        templates: Sequence[str],
        method: Method | Mapping[str, Any],
        epochs: int,
    ) -> ErasurePlan:
        """Check the settings, which are named and meant as in the configuration.

        Args:
            where: who was given the settings, for messages: ``erase``, ``Erase``.

        Raises:
            ConfigurationError: for every setting that makes no sense.
        """
        check_count(f"{where}.epochs", epochs, "1 (UCE)")
        method = Method.of(method)
        if method.robust is not None and method.robust.joins:
            raise ConfigurationError(
                f"{where}.method.robust: templates, synonyms, neighbours and found are looked up by a fit; run "
                "`rece fit` with them, or give templates and the words themselves as concepts."
            )
        wanted = read_concepts(concepts, target, templates)
        pairs, preserved = prompt_pairs(wanted), read_preserved(preserve)
        check_disjoint(wanted, preserved)
        return cls(tuple(pairs), tuple(preserved), method, epochs)

    def spaces(self, live: LiveReaders) -> tuple[TextSpace, ...]:
        """What of a model in memory is edited."""
        return edited_spaces(live.spaces, self.method)

    def statistics(
        self, encoder: EncodesPrompts, spaces: Sequence[TextSpace], device: torch.device | str
    ) -> ConceptStatistics:
        """Encode the prompts on the encoder's device and count them on ``device``."""
        texts = [*(pair.prompt for pair in self.pairs), *(pair.target for pair in self.pairs), *self.preserved]
        for prompt, lost in encoder.too_long(texts).items():
            warnings.warn(f"{prompt!r} is longer than the tokenizer takes; cut: {lost!r}.", stacklevel=3)
        concepts = ConceptEncoder(encoder, [space.name for space in spaces])
        statistics = ConceptStatistics(
            {space.name: space.width for space in spaces},
            self.method.tokens,
            device,
            keep_prompts=self.method.editor.per_layer,
            factors=names_in_factors(spaces, self.method),
        )
        for pairs in in_parts(self.pairs):
            encoded = concepts.pairs(pairs)
            check_widths(spaces, encoded)
            statistics.update(encoded, prompts=[pair.prompt for pair in pairs])
        for prompts in in_parts(self.preserved):
            statistics.update(preserved=concepts.rows(prompts))
        if self.method.needs_invariants:
            statistics.hold(concepts.invariants())
        return statistics

    def erasers(
        self,
        live: LiveReaders,
        spaces: Sequence[TextSpace],
        statistics: ConceptStatistics,
        *,
        together: bool = False,
    ) -> SpaceErasers:
        """All epochs on a model in memory.

        Args:
            together: every rank does this now and holds the same bits afterwards; otherwise none waits for another.

        Raises:
            ConfigurationError: if a system is singular.
            BaseModelError: if a weight holds NaN or infinity.
        """
        layers, device = self.method.editor.per_layer, live.algebra_device
        grams = {
            space.name: Gram.in_factors(live.read_space(space), device=device)
            if kept_in_factors(space, self.method)
            else Gram.of(live.read_space(space), keep_layers=layers, device=device)
            for space in spaces
        }
        return SpaceErasers(self.method, statistics.evidence(), grams).run(self.epochs, together=together)


def check_widths(spaces: Sequence[TextSpace], encoded: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a text encoder whose embeddings the denoiser does not read.

    Raises:
        ConfigurationError: naming both widths.
    """
    for space in spaces:
        width = encoded[space.name][0].concept.shape[-1]
        if width != space.width:
            raise ConfigurationError(
                f"The denoiser reads embeddings {space.width} wide in the space {space.name!r}, the text encoder gives "
                f"{width}; give the text encoder that belongs to it."
            )
