"""RECE's loop: epoch 0 edits with the concepts' own embeddings, every later epoch derives, then edits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rece_lightning.core.derive import Derivation, derive
from rece_lightning.core.edit import EditScales, edit_tensor
from rece_lightning.core.editors import EDITORS, Editor
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, LayerMaps, layers_of
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.core.null_space import NullSpace
from rece_lightning.core.projection import Projection
from rece_lightning.core.robust import Joined, Robust, widened
from rece_lightning.core.row_pairs import RowPairs


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
    editor: str = "uce"
    projection: Projection = field(default_factory=Projection)
    """Of the editor ``projection``."""
    null_space: NullSpace = field(default_factory=NullSpace)
    """Of the editor ``null_space``."""
    accumulate: bool = False
    """An epoch's edit also holds what earlier epochs erased; false is the published loop."""
    robust: Robust | None = None
    """What later epochs derive beside the one embedding; ``None`` is the published loop."""


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
    first_rows: RowPairs | None = None
    """The rows of ``first``, where they are fewer than make their moments worth it."""
    whole_rows: RowPairs | None = None
    prompts: int = 1
    """How many prompts are erased."""
    invariants: Tensor | None = None
    """Rows ``[m, d]`` that every picture reads, whatever its prompt; the editor ``null_space`` holds them exactly."""
    joined: Joined | None = None
    """What is erased and kept beside these prompts; only the robust loop has it."""


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
        self._sum: Any = None
        self._editor: Editor | None = None

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
        if self.epoch == 0:
            scales = settings.first_scales or scales
        else:
            derivation = derive(
                self.gram,
                before,
                settings.regular_scale,
                regularizer=settings.regularizer,
                surrogate_items=settings.surrogate_items,
            )
        preserved, joined = self.evidence.whole.preserved, self.evidence.joined
        if joined is not None:
            preserved = preserved + joined.preserved
        step: AnyMap
        if isinstance(before, LayerMaps):
            prompts = self._prompts(derivation)
            moments = sum_of(prompts, preserved)
            step = edit_tensor(prompts, preserved, self.gram, before, scales)
            self.maps = before @ step
        else:
            if self._editor is None:
                self._editor = EDITORS[settings.editor](settings, self.evidence)
            moments, step = self._editor(self._erased(derivation), preserved, scales, self.gram, before)
            # Before the first edit the map is the identity.
            self.maps = before @ step if self.epoch else step
        self.epoch += 1
        return EpochRecord(moments, scales, derivation, step, before)

    def _erased(self, derivation: Derivation | None) -> Moments | RowPairs:
        """What this epoch erases, with ``accumulate`` also what earlier ones did: one sum, since the targets stay."""
        evidence = self.evidence
        part: Any
        if evidence.first_rows is not None and evidence.whole_rows is not None:
            part = evidence.first_rows if derivation is None else evidence.whole_rows.derived(derivation)
        else:
            part = evidence.first if derivation is None else evidence.whole.derived(derivation)
        robust, joined = self.settings.robust, evidence.joined
        if robust is not None:
            part = widened(part, evidence.whole, joined, robust, self.gram, self.maps, derivation)
        if self.settings.accumulate:
            part = part if self._sum is None else self._sum.erasing_also(part)
            self._sum = part
        # What an attack found is no part of any epoch: it counts once.
        return part if robust is None or joined is None else part.erasing_also(joined.found)

    def _prompts(self, derivation: Derivation | None) -> list[Moments]:
        """The same a prompt: ``tensor`` takes each prompt's target apart again."""
        evidence = self.evidence
        parts = list(evidence.first_prompts)
        if derivation is not None:
            parts = [moments.derived(derivation) for moments in evidence.whole_prompts]
        if self.settings.accumulate:
            self._held += parts
            return list(self._held)
        return parts


def sum_of(prompts: list[Moments], preserved: Tensor) -> Moments:
    """The moments of several prompts, beside those of what is kept."""
    total = prompts[0]
    for other in prompts[1:]:
        total = total.erasing_also(other)
    return replace(total, preserved=preserved)


def identity_like(gram: Gram, technique: str) -> AnyMap:
    """The unedited model's map: one for all layers, or one a layer for the technique ``tensor``."""
    if technique == "tensor":
        return LayerMaps.identity(len(layers_of(gram)), gram.width, gram.total.device)
    return EmbeddingMap.identity(gram.width, gram.total.device)
