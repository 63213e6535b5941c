"""RECE's loop: epoch 0 edits with the concepts' own embeddings, every later epoch derives, then edits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rece_lightning.core.derive import Derivation, derive
from rece_lightning.core.edit import EditScales, edit, edit_tensor
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, LayerMaps, layers_of
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments


@dataclass(frozen=True)
class LoopSettings:
    """How the loop edits and derives, named as in the configuration."""

    scales: EditScales = field(default_factory=EditScales)
    first_scales: EditScales | None = None
    """Of epoch 0, where they differ."""
    regular_scale: float = 0.1
    regularizer: str = "norm"
    surrogate_items: str = "both"
    technique: str = "replace"
    accumulate: bool = False
    """An epoch's edit also holds what earlier epochs erased; false is the published loop."""


@dataclass(frozen=True)
class Evidence:
    """What the prompts say, counted once."""

    first: Moments
    """Of the positions that epoch 0 edits, with what is kept."""
    whole: Moments
    """Of all positions: later epochs derive from these."""
    first_prompts: tuple[Moments, ...] = ()
    """``first`` a prompt: only the technique ``tensor`` needs it."""
    whole_prompts: tuple[Moments, ...] = ()


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did, for the diagnostics."""

    moments: Moments
    """That the edit was made from."""
    scales: EditScales
    derivation: Derivation | None
    """``None`` in epoch 0."""
    step: AnyMap
    """``E``: the edit of the model as it was before the epoch."""
    before: AnyMap
    """``M`` before the epoch."""


class RECELoop:
    """State of the loop: the map so far, and what an accumulating loop holds.

    Args:
        gram: ``G`` of the original projections (with its layers for the technique ``tensor``).
        evidence: the prompts' moments.
        settings: of edit and derivation.
    """

    def __init__(self, gram: Gram, evidence: Evidence, settings: LoopSettings) -> None:
        self.gram = gram
        self.evidence = evidence
        self.settings = settings
        self.epoch = 0
        self.maps: AnyMap = identity_like(gram, settings.technique)
        self._held: list[Moments] = []

    def run(self, epochs: int) -> AnyMap:
        """Run whole epochs and return the map."""
        for _ in range(epochs):
            self.run_epoch()
        return self.maps

    def run_epoch(self) -> EpochRecord:
        """Derive (but in epoch 0), edit, and compose the map.

        Raises:
            ConfigurationError: if a system is singular.
        """
        settings, before = self.settings, self.maps
        derivation: Derivation | None = None
        scales = settings.scales
        tensor = settings.technique == "tensor"
        if self.epoch == 0:
            scales = settings.first_scales or scales
            parts = list(self.evidence.first_prompts) if tensor else [self.evidence.first]
        else:
            derivation = derive(
                self.gram,
                before,
                settings.regular_scale,
                regularizer=settings.regularizer,
                surrogate_items=settings.surrogate_items,
            )
            whole = self.evidence.whole_prompts if tensor else (self.evidence.whole,)
            parts = [moments.derived(derivation) for moments in whole]
        # One sum is enough where the targets stay; ``tensor`` takes each prompt's target apart again.
        held = [*self._held, *parts] if settings.accumulate else parts
        moments = held[0]
        for other in held[1:]:
            moments = moments.erasing_also(other)
        preserved = self.evidence.whole.preserved
        moments = replace(moments, preserved=preserved)  # a prompt's own moments hold nothing kept
        step: AnyMap
        if isinstance(before, LayerMaps):
            step = edit_tensor(held, preserved, self.gram, before, scales)
            self.maps = before @ step
        else:
            step = edit(moments, scales)
            self.maps = before @ step
        if settings.accumulate:
            self._held = held if tensor else [moments]
        self.epoch += 1
        return EpochRecord(moments, scales, derivation, step, before)


def identity_like(gram: Gram, technique: str) -> AnyMap:
    """The unedited model's map: one for all layers, or one a layer for the technique ``tensor``."""
    if technique == "tensor":
        return LayerMaps.identity(len(layers_of(gram)), gram.width, gram.total.device)
    return EmbeddingMap.identity(gram.width, gram.total.device)
