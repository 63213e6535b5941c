"""Erase from a live diffusers pipeline in one line, and undo it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from rece_lightning.core import diagnostics
from rece_lightning.core.embedding_map import AnyMap, unedited
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.method import Method
from rece_lightning.data.concepts import ConceptsSetting
from rece_lightning.devices.sharded import refuse_sharded
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.erasure import Erasure, erased_spaces
from rece_lightning.erasure.plan import ErasurePlan
from rece_lightning.erasure.undo import Undo
from rece_lightning.models.beside import control_nets, part_at
from rece_lightning.models.denoisers import LiveDenoisers, besides, known_family, refuse_unreachable
from rece_lightning.models.found import FoundDenoiser, refuse_changed
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.live_unet import LiveUnet, pooled_width_of
from rece_lightning.models.text import EncodesPrompts, PromptEncoder


def erase(
    pipeline: Any,
    concepts: ConceptsSetting,
    preserve: str | Sequence[str] | None = None,
    target: str = " ",
    templates: Sequence[str] = ("{}",),
    *,
    method: Method | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    tune: str | None = None,
    drift_budget: float | None = None,
) -> LiveErasure:
    """Erase concepts from a diffusers pipeline in memory: what reads its text is edited where it lies.

    No run, no file, no gradient step. Prompts are encoded by the pipeline's own text encoder in its dtype and
    on its device, the algebra is float64 on the U-Net's device (on the CPU where the device has no float64),
    and every weight is rounded once to its own dtype. LoRAs that are loaded are edited with their base. The
    settings mean what they mean in the configuration::

        erasure = rece_lightning.erase(pipeline, ["nudity"])
        erasure.undo()

        with rece_lightning.erase(pipeline, "bomb", preserve=[" ", "rocket"]):
            pipeline("a bomb")  # the original is back after the block

    Args:
        pipeline: of Stable Diffusion 1.x, 2.x or XL, or another with ``unet``, ``tokenizer``, ``text_encoder``. Its
            ControlNets, GLIGEN's phrases and Custom Diffusion's own keys and values read the same text and are edited
            with the U-Net.
        concepts: prompts or mappings, as in :class:`rece_lightning.ConceptData`; one prompt, or the path of
            a prompt file.
        preserve: prompts whose keys and values are held. Unless given, everyday words of the pipeline's own tokenizer
            that do not mean what is erased; with ``tune: off`` the empty prompt alone.
        target: what the concepts become.
        templates: filled with concept and target alike.
        method: how to erase.
        epochs: 1 is UCE; each further one derives and edits. Chosen unless given; 4 with ``tune: off``.
        tune: ``balanced`` chooses the settings of ``method`` that are at their defaults, and the epochs, before the
            erasure and without a picture; ``robust`` takes a singular editor; ``off``. Unless given ``balanced``, or
            ``off`` where a method is given; see ``core/tuning.py``.
        drift_budget: of tuning: the most that the keys and values of other prompts may move.

    Returns:
        The erasure, which can be undone.

    Raises:
        ConfigurationError: for a setting that makes no sense, a pipeline without these parts, something in it that
            reads the text and cannot be edited, or weights that cannot be edited where they lie (offloaded to
            ``meta``, quantized, fused, inside an adapter that is no plain LoRA). Nothing was changed then.
        BaseModelError: if the weights hold NaN or infinity, or the text encoder is of another kind.
    """
    plan = ErasurePlan.of(
        "erase", concepts, preserve=preserve, target=target, templates=templates, method=method, epochs=epochs,
        tune=tune, drift_budget=drift_budget,
    )  # fmt: skip
    live, encoder, parts = _opened(pipeline)
    plan, spaces = plan.on(live)
    with torch.no_grad():
        grams = plan.grams(live, spaces)
        plan, statistics = plan.counted(encoder, spaces, live.algebra_device, grams)
        plan = plan.tuned(statistics, grams)
        erasers = plan.erasers(statistics, grams)
        erasure = Erasure(live, erased_spaces(spaces, erasers.maps, erasers.grams))
        return LiveErasure(erasers, erasure, erasure.apply_(live.module), pipeline, parts, plan.choice)


def _opened(pipeline: Any) -> tuple[LiveReaders, EncodesPrompts, dict[str, nn.Module]]:
    """What of a pipeline reads the text, what encodes its prompts, and the parts that are edited."""
    refuse_unreachable(type(pipeline).__name__, "erase")
    family = known_family(pipeline)
    if family is not None:
        for name, kind in besides(pipeline, family).items():
            raise ConfigurationError(
                f"erase: pipeline.{name}: a {kind} may read the text too, and an edit of {family.title}'s denoiser "
                f"leaves it as it is; erase from a pipeline without it."
            )
        denoisers = LiveDenoisers(pipeline, family, "erase: pipeline")
        for path, module in denoisers.parts.items():
            refuse_sharded(module, f"erase: pipeline.{path}")
        refuse_changed(pipeline, denoisers, denoisers.parts, "erase: pipeline")
        return denoisers, denoisers.encoder(pipeline), denoisers.parts
    unet = part_at(pipeline, "unet")
    if not isinstance(unet, nn.Module):
        found = FoundDenoiser(pipeline)
        warnings.warn(
            f"{found.kind} is of no known family. A trace found what reads its text, and that nothing else does: "
            f"{', '.join(found.names()[:4])}{' …' * (len(found.names()) > 4)}.",
            stacklevel=3,
        )
        denoisers = found.live()
        return denoisers, found.encoder(denoisers), denoisers.parts
    beside = control_nets(pipeline)
    for path, module in {"unet": unet, **beside}.items():
        refuse_sharded(module, f"erase: pipeline.{path}")
    live = LiveUnet(unet, "erase: pipeline.unet", pooled_width_of(pipeline), beside=beside)
    if not beside:
        refuse_changed(pipeline, live, {"unet": unet}, "erase: pipeline")
    return live, PromptEncoder.of_pipeline(pipeline), {"unet": unet, **beside}


class LiveErasure:
    """An erasure of a live pipeline: what was done, and how to undo it.

    As a context manager it undoes itself at the end of the block. The originals of the edited weights are
    kept on the CPU until then.
    """

    def __init__(
        self,
        erasers: SpaceErasers,
        erasure: Erasure,
        undo: Undo,
        pipeline: Any,
        parts: Mapping[str, nn.Module],
        tuning: Mapping[str, Any] | None = None,
    ) -> None:
        self.tuning = tuning
        """What was chosen before it, and why, in plain types; ``None`` where settings stand as they were given."""
        self._erasers, self._change, self._undo = erasers, erasure.change, undo
        self._pipeline, self._parts = pipeline, parts

    @property
    def maps(self) -> dict[str, AnyMap]:
        """Text space → ``M``: every edited weight is the original one times this."""
        return self._erasers.maps

    @property
    def names(self) -> list[str]:
        """Parameter names of the edited weights: the U-Net's, and a ControlNet's, which begin with ``controlnet.``."""
        return self._undo.names

    @property
    def undone(self) -> bool:
        """Whether the originals are back."""
        return self._undo.done

    @cached_property
    def figures(self) -> dict[str, float]:
        """What can be said of the erasure without a picture; computed when first asked for.

        ``regeneration_residual`` (beside its value for the model as it was) and ``preservation_drift`` of held-out
        words (of the preserved prompts where nothing was chosen), both of the first text space, and ``weight_change``
        ``‖ΔW‖/‖W‖`` over everything that was edited; see
        ``core/diagnostics.py``.
        """
        eraser = self._erasers.first
        gram, whole = eraser.gram, eraser.evidence.whole
        figures = {
            "regeneration_residual": diagnostics.regeneration_residual(gram, eraser.maps, whole.erased),
            "regeneration_residual_unedited": diagnostics.regeneration_residual(gram, unedited(gram), whole.erased),
            "weight_change": self._change(),
        }
        held_out = eraser.evidence.held_out
        looked_at = whole.preserved if held_out is None else held_out
        if bool(looked_at.any()):
            figures["preservation_drift"] = diagnostics.preservation_drift(gram, eraser.maps, looked_at)
        return figures

    def undo(self, *, force: bool = False) -> None:
        """Put the original weights back, bit for bit. A second call does nothing.

        Args:
            force: also over weights that somebody else changed since, in whatever dtype they have now.

        Raises:
            ConfigurationError: if the weights are not the edit's any more, or the pipeline does not compute with them:
                another U-Net took their place, they were fused into others, quantized, offloaded, or lie inside an
                adapter that came later.
        """
        others = [path for path, module in self._parts.items() if part_at(self._pipeline, path) is not module]
        if others and not (force or self.undone):
            part = "U-Net" if others[0] == "unet" else others[0]
            raise ConfigurationError(
                f"undo: the pipeline has another {part} than the one that was edited; put that back first. "
                "undo(force=True) takes the edit out of the former one alone."
            )
        self._undo(force=force)

    def __enter__(self) -> LiveErasure:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "undone" if self.undone else "in force"
        return f"LiveErasure({len(self.names)} weights, {state})"
