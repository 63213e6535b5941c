"""What can be said of a setting without a picture: prompts encoded once, one ``G``, the loop itself in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from rece_lightning.core.derivation import derive
from rece_lightning.core.diagnostics import (
    ATTACKER_SHARE,
    mapped_residual,
    preservation_drift,
    regeneration_residual,
    remaining_answer,
    trace_product,
)
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, beside
from rece_lightning.core.eraser import Evidence, LoopSettings, RECELoop
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.data.concepts import PromptPair
from rece_lightning.erasure.encoding import EncodedPair, encode_pairs, gather_evidence, invariant_rows, with_invariants
from rece_lightning.module import RECE
from rece_lightning.sweep.grid import EPOCHS, TARGET, Setting


@dataclass(frozen=True)
class Figures:
    """Of one setting, all over the whole model: projections that the setting leaves alone count as they are."""

    remaining: float
    """Of the concept under its own words; see :func:`rece_lightning.core.diagnostics.remaining_answer`."""
    regained: float
    """By the attacker's embedding: 1 as from the unedited model, 0 as from a concept mapped onto its target."""
    drift: float
    """Of prompts that are kept and in nobody's list."""
    residual: float
    norm_ratio: float
    """``‖c'‖/‖c‖`` of the attacker's embedding."""
    weight_change: float
    """``‖ΔW‖/‖W‖``."""
    seconds: float


@dataclass(frozen=True)
class Part:
    """The projections that a choice of ``model.projections`` and ``model.layers`` edits, and the others."""

    names: tuple[str, ...]
    gram: Gram
    """Of those that are edited."""
    rest: Gram | None
    """Of the others, where there are any."""

    def whole(self, maps: AnyMap) -> tuple[Gram, AnyMap]:
        """``G`` of the whole model with its maps."""
        return (self.gram, maps) if self.rest is None else beside(self.gram, maps, self.rest)


class Ranking:
    """Runs the loop on settings; what several of them need is made once.

    Args:
        module: with the base model; its settings are the base's.
        targets: ``data.target`` → the prompts to erase with their targets.
        preserved: prompts whose keys and values are held.
        kept: prompts that drift is measured on.
    """

    def __init__(
        self, module: RECE, targets: dict[str, list[PromptPair]], preserved: Sequence[str], kept: Sequence[str]
    ) -> None:
        self.module = module
        self.device = module.placement.device_of("algebra", module.device)
        self._targets = targets
        self._preserved = list(module.encoder.encode(list(preserved)).embeddings) if preserved else []
        rows = list(module.encoder.encode(list(kept)).embeddings)
        self._kept = Moments.preserving(torch.cat(rows).to(self.device)).preserved
        self._pairs: dict[str, list[EncodedPair]] = {}
        self._evidence: dict[tuple[str, str, bool], Evidence] = {}
        self._parts: dict[tuple[str, str | None, bool], Part] = {}
        self._unedited: dict[str, float] = {}
        self._invariants = invariant_rows(module.encoder)

    def rank(self, settings: Sequence[Setting]) -> Iterator[tuple[Setting, Figures | str]]:
        """Figures of every setting, or why it has none; settings that differ in their epochs alone share one loop."""
        groups: dict[str, list[Setting]] = {}
        for setting in settings:
            groups.setdefault(_but_epochs(setting), []).append(setting)
        for group in groups.values():
            yield from self._rank_group(sorted(group, key=lambda setting: setting.epochs))

    def _rank_group(self, group: list[Setting]) -> Iterator[tuple[Setting, Figures | str]]:
        try:
            loop = self.loop(group[0])
        except ConfigurationError as error:
            yield from ((setting, str(error)) for setting in group)
            return
        for place, setting in enumerate(group):
            started = time.perf_counter()
            try:
                loop.run(setting.epochs - loop.epoch)
                found = self._figures(setting, loop)
            except ConfigurationError as error:  # a system that is singular stays so in later epochs
                yield from ((later, str(error)) for later in group[place:])
                return
            yield setting, replace(found, seconds=time.perf_counter() - started)

    @torch.no_grad()
    def loop(self, setting: Setting) -> RECELoop:
        """The loop of a setting, before its first epoch.

        Raises:
            ConfigurationError: for a setting that makes no sense.
        """
        model = setting.model
        return RECELoop(self.part(setting).gram, self.evidence(setting), loop_settings(model))

    def part(self, setting: Setting) -> Part:
        """What the setting edits."""
        model = setting.model
        tensor = model["technique"] == "tensor"
        key = (model["projections"], model["layers"], tensor)
        if key not in self._parts:
            base = self.module.base
            names = base.select(model["projections"], model["layers"])
            gram = Gram.of(base.read_projections(names), keep_layers=tensor, device=self.device)
            others = [name for name in base.projections if name not in set(names)]
            rest = Gram.of(base.read_projections(others), device=self.device) if others else None
            self._parts[key] = Part(tuple(names), gram, rest)
        return self._parts[key]

    def evidence(self, setting: Setting) -> Evidence:
        """The moments of the prompts under the setting's target and token rule."""
        target, tokens, tensor = setting[TARGET], setting["model.tokens"], setting["model.technique"] == "tensor"
        if target not in self._pairs:
            pairs = self._targets[target]
            self._pairs[target] = encode_pairs(
                self.module.encoder,
                [pair.prompt for pair in pairs],
                [pair.target for pair in pairs],
                [pair.weight for pair in pairs],
            )
        key = (target, tokens, tensor)
        if key not in self._evidence:
            found = gather_evidence(self._pairs[target], self._preserved, tokens, self.device, keep_prompts=tensor)
            self._evidence[key] = with_invariants(found, self._invariants, self.device)
        return self._evidence[key]

    def _figures(self, setting: Setting, loop: RECELoop) -> Figures:
        moments = loop.evidence.whole
        gram, maps = self.part(setting).whole(loop.maps)
        ridge = self.module.hparams["attacker_scale"] or ATTACKER_SHARE * gram.scale
        attack = derive(gram, maps, ridge).of_concept
        cross = maps.cross_gram(gram)
        answered = trace_product(cross.mT @ attack, moments.erased)
        residual = 1.0 - answered / trace_product(gram.total, moments.erased)
        if setting[TARGET] not in self._unedited:
            identity = EmbeddingMap.identity(gram.width, self.device)
            self._unedited[setting[TARGET]] = regeneration_residual(gram, identity, moments.erased, ridge)
        unedited, mapped = self._unedited[setting[TARGET]], mapped_residual(gram, moments)
        derived = attack @ moments.erased @ attack.mT
        change = maps.change_gram(gram).trace().clamp(min=0) / gram.total.trace()
        return Figures(
            remaining=remaining_answer(gram, maps, moments),
            regained=1.0 - (residual - unedited) / (mapped - unedited) if mapped > unedited else float("nan"),
            drift=preservation_drift(gram, maps, self._kept),
            residual=residual,
            norm_ratio=float((derived.trace() / moments.erased.trace()).clamp(min=0).sqrt()),
            weight_change=float(change.sqrt()),
            seconds=0.0,
        )


def loop_settings(model: dict[str, Any]) -> LoopSettings:
    """The loop's settings from the arguments of ``RECE``, which checks them."""
    return RECE(**model).settings


def _but_epochs(setting: Setting) -> str:
    return Setting(tuple(pair for pair in setting.values if pair[0] != EPOCHS)).identity


FIGURES = tuple(field.name for field in fields(Figures))
