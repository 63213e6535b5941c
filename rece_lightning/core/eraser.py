"""The engine: epoch 0 edits with the concepts' own embeddings, every later epoch derives, then edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core import diagnostics
from rece_lightning.core.budget import residual_figures
from rece_lightning.core.derivation import AnyDerivation
from rece_lightning.core.editors import UCE, Editor, EditProblem
from rece_lightning.core.embedding_map import (
    AnyMap,
    EmbeddingMap,
    LayerMaps,
    layers_of,
    map_from,
    same_map,
    shape_in,
    stored,
    tensors_of,
    unedited,
)
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.core.moments import Moments, RowPairs
from rece_lightning.core.robust import Joined, widened


@dataclass(frozen=True)
class Evidence:
    """What the prompts say in one text space, counted once."""

    first: Moments
    """Of the positions that epoch 0 edits, with what is preserved."""
    whole: Moments
    """Of all positions: later epochs derive from these."""
    first_prompts: tuple[Moments, ...] = ()
    """``first`` a prompt: only an editor that is ``per_layer`` needs it."""
    whole_prompts: tuple[Moments, ...] = ()
    first_rows: RowPairs | None = None
    """The rows of ``first``, where they are fewer than make their moments worth it."""
    whole_rows: RowPairs | None = None
    prompts: int = 1
    """How many prompts are erased."""
    held_out: Tensor | None = None
    """``P_h`` of the prompts that drift is measured on, ``[d, d]``; what is preserved unless given."""
    invariants: Tensor | None = None
    """Rows ``[m, d]`` that every picture reads, whatever its prompt, for an editor that holds them exactly."""
    joined: Joined | None = None
    """What is erased and preserved beside these prompts; only the robust loop has it."""


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did, for the diagnostics."""

    moments: Moments
    """That the edit was made from."""
    editor: Editor
    derivation: AnyDerivation | None
    """``None`` in epoch 0."""
    step: AnyMap
    """``E``: the edit of the model as it was before the epoch."""
    before: AnyMap
    """``M`` before the epoch."""


class Eraser:
    """Runs a method's epochs on one text space. It knows no Lightning, no prompt and no file.

    Args:
        method: how to erase.
        evidence: what the prompts say in this space.
        gram: ``G`` of the projections that read it (with its layers for an editor that is ``per_layer``).

    Example:
        >>> import torch
        >>> from rece_lightning.core import Gram, Method, Moments
        >>> generator = torch.Generator().manual_seed(0)
        >>> draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
        >>> moments = Moments.of(draw(4, 16), draw(4, 16)) + Moments.preserving(draw(8, 16))
        >>> eraser = Eraser(Method(), Evidence(moments, moments), Gram.of([("value", draw(32, 16))]))
        >>> eraser.run(2).epoch, tuple(eraser.maps.matrix.shape)
        (2, (16, 16))
    """

    def __init__(self, method: Method, evidence: Evidence, gram: Gram) -> None:
        self.method, self.evidence, self.gram = method, evidence, gram
        self.epoch = 0
        """How many epochs were run."""
        self.maps: AnyMap = identity_like(gram, per_layer=method.editor.per_layer)
        """``M`` so far: every projection is the original one times this."""
        self.first_maps: AnyMap | None = None
        """``M`` after epoch 0: UCE's edit."""
        self._held: list[Moments] = []
        self._sum: Any = None
        self._editors: dict[int, Callable[[EditProblem], AnyMap]] = {}
        self._unedited: dict[float | None, float] = {}

    def run(self, epochs: int) -> Eraser:
        """Run so many further epochs."""
        for _ in range(epochs):
            self.step()
        return self

    @torch.no_grad()
    def step(self) -> EpochRecord:
        """One epoch: derive (but in epoch 0), edit, and compose the map.

        Raises:
            ConfigurationError: if a system is singular.
        """
        method, evidence, before = self.method, self.evidence, self.maps
        derivation = None if self.epoch == 0 else method.derivation(self.gram, before)
        preserved, joined = evidence.whole.preserved, evidence.joined
        if joined is not None:
            preserved = preserved + joined.preserved
        prompts = self._prompts(derivation) if method.editor.per_layer else []
        problem = EditProblem(
            erased=sum_of(prompts) if prompts else self._erased(derivation),
            preserved=preserved,
            gram=self.gram,
            before=before,
            concepts=evidence.prompts,
            invariants=evidence.invariants,
            prompts=tuple(prompts),
        )
        editor = method.first_editor if self.epoch == 0 and method.first_editor is not None else method.editor
        if id(editor) not in self._editors:
            self._editors[id(editor)] = editor.fitted(problem)
        step = self._editors[id(editor)](problem)
        check_map(step, before, editor)
        # Before the first edit the map is the identity.
        self.maps = before @ step if self.epoch or isinstance(step, LayerMaps) else step  # type: ignore[operator]
        self.epoch += 1
        if self.epoch == 1:
            self.first_maps = self.maps
        return EpochRecord(problem.moments, editor, derivation, step, before)

    def under(self, method: Method) -> Eraser:
        """This eraser after its first epoch, as one whose further epochs are another method's.

        Epoch 0 derives nothing: methods of the same editors make the same edit in it, whatever their loops.

        Args:
            method: with this one's editors.
        """
        other = Eraser(method, self.evidence, self.gram)
        if method.accumulate:  # what epoch 0 erased is what later ones add to
            _ = other._prompts(None) if method.editor.per_layer else other._erased(None)
        other.maps = other.first_maps = self.first_maps  # type: ignore[assignment]
        other.epoch, other._editors = 1, dict(self._editors)
        return other

    def _erased(self, derivation: AnyDerivation | None) -> Moments | RowPairs:
        """What this epoch erases, with ``accumulate`` also what earlier ones did: one sum, since the targets stay."""
        evidence = self.evidence
        part: Any
        if evidence.first_rows is not None and evidence.whole_rows is not None:
            part = evidence.first_rows if derivation is None else evidence.whole_rows.derived(derivation)
        else:
            part = evidence.first if derivation is None else evidence.whole.derived(derivation)
        robust, joined = self.method.robust, evidence.joined
        if robust is not None or joined is not None:
            part = widened(part, evidence.whole, joined, robust, self.gram, self.maps, derivation)
        if self.method.accumulate:
            part = part if self._sum is None else self._sum.erasing_also(part)
            self._sum = part
        # What an attack found is no part of any epoch: it counts once.
        return part if joined is None else part.erasing_also(joined.found)

    def _prompts(self, derivation: AnyDerivation | None) -> list[Moments]:
        """The same a prompt, for an editor that takes each prompt's target apart again."""
        parts = list(self.evidence.first_prompts)
        if derivation is not None:
            parts = [moments.derived(derivation) for moments in self.evidence.whole_prompts]
        if self.method.accumulate:
            self._held += parts
            return list(self._held)
        return parts

    # What can be said of an epoch without a picture

    @torch.no_grad()
    def measure(self, record: EpochRecord, attacker_scale: float | None = None) -> dict[str, float]:
        """Objective, residuals, drift, norms and scales after an epoch; see ``core/diagnostics.py`` for each.

        They are about the concepts' own prompts, whatever else the robust loop erased with them.

        Args:
            record: of the last epoch.
            attacker_scale: ridge of the attacker in the regeneration residual; ``1e-3 · tr(G)/d`` unless given.
        """
        gram, evidence, maps = self.gram, self.evidence, self.maps.in_factors()
        figures: dict[str, float] = {}
        # The objective is UCE's.
        if isinstance(record.editor, UCE) and isinstance(self.maps, EmbeddingMap):
            before, after = diagnostics.edit_objectives(gram, record.before, record.step, record.moments, record.editor)
            figures |= {"objective_before": before, "objective_after": after}
        whole = evidence.whole
        size = diagnostics.map_figures(maps)
        held_out = whole.preserved if evidence.held_out is None else evidence.held_out
        if bool(held_out.any()):
            figures["preservation_drift"] = diagnostics.preservation_drift(gram, maps, held_out)
        if record.derivation is not None:
            derived = whole.derived(record.derivation)
            figures["norm_ratio"] = diagnostics.norm_ratio(derived.erased, whole.erased)
        return figures | {
            "regeneration_residual": diagnostics.regeneration_residual(gram, maps, whole.erased, attacker_scale),
            "regeneration_residual_unedited": self._residual_unedited(attacker_scale),
            "mapped_residual": diagnostics.mapped_residual(gram, whole),
            **residual_figures(gram, maps, whole.erased),
            "map_change": size.change_norm,
            "map_rank": float(size.rank),
            "map_condition": size.condition,
            # λ, λ₁ and λ₂ mean something only beside these: they are not scale-free.
            "gram_scale": gram.scale,
            "erased_scale": float(evidence.first.erased.trace()) / gram.width,
            "preserved_scale": float(evidence.first.preserved.trace()) / gram.width,
        }

    def _residual_unedited(self, attacker_scale: float | None) -> float:
        """The attacker's own cost, at ``M = I``; computed once."""
        if attacker_scale not in self._unedited:
            self._unedited[attacker_scale] = diagnostics.regeneration_residual(
                self.gram, unedited(self.gram), self.evidence.whole.erased, attacker_scale
            )
        return self._unedited[attacker_scale]

    # Its state

    def state_dict(self) -> dict[str, Any]:
        """The map and the number of epochs; the evidence is the statistics' to keep."""
        return {**{name: one.cpu() for name, one in tensors_of(self.maps).items()}, "epoch": self.epoch}

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], method: Method, evidence: Evidence, gram: Gram, *, reuse_map: bool = True
    ) -> Eraser:
        """An eraser as far as the one whose state it was.

        The epochs are run anew, which takes milliseconds and rebuilds what an accumulating loop holds. The stored map
        then takes its place, so that a resumed run goes on from the very bits that were saved.

        Args:
            state: that :meth:`state_dict` gave.
            method: as it was.
            evidence: as it was.
            gram: of the same projections; of another model's to put the erasure there.
            reuse_map: take the stored map; otherwise that of the epochs on this ``gram``.

        Raises:
            ConfigurationError: if the state does not fit.
        """
        check_state(state, gram.width, per_layer=method.editor.per_layer)
        eraser = cls(method, evidence, gram).run(state["epoch"])
        saved = map_from(state, gram.total.device)
        # On the machine that saved it they are the same bits, and the map that was run knows its factors.
        if reuse_map and not same_map(saved, eraser.maps):
            eraser.maps = saved
        return eraser


def check_map(step: Any, before: AnyMap, editor: Editor) -> None:
    """Refuse what an editor gave in place of a map, such as one of a user's own.

    Raises:
        ConfigurationError: naming the editor.
    """
    if type(step) is not type(before) or stored(step).shape != stored(before).shape:
        found = f"{type(step).__name__} {list(stored(step).shape)}" if isinstance(step, AnyMap) else type(step).__name__
        raise ConfigurationError(
            f"{type(editor).__name__}: it gave {found} where {type(before).__name__} {list(stored(before).shape)} was "
            "asked for."
        )
    if stored(step).dtype != torch.float64 or not bool(stored(step).isfinite().all()):
        raise ConfigurationError(f"{type(editor).__name__}: its map is not finite float64; look at its settings.")


def check_state(state: Mapping[str, Any] | None, width: int, *, per_layer: bool, layers: int | None = None) -> None:
    """Refuse a stored map that cannot be put on a model.

    Args:
        state: of an eraser; ``None`` where the checkpoint has none for this text space.
        width: of the embeddings that the model reads.
        per_layer: whether the method has one map a layer.
        layers: of the model, where the maps themselves are put on it; any number of them unless given.

    Raises:
        ConfigurationError: naming the widths.
    """
    shape = () if state is None else shape_in(state)
    many = layers is not None and per_layer and shape[:1] != (layers,)
    if not shape or shape[-1] != width or (len(shape) == 3) != per_layer or many:
        raise ConfigurationError(
            f"ckpt_path: the checkpoint's map has the shape {list(shape)}, the model reads embeddings {width} wide"
            f"{f' in {layers} layers' * many}; give the checkpoint of a run on a model of that kind."
        )


def sum_of(prompts: list[Moments]) -> Moments:
    """The moments of several prompts."""
    total = prompts[0]
    for other in prompts[1:]:
        total = total.erasing_also(other)
    return total


def identity_like(gram: Gram, *, per_layer: bool) -> AnyMap:
    """The unedited model's map: one for all layers, or one a layer."""
    if per_layer:
        return LayerMaps.identity(len(layers_of(gram)), gram.width, gram.total.device)
    return unedited(gram)
