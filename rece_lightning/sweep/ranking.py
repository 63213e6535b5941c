"""What can be said of a setting without a picture: prompts encoded once, one ``G``, the epochs in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch

from rece_lightning.core.derivation import Derivation
from rece_lightning.core.diagnostics import (
    ATTACKER_SHARE,
    mapped_residual,
    norm_ratio,
    preservation_drift,
    regeneration_residual,
    remaining_answer,
    trace_product,
)
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, LayerMaps, beside, unedited
from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.factored import Factored
from rece_lightning.core.gram import Gram
from rece_lightning.core.tuning import regained
from rece_lightning.data.concepts import PromptPair
from rece_lightning.erasure.encoding import ConceptEncoder, Pairs, in_parts
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.erasure import Erasure, erased_spaces
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.erasure.wide import names_in_factors
from rece_lightning.models.text_space import TextSpace, edited_spaces, untouched
from rece_lightning.sweep.grid import Setting


@dataclass(frozen=True)
class Figures:
    """Of one setting, about the model's first text space: readers that the setting leaves alone count as they are."""

    remaining: float
    """Of the concept under its own words, in what is drawn: all readers but keys, which decide where a word acts. See
    :func:`rece_lightning.core.diagnostics.remaining_answer`."""
    regained: float
    """By the attacker's embedding: 1 as from the unedited model, 0 as from a concept mapped onto its target."""
    drift: float
    """Of the held-out prompts."""
    residual: float
    norm_ratio: float
    """``‖c'‖/‖c‖`` of the attacker's embedding."""
    weight_change: float
    """``‖ΔW‖/‖W‖``."""
    seconds: float


class Ranking:
    """Runs the epochs of settings; what several of them need is made once.

    Args:
        loaded: the base model.
        targets: ``data.target`` → the prompts to erase with their targets.
        preserved: prompts whose keys and values are held.
        held_out: prompts that drift is measured on.
        attacker_scale: ridge of the attacker; ``1e-3 · tr(G)/d`` unless given.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        targets: Mapping[str, Sequence[PromptPair]],
        preserved: Sequence[str],
        held_out: Sequence[str],
        attacker_scale: float | None = None,
    ) -> None:
        self.loaded, self._attacker_scale, self._targets = loaded, attacker_scale, targets
        self._encoder = ConceptEncoder(loaded.encoder, [space.name for space in loaded.base.spaces])
        self._preserved = [self._encoder.rows(part) for part in in_parts(preserved)]
        self._held_out = [self._encoder.rows(part) for part in in_parts(held_out)]
        self._invariants = self._encoder.invariants()
        self._pairs: dict[str, Pairs] = {}
        self._evidence: dict[tuple[str, str, bool, frozenset[str]], dict[str, Evidence]] = {}
        self._spaces: dict[tuple[str, str | None, tuple[str, ...] | None], tuple[TextSpace, ...]] = {}
        self._unedited: dict[str, float] = {}

    def rank(self, settings: Sequence[Setting]) -> Iterator[tuple[Setting, Figures | str]]:
        """Figures of each setting, or why it has none; those that differ in their epochs alone share their erasers."""
        groups: dict[str, list[Setting]] = {}
        for setting in settings:
            groups.setdefault(setting.but_epochs, []).append(setting)
        for group in groups.values():
            yield from self._rank_group(sorted(group, key=lambda setting: setting.epochs))

    def _rank_group(self, group: list[Setting]) -> Iterator[tuple[Setting, Figures | str]]:
        try:
            erasers = self.erasers(group[0])
        except ConfigurationError as error:
            yield from ((setting, str(error)) for setting in group)
            return
        for place, setting in enumerate(group):
            started = time.perf_counter()
            try:
                erasers.run(setting.epochs - erasers.epoch)
                figures = self.figures(setting, erasers)
            except ConfigurationError as error:  # a system that is singular stays so in later epochs
                yield from ((later, str(error)) for later in group[place:])
                return
            yield setting, replace(figures, seconds=time.perf_counter() - started)

    def erasers(self, setting: Setting) -> SpaceErasers:
        """Those of a setting, before their first epoch.

        Raises:
            ConfigurationError: for a setting that edits nothing of this model.
        """
        spaces = self.spaces(setting)
        grams = self.loaded.grams(spaces, setting.method)
        return SpaceErasers(setting.method, self.evidence(setting), grams)

    def erasure(self, setting: Setting) -> Erasure:
        """The result of a setting in every text space that it edits.

        Raises:
            ConfigurationError: if a system is singular.
        """
        erasers = self.erasers(setting).run(setting.epochs)
        return Erasure(self.loaded.base, erased_spaces(self.spaces(setting), erasers.maps, erasers.grams))

    def spaces(self, setting: Setting) -> tuple[TextSpace, ...]:
        """What the setting edits."""
        method = setting.method
        key = (method.projections, method.layers, method.spaces)
        if key not in self._spaces:
            self._spaces[key] = edited_spaces(self.loaded.base.spaces, method)
        return self._spaces[key]

    def evidence(self, setting: Setting) -> dict[str, Evidence]:
        """What the prompts say under the setting's target and token rule, in every text space of the model."""
        method, per_layer = setting.method, setting.method.editor.per_layer
        factors = names_in_factors(self.spaces(setting), method)
        key = (setting.target, method.tokens, per_layer, factors)
        if key not in self._evidence:
            widths = {space.name: space.width for space in self.loaded.base.spaces}
            statistics = ConceptStatistics(
                widths, method.tokens, self.loaded.algebra, keep_prompts=per_layer, factors=factors
            )
            statistics.update(self._encoded(setting.target))
            for preserved in self._preserved:
                statistics.update(preserved=preserved)
            for held_out in self._held_out:
                statistics.update(held_out=held_out)
            statistics.hold(self._invariants)
            self._evidence[key] = statistics.evidence()
        return self._evidence[key]

    def _encoded(self, target: str) -> Pairs:
        if target not in self._pairs:
            self._pairs[target] = self._encoder.pairs_in_parts(self._targets[target])
        return self._pairs[target]

    def attacked(self, setting: Setting, erasers: SpaceErasers) -> tuple[Gram, AnyMap]:
        """``G`` and ``M`` of everything that reads the first text space, edited or not."""
        first = self.loaded.base.spaces[0]
        if first.name not in erasers.spaces:
            gram = self.loaded.gram(first, setting.method)
            return gram, unedited(gram)
        eraser = erasers.spaces[first.name]
        rest = untouched([first], self.spaces(setting)).get(first.name)
        return (eraser.gram, eraser.maps) if rest is None else beside(eraser.gram, eraser.maps, self.loaded.gram(rest))

    def answering(self, setting: Setting, erasers: SpaceErasers) -> tuple[Gram, AnyMap]:
        """The same of all readers but keys: of whatever edit of values, keys or both, this tells what is drawn."""
        first = self.loaded.base.spaces[0]
        eraser = erasers.spaces.get(first.name)
        if eraser is None or isinstance(eraser.maps, LayerMaps) or isinstance(eraser.gram.total, Factored):
            return self.attacked(setting, erasers)
        edited = next(space for space in self.spaces(setting) if space.name == first.name).readers
        parts = []
        for wanted in (True, False):
            drawn = {n: r for n, r in first.readers.items() if r.kind != "k" and (n in edited) == wanted}
            parts.append(self.loaded.gram(replace(first, readers=drawn)) if drawn else None)
        own, rest = parts
        if own is None:
            assert rest is not None
            return rest, EmbeddingMap.identity(rest.width, rest.total.device)
        return (own, eraser.maps) if rest is None else beside(own, eraser.maps, rest)

    @torch.no_grad()
    def figures(self, setting: Setting, erasers: SpaceErasers) -> Figures:
        """Of a setting whose epochs were run."""
        evidence = self.evidence(setting)[self.loaded.base.spaces[0].name]
        moments, held_out = evidence.whole, evidence.held_out
        assert held_out is not None
        gram, maps = self.attacked(setting, erasers)
        ridge = self._attacker_scale or ATTACKER_SHARE * gram.scale
        attack = Derivation(ridge)(gram, maps).of_concept
        answered = trace_product(maps.cross_gram(gram).mT @ attack, moments.erased)
        residual = 1.0 - answered / trace_product(gram.total, moments.erased)
        if setting.target not in self._unedited:
            self._unedited[setting.target] = regeneration_residual(gram, unedited(gram), moments.erased, ridge)
        floor, mapped = self._unedited[setting.target], mapped_residual(gram, moments)
        change = maps.change_gram(gram).trace().clamp(min=0) / gram.total.trace()
        return Figures(
            remaining=remaining_answer(*self.answering(setting, erasers), moments),
            regained=regained(residual, floor, mapped),
            drift=preservation_drift(gram, maps, held_out),
            residual=residual,
            norm_ratio=norm_ratio(attack @ moments.erased @ attack.mT, moments.erased),
            weight_change=float(change.sqrt()),
            seconds=0.0,
        )


FIGURES = tuple(field.name for field in fields(Figures))
