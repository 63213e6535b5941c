"""What is to be erased from a model in memory and how, checked before any model is touched."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rece_lightning.core.errors import ConfigurationError, check_count
from rece_lightning.core.gram import Gram
from rece_lightning.core.grid import EPOCHS
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import Tuning, tune
from rece_lightning.data.concept_table import read_concepts
from rece_lightning.data.concepts import ConceptsSetting, PromptPair, check_disjoint, prompt_pairs, read_preserved
from rece_lightning.erasure.encoding import ConceptEncoder, in_parts
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.everyday import everyday
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.erasure.wide import kept_in_factors, names_in_factors
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TextSpace, edited_spaces, edits_values


@dataclass(frozen=True)
class ErasurePlan:
    """Concepts, what is preserved, method and epochs of :func:`erase` and of the callback ``Erase``."""

    pairs: tuple[PromptPair, ...]
    preserved: tuple[str, ...]
    method: Method
    """As it was given; once it is :meth:`tuned`, as it was chosen."""
    epochs: int
    tuning: Tuning | None = None
    """How settings are chosen; ``None`` where they stand."""
    draws: bool = False
    """Whether everyday words are still to be drawn to be preserved."""
    held_out: tuple[str, ...] = ()
    """Prompts that drift is measured on: drawn where settings are chosen."""
    choice: Mapping[str, Any] | None = None
    """What was chosen and why, in plain types; see :meth:`rece_lightning.core.tuning.Choice.plain`."""

    @classmethod
    def of(
        cls,
        where: str,
        concepts: ConceptsSetting,
        *,
        preserve: str | Sequence[str] | None,
        target: str,
        templates: Sequence[str],
        method: Method | Mapping[str, Any] | None,
        epochs: int | None,
        tune: str | bool | None = None,
        drift_budget: float | None = None,
    ) -> ErasurePlan:
        """Check the settings, which are named and meant as in the configuration.

        Args:
            where: who was given the settings, for messages: ``erase``, ``Erase``.

        Raises:
            ConfigurationError: for every setting that makes no sense.
        """
        if epochs is not None:
            check_count(f"{where}.epochs", epochs, "1 (UCE)")
        tuning = Tuning.of(tune, drift_budget, given=method is not None, where=where)
        method = Method() if method is None else Method.of(method)
        if tuning is not None:
            tuning = replace(tuning, epochs=epochs)
            tuning.start(method)  # refuses what cannot be tuned; the model decides where it begins, see on()
        if method.robust is not None and method.robust.joins:
            raise ConfigurationError(
                f"{where}.method.robust: templates, synonyms, neighbours and found are looked up by a fit; run "
                "`rece fit` with them, or give templates and the words themselves as concepts."
            )
        wanted = read_concepts(concepts, target, templates)
        pairs, preserved = prompt_pairs(wanted), read_preserved([" "] if preserve is None else preserve)
        check_disjoint(wanted, preserved)
        draws = preserve is None and tuning is not None
        return cls(tuple(pairs), tuple(preserved), method, epochs or EPOCHS, tuning, draws)

    def on(self, live: LiveReaders) -> tuple[ErasurePlan, tuple[TextSpace, ...]]:
        """The plan for a model in memory, and what of it is edited.

        Raises:
            ConfigurationError: for a space that the model has not, and where nothing is left to edit.
        """
        plan = self
        if self.tuning is not None:
            values = edits_values(live.spaces, self.method)
            plan = replace(self, method=self.tuning.start(self.method, values=values))
        return plan, edited_spaces(live.spaces, plan.method)

    def counted(
        self,
        encoder: EncodesPrompts,
        spaces: Sequence[TextSpace],
        device: torch.device | str,
        grams: Mapping[str, Gram],
    ) -> tuple[ErasurePlan, ConceptStatistics]:
        """Encode the prompts on the encoder's device and count them on ``device``; draw what nobody named.

        Args:
            encoder: of the model.
            spaces: that are edited.
            device: of the algebra.
            grams: text space → ``G``, which says what words mean.

        Returns:
            The plan with what was drawn in its lists, and the statistics of all of it.
        """
        texts = [*(pair.prompt for pair in self.pairs), *(pair.target for pair in self.pairs), *self.preserved]
        for prompt, lost in encoder.too_long(texts).items():
            warnings.warn(f"{prompt!r} is longer than the tokenizer takes; cut: {lost!r}.", stacklevel=3)
        names = [space.name for space in spaces]
        concepts = ConceptEncoder(encoder, names)
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
        for prompts in in_parts(self.held_out):
            statistics.update(held_out=concepts.rows(prompts))
        plan = self
        if self.tuning is not None and not self.held_out:
            for part in everyday(
                encoder, names, grams[names[0]], self.pairs, listed=self.preserved, preserve=self.draws
            ):
                statistics.update(preserved=part.preserved_rows, held_out=part.held_out_rows)
                plan = replace(
                    plan, preserved=(*plan.preserved, *part.preserved), held_out=(*plan.held_out, *part.held_out)
                )
        if self.method.needs_invariants:
            statistics.hold(concepts.invariants())
        return replace(plan, draws=False), statistics

    def grams(self, live: LiveReaders, spaces: Sequence[TextSpace]) -> dict[str, Gram]:
        """Text space → ``G`` of what is edited of a model in memory.

        Raises:
            BaseModelError: if a weight holds NaN or infinity.
        """
        layers, device = self.method.editor.per_layer, live.algebra_device
        return {
            space.name: Gram.in_factors(live.read_space(space), device=device)
            if kept_in_factors(space, self.method)
            else Gram.of(live.read_space(space), keep_layers=layers, device=device)
            for space in spaces
        }

    def tuned(self, statistics: ConceptStatistics, grams: Mapping[str, Gram]) -> ErasurePlan:
        """The plan with its method and its epochs chosen, where they are to be; it does not choose again.

        Raises:
            ConfigurationError: if no setting has figures or keeps to the budget.
        """
        if self.tuning is None:
            return self
        choice = tune(self.method, self.tuning, statistics.evidence(), grams)
        if choice.harm:
            warnings.warn(choice.harm, stacklevel=3)
        return replace(
            self, method=choice.chosen.method, epochs=choice.chosen.epochs, tuning=None, choice=choice.plain()
        )

    def state_dict(self) -> dict[str, Any]:
        """What was chosen and drawn, in plain types; nothing where nothing was chosen."""
        if self.choice is None:
            return {}
        return {**self.choice, "preserved": list(self.preserved), "held_out": list(self.held_out)}

    def chosen_before(self, state: Mapping[str, Any]) -> ErasurePlan:
        """The plan with what :meth:`state_dict` says was chosen, where it chooses at all.

        Raises:
            ConfigurationError: for a state that holds no method.
        """
        if self.tuning is None:
            return self
        method = Method.from_plain(state["method"], "ckpt_path: Erase")
        preserved, held_out = (tuple(map(str, state[key])) for key in ("preserved", "held_out"))
        chosen = replace(self, method=method, epochs=int(state["chosen"]["epochs"]), tuning=None, choice=state)
        return replace(chosen, draws=False, preserved=preserved, held_out=held_out)

    def erasers(
        self, statistics: ConceptStatistics, grams: Mapping[str, Gram], *, together: bool = False
    ) -> SpaceErasers:
        """All epochs.

        Args:
            statistics: of the prompts.
            grams: text space → ``G`` of what is edited.
            together: every rank does this now and holds the same bits afterwards; otherwise none waits for another.

        Raises:
            ConfigurationError: if a system is singular.
        """
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
