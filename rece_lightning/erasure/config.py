"""The whole closed form in one step: prompts and projections in, edited projections out; nothing is run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rece_lightning.core.derivation import REGULARIZERS
from rece_lightning.core.editors.base import EDITORS, check_editor
from rece_lightning.core.editors.null_space import NullSpace, check_augmented_rank
from rece_lightning.core.editors.projection import Projection, check_rank
from rece_lightning.core.editors.uce import EditScales
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.eraser import Evidence, LoopSettings, RECELoop
from rece_lightning.core.errors import ConfigurationError, check_choice, check_count, check_number, nearest
from rece_lightning.core.gram import Gram
from rece_lightning.data.concepts import (
    ConceptsSetting,
    PromptPair,
    check_disjoint,
    prompt_pairs,
    read_concepts,
    read_preserved,
)
from rece_lightning.erasure.encoding import encode_pairs, gather_evidence, invariant_rows, with_invariants
from rece_lightning.models.projections import KINDS, check_layers, is_text_projection, select_projections
from rece_lightning.models.text import TOKEN_RULES, PromptEncoder

WRAPPED = (".attn2.to_k.base_layer.", ".attn2.to_v.base_layer.")
"""How the parameters of a projection are called once peft has put a LoRA around it."""


@dataclass(frozen=True)
class Edited:
    """What the closed form gives for some projections."""

    maps: AnyMap
    """``M``."""
    gram: Gram
    """``G`` of the projections before the edit."""
    weights: dict[str, Tensor]
    """Edited projections under the names that were given, in their dtype."""


@dataclass(frozen=True)
class ErasurePlan:
    """What is to be erased and how, checked before any model is touched."""

    pairs: tuple[PromptPair, ...]
    preserved: tuple[str, ...]
    epochs: int
    settings: LoopSettings
    tokens: str
    projections: str
    layers: str | None

    @classmethod
    def of(
        cls,
        where: str,
        concepts: ConceptsSetting,
        *,
        preserve: str | Sequence[str],
        target: str,
        templates: Sequence[str],
        epochs: int,
        erase_scale: float,
        preserve_scale: float,
        lamb: float,
        regular_scale: float,
        regularizer: str,
        accumulate: bool,
        tokens: str,
        projections: str,
        layers: str | None,
        first_edit: Mapping[str, float] | None,
        editor: str = "uce",
        erased_rank: int | float | None = None,
        shrinkage: float = 3.0,
        null_space_threshold: float = 0.1,
        augmented_rank: int = 1,
    ) -> ErasurePlan:
        """Check the settings, which are named and meant as in the configuration.

        Args:
            where: who was given the settings, for messages: ``erase``, ``Erase``.

        Raises:
            ConfigurationError: for every setting that makes no sense.
        """
        check_count(f"{where}.epochs", epochs, "1 (UCE)")
        scales = {"erase_scale": erase_scale, "preserve_scale": preserve_scale, "lamb": lamb}
        if first_edit is not None and not isinstance(first_edit, Mapping):
            raise ConfigurationError(
                f"{where}.first_edit: {first_edit!r}; give a mapping such as {{'preserve_scale': 1.0}}."
            )
        for prefix, given in (("", scales), ("first_edit.", first_edit or {})):
            for key, value in given.items():
                if key not in scales:
                    raise ConfigurationError(f"{where}.first_edit: unknown key {key!r}; {nearest(str(key), scales)}.")
                check_number(f"{where}.{prefix}{key}", value, positive=key == "erase_scale")
        check_number(f"{where}.regular_scale", regular_scale, positive=True)
        check_choice(f"{where}.regularizer", regularizer, REGULARIZERS)
        check_choice(f"{where}.editor", editor, EDITORS)
        check_editor(f"{where}.", editor, technique="replace", first_edit=first_edit)
        if erased_rank is not None:
            check_rank(f"{where}.erased_rank", erased_rank)
        check_number(f"{where}.shrinkage", shrinkage, positive=True)
        check_number(f"{where}.null_space_threshold", null_space_threshold)
        check_augmented_rank(f"{where}.augmented_rank", augmented_rank)
        check_choice(f"{where}.tokens", tokens, TOKEN_RULES)
        check_choice(f"{where}.projections", projections, KINDS)
        check_layers(layers)
        wanted = read_concepts(concepts, target, templates)
        pairs, kept = prompt_pairs(wanted), read_preserved(preserve)
        check_disjoint(pairs, wanted, kept)
        settings = LoopSettings(
            scales=EditScales(**scales),
            first_scales=EditScales(**{**scales, **first_edit}) if first_edit else None,
            regular_scale=regular_scale,
            regularizer=regularizer,
            editor=editor,
            projection=Projection(erased_rank, shrinkage),
            null_space=NullSpace(null_space_threshold, augmented_rank),
            accumulate=accumulate,
        )
        return cls(tuple(pairs), tuple(kept), epochs, settings, tokens, projections, layers)

    def evidence(self, encoder: PromptEncoder, device: torch.device | str) -> Evidence:
        """Encode the prompts on the encoder's device and count their moments on ``device``."""
        prompts, targets = [pair.prompt for pair in self.pairs], [pair.target for pair in self.pairs]
        for prompt in dict.fromkeys([*prompts, *targets, *self.preserved]):
            lost = encoder.cut(prompt)
            if lost:
                warnings.warn(f"{prompt!r} is longer than the tokenizer takes; cut: {lost!r}.", stacklevel=3)
        pairs = encode_pairs(encoder, prompts, targets, [pair.weight for pair in self.pairs])
        kept = list(encoder.encode(list(self.preserved)).embeddings) if self.preserved else []
        held = invariant_rows(encoder) if self.settings.editor == "null_space" else None
        return with_invariants(gather_evidence(pairs, kept, self.tokens, device), held, device)

    @torch.no_grad()
    def edit(self, projections: Mapping[str, Tensor], evidence: Evidence) -> Edited:
        """RECE's closed form of the projections ``[o_l, d]``, on the device of the evidence.

        Raises:
            ConfigurationError: if the prompts' embeddings do not fit the projections, a system is singular,
                or a result does not fit the weights' dtype.
            BaseModelError: if a projection holds NaN or infinity.
        """
        names = select_projections(list(projections), self.projections, self.layers)
        gram = Gram.of(((name, projections[name]) for name in names), device=evidence.whole.erased.device)
        if gram.width != evidence.whole.width:
            raise ConfigurationError(
                f"The U-Net reads embeddings {gram.width} wide, the text encoder gives {evidence.whole.width}; "
                "give the text encoder that belongs to the U-Net."
            )
        maps = RECELoop(gram, evidence, self.settings).run(self.epochs)
        weights = {name: maps.applied_to(projections[name], i) for i, name in enumerate(names)}
        for name, weight in weights.items():
            if not bool(weight.isfinite().all()):
                raise ConfigurationError(
                    f"{name}: the edited weights do not fit {weight.dtype}; give a larger lamb (λ₂), or a model in "
                    "bfloat16 or float32."
                )
        return Edited(maps, gram, weights)


def text_projections(unet: nn.Module, field: str) -> dict[str, Tensor]:
    """The text-reading projections of a live U-Net by name: views of its parameters, without gradients.

    Args:
        unet: any module whose cross-attention is called ``attn2``, as in diffusers.
        field: where it was found, for messages.

    Raises:
        ConfigurationError: if there is none, or one cannot be edited where it lies: offloaded, quantized, or
            inside a LoRA.
    """
    parameters = dict(unet.named_parameters())
    wrapped = [name for name in parameters if any(part in f".{name}" for part in WRAPPED)]
    if wrapped:
        raise ConfigurationError(
            f"{field}: a LoRA lies around {wrapped[0].split('.base_layer.')[0]}; editing what is inside would leave "
            "out what the LoRA adds. Fuse it (pipeline.fuse_lora(), then pipeline.unload_lora_weights()) or unload it."
        )
    fused = [name for name in parameters if ".attn2.to_kv." in f".{name}"]
    if fused:
        raise ConfigurationError(
            f"{field}: keys and values are fused ({fused[0]}); call pipeline.unfuse_qkv_projections() first."
        )
    found = {name: weight.detach() for name, weight in parameters.items() if is_text_projection(name)}
    if not found:
        raise ConfigurationError(f"{field}: no cross-attention that reads the text (attn2.to_k) in it.")
    for name, weight in found.items():
        if weight.is_meta:
            raise ConfigurationError(
                f"{field}: {name} is offloaded (on the device meta), so there is nothing here to edit; erase before "
                "pipeline.enable_sequential_cpu_offload(), or use pipeline.enable_model_cpu_offload()."
            )
        if not weight.is_floating_point() or weight.element_size() < 2 or weight.ndim != 2:
            raise ConfigurationError(
                f"{field}: {name} is {weight.dtype} {list(weight.shape)}; quantized weights cannot be edited, load "
                "the model in float32, bfloat16 or float16."
            )
    return found


def algebra_device(weights: Mapping[str, Tensor]) -> torch.device:
    """Where the float64 algebra runs: beside the weights, on the CPU where the device has no float64."""
    device = next(iter(weights.values())).device
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError, NotImplementedError):  # mps says TypeError
        return torch.device("cpu")
    return device


@contextmanager
def modes_kept(*modules: nn.Module | None) -> Iterator[None]:
    """Give modules back in their modes, part by part: a frozen part in evaluation mode stays in it."""
    modes = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
