"""Erase from a live diffusers pipeline in one line, and undo it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core import diagnostics
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap
from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.concepts import ConceptsSetting
from rece_lightning.devices.sharded import refuse_sharded
from rece_lightning.erasure.config import Edited, ErasurePlan, algebra_device, modes_kept, text_projections
from rece_lightning.models.pipelines import put_weights
from rece_lightning.models.text import PromptEncoder


def erase(
    pipeline: Any,
    concepts: ConceptsSetting,
    preserve: str | Sequence[str] = (" ",),
    target: str = " ",
    templates: Sequence[str] = ("{}",),
    *,
    epochs: int = 4,
    erase_scale: float = 1.0,
    preserve_scale: float = 0.1,
    lamb: float = 0.1,
    regular_scale: float = 0.1,
    regularizer: str = "norm",
    editor: str = "uce",
    erased_rank: int | float | None = None,
    shrinkage: float = 3.0,
    null_space_threshold: float = 0.1,
    augmented_rank: int = 1,
    accumulate: bool = False,
    tokens: str = "aligned",
    projections: str = "kv",
    layers: str | None = None,
    first_edit: Mapping[str, float] | None = None,
) -> LiveErasure:
    """Erase concepts from a diffusers pipeline in memory: its U-Net's projections are edited where they lie.

    No run, no file, no gradient step. Prompts are encoded by the pipeline's own text encoder in its dtype and
    on its device, the algebra is float64 on the U-Net's device (on the CPU where the device has no float64),
    and every weight is rounded once to its own dtype. The settings mean what they mean in the configuration::

        erasure = rece_lightning.erase(pipeline, ["nudity"])
        erasure.undo()

        with rece_lightning.erase(pipeline, "bomb", preserve=[" ", "rocket"]):
            pipeline("a bomb")  # the original is back after the block

    Args:
        pipeline: of Stable Diffusion 1.x, 2.x or XL, or another with ``unet``, ``tokenizer``, ``text_encoder``.
        concepts: prompts or mappings, as in :class:`rece_lightning.ConceptData`; one prompt, or a CSV's path.
        preserve: prompts whose keys and values are held.
        target: what the concepts become.
        templates: filled with concept and target alike.
        epochs: 1 is UCE; each further one derives and edits.
        erase_scale: η.
        preserve_scale: λ₁.
        lamb: λ₂.
        regular_scale: λ.
        regularizer: of the derivation.
        editor: ``uce``; ``projection``, whose map is singular; ``null_space``, whose edit kept prompts do not see.
        erased_rank: of the editor ``projection``.
        shrinkage: of the editor ``projection``.
        null_space_threshold: of the editor ``null_space``.
        augmented_rank: of the editor ``null_space``.
        accumulate: hold what earlier epochs erased.
        tokens: positions that epoch 0 edits.
        projections: ``kv``, ``k`` or ``v``.
        layers: a regular expression over parameter names.
        first_edit: scales of epoch 0 where they differ.

    Returns:
        The erasure, which can be undone.

    Raises:
        ConfigurationError: for a setting that makes no sense, a pipeline without these parts, or weights that
            cannot be edited where they lie (offloaded to ``meta``, quantized, inside a LoRA). Nothing was
            changed then.
        BaseModelError: if the weights hold NaN or infinity, or the text encoder is of another kind.
    """
    plan = ErasurePlan.of(
        "erase",
        concepts,
        preserve=preserve,
        target=target,
        templates=templates,
        epochs=epochs,
        erase_scale=erase_scale,
        preserve_scale=preserve_scale,
        lamb=lamb,
        regular_scale=regular_scale,
        regularizer=regularizer,
        editor=editor,
        erased_rank=erased_rank,
        shrinkage=shrinkage,
        null_space_threshold=null_space_threshold,
        augmented_rank=augmented_rank,
        accumulate=accumulate,
        tokens=tokens,
        projections=projections,
        layers=layers,
        first_edit=first_edit,
    )
    unet = getattr(pipeline, "unet", None)
    # A compiled module wraps the one that holds the weights.
    unet = getattr(unet, "_orig_mod", unet)
    if not isinstance(unet, nn.Module):
        raise ConfigurationError(
            f"erase: {type(pipeline).__name__} has no unet; give a diffusers pipeline of Stable Diffusion 1.x, 2.x "
            "or XL."
        )
    refuse_sharded(unet, "erase: pipeline.unet")
    weights = text_projections(unet, "erase: pipeline.unet")
    with modes_kept(getattr(pipeline, "text_encoder", None), getattr(pipeline, "text_encoder_2", None)):
        evidence = plan.evidence(PromptEncoder.of_pipeline(pipeline), algebra_device(weights))
    edited = plan.edit(weights, evidence)
    original = {name: weights[name].to("cpu", copy=True) for name in edited.weights}
    put_weights(unet, edited.weights)
    return LiveErasure(unet, original, edited, evidence)


class LiveErasure:
    """An erasure of a live pipeline: what was done, and how to undo it.

    As a context manager it undoes itself at the end of the block. The originals of the edited projections are
    kept on the CPU until then.
    """

    maps: AnyMap
    """``M``: every edited projection is the original one times this."""

    def __init__(self, unet: nn.Module, original: dict[str, Tensor], edited: Edited, evidence: Evidence) -> None:
        self.maps = edited.maps
        self.undone = False
        self._unet = unet
        self._original = original
        self._gram, self._evidence = edited.gram, evidence
        self._digest = digest(unet.get_parameter(name) for name in original)

    @property
    def names(self) -> list[str]:
        """Parameter names of the edited projections."""
        return list(self._original)

    @cached_property
    def figures(self) -> dict[str, float]:
        """What can be said of the erasure without a picture; computed when first asked for.

        ``regeneration_residual`` (beside its value for the model as it was), ``weight_change`` ``‖ΔW‖/‖W‖`` over
        the edited projections, ``preservation_drift`` of the preserved prompts; see ``core/diagnostics.py``.
        """
        gram, whole = self._gram, self._evidence.whole
        unedited = EmbeddingMap.identity(gram.width, gram.total.device)
        change = self.maps.change_gram(gram).trace().clamp(min=0) / gram.total.trace()
        figures = {
            "regeneration_residual": diagnostics.regeneration_residual(gram, self.maps, whole.erased),
            "regeneration_residual_unedited": diagnostics.regeneration_residual(gram, unedited, whole.erased),
            "weight_change": float(change.sqrt()),
        }
        if bool(whole.preserved.any()):
            figures["preservation_drift"] = diagnostics.preservation_drift(gram, self.maps, whole.preserved)
        return figures

    def undo(self, *, force: bool = False) -> None:
        """Put the original projections back, bit for bit. A second call does nothing.

        Args:
            force: also over weights that somebody else changed since, in whatever dtype they have now.

        Raises:
            ConfigurationError: if the weights are not the edit's any more.
        """
        if self.undone:
            return
        present = dict(self._unet.named_parameters())
        missing = [name for name in self._original if name not in present]
        if missing:
            raise ConfigurationError(
                f"undo: the U-Net has no {missing[0]} any more; unload what was put around it since (a LoRA) first."
            )
        if any(present[name].is_meta for name in self._original):
            raise ConfigurationError("undo: the U-Net was offloaded to the device meta since; remove its hooks first.")
        if not force and digest(present[name] for name in self._original) != self._digest:
            raise ConfigurationError(
                "undo: the edited projections were changed since (by another erasure, a training, a cast to another "
                "dtype). Undo what came later first; undo(force=True) puts the originals over it."
            )
        put_weights(self._unet, self._original)
        self.undone = True
        self._original = dict.fromkeys(self._original, torch.empty(0))

    def __enter__(self) -> LiveErasure:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "undone" if self.undone else "in force"
        return f"LiveErasure({len(self._original)} projections, {state})"


def digest(weights: Iterable[Tensor]) -> str:
    """SHA-256 of the weights' dtypes and bytes, wherever they lie."""
    found = hashlib.sha256()
    for weight in weights:
        found.update(str(weight.dtype).encode())
        found.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
