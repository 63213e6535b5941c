"""Layers of a model in memory: the parameters that each is made of, and whether it computes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.quantized import WAY_OUT

COPIED = "original_module"
"""How peft calls the frozen original of a module that it keeps a trained copy of (``modules_to_save``)."""
AROUND = ("_orig_mod", "base_layer", COPIED)
"""How what lies around a layer calls it: torch.compile, peft."""
PEFT_PREFIX = "base_model.model."
MERGE = "pipeline.fuse_lora() and pipeline.unload_lora_weights(), or merge_and_unload()"


def plain_path(path: str) -> str:
    """The name of a module or parameter without what compiling or an adapter put around it."""
    return ".".join(part for part in path.split(".") if part not in AROUND).removeprefix(PEFT_PREFIX)


@dataclass(frozen=True)
class LiveLayer:
    """A linear layer, perhaps with LoRAs around it: ``W + Σ s B A``.

    ``(W + s B A) M = W M + s B (A M)``: an edit from the right changes the base weight and the down-projection of every
    LoRA, of those that are switched off too, and leaves scales, up-projections, dropout and biases alone.
    """

    module: Any
    """The layer, with what lies around it."""
    weight: str
    """Name of ``W [o, i]`` in the model."""
    loras: Mapping[str, tuple[str, str]]
    """LoRA → the names of its ``A [r, i]`` and ``B [o, r]`` in the model."""

    @property
    def edited(self) -> tuple[str, ...]:
        """Names of the parameters that take ``M``."""
        return (self.weight, *(down for down, _ in self.loras.values()))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters that the layer's map consists of."""
        return (self.weight, *(name for pair in self.loras.values() for name in pair))

    def amounts_to(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """``[o, i]``: what the layer multiplies with, LoRAs that are active and not merged included.

        Args:
            parameters: by name.
        """
        weight = parameters[self.weight]
        # Merged ones are in the weight already, unless switched off: then the next call takes them out of it.
        merged = set(self.module.merged_adapters) if self.loras else set()
        off = bool(self.loras) and self.module.disable_adapters
        signs = {name: -1.0 for name in merged} if off else {}
        if self.loras and not off and not merged:
            signs = dict.fromkeys(self.module.active_adapters, 1.0)
        for name, sign in signs.items():
            if name in self.loras:
                down, up = (parameters[part].double() for part in self.loras[name])
                weight = weight.double() + sign * self.module.scaling[name] * (up @ down)
        return weight


def live_layers(model: nn.Module, wanted: Callable[[str], bool], field: str) -> dict[str, LiveLayer]:
    """Plain parameter name → the layer, of every linear layer whose weight is ``wanted``.

    Args:
        model: in memory.
        wanted: whether a weight of this plain name is looked for.
        field: where the model was found, for messages.

    Raises:
        ConfigurationError: if one does not compute with a weight of its own: fused, quantized, inside an adapter that
            is no plain LoRA, parametrized, or replaced. Nothing that is wanted is left out in silence.
    """
    found: dict[str, LiveLayer] = {}
    for path, module in model.named_modules():
        name = f"{plain_path(path)}.weight"
        if name in found or not wanted(name):
            continue
        if COPIED in path.split(".") or hasattr(module, COPIED):
            raise ConfigurationError(
                f"{field}: peft keeps a trained copy (modules_to_save) of {path.split(f'.{COPIED}')[0]}; merge it into "
                f"the model ({MERGE}), or train it with a LoRA, or whole."
            )
        check_attention(model, path, field)
        found[name] = _layer(path, module, field)
    return found


def check_attention(model: nn.Module, path: str, field: str) -> None:
    """Refuse a layer in an attention block that computes with a copy of its keys' and values' weights.

    Raises:
        ConfigurationError: with what takes it back.
    """
    attention = model.get_submodule(path.rpartition(".")[0])
    kind = type(getattr(attention, "processor", None)).__name__
    # diffusers' older blocks keep the flag, and the fused copy, once they were fused; their processor decides.
    flagged = hasattr(attention, "unfuse_projections") and getattr(attention, "fused_projections", False)
    if kind.startswith("Fused") or flagged:
        raise ConfigurationError(
            f"{field}: keys and values of {path.rpartition('.')[0]} are fused, in a copy of their weights; call "
            "pipeline.unfuse_qkv_projections() first."
        )


def _layer(path: str, module: nn.Module, field: str) -> LiveLayer:
    """The layer at a path, once it is sure that it computes with its parameters."""
    inner, where = _uncompiled(path, module)
    loras: dict[str, tuple[str, str]] = {}
    if hasattr(inner, "base_layer"):
        check_lora(inner, where, field)
        loras = {
            name: (f"{where}.lora_A.{name}.weight", f"{where}.lora_B.{name}.weight")
            for name in inner.lora_A  # type: ignore[union-attr]
        }
        base, where = _uncompiled(f"{where}.base_layer", inner.base_layer)  # type: ignore[arg-type]
    else:
        base = inner
    reason = _not_plain(base)
    if reason:
        raise ConfigurationError(
            f"{field}: {where}: {reason}, so an edit of its weight would not change what it computes; load the model "
            f"in float32, bfloat16 or float16, without what replaces its layers. Of a quantized one: {WAY_OUT}."
        )
    return LiveLayer(inner, f"{where}.weight", loras)


def _uncompiled(path: str, module: nn.Module) -> tuple[Any, str]:
    while hasattr(module, "_orig_mod"):
        module, path = module._orig_mod, f"{path}._orig_mod"  # type: ignore[assignment]
    return module, path


def check_lora(layer: Any, path: str, field: str) -> None:
    """Refuse an adapter for which ``(W + s B A) M = W M + s B (A M)`` does not hold.

    Raises:
        ConfigurationError: naming its kind, and what to do.
    """
    from peft.tuners.lora import Linear  # only where peft is in use: it is slow to import

    kinds = [
        type(variant).__name__.removesuffix("LinearVariant") for variant in getattr(layer, "lora_variant", {}).values()
    ]
    if type(layer) is not Linear:
        kinds = [f"{type(layer).__module__.rpartition('.')[0].removeprefix('peft.tuners.')} ({type(layer).__name__})"]
    elif hasattr(layer.base_layer, "base_layer"):
        kinds = [f"an adapter inside another ({type(layer.base_layer).__name__})"]
    if kinds:
        kind = {"Dora": "a DoRA"}.get(kinds[0], kinds[0])
        why = (
            "a DoRA scales by norms of the weights, which the edit changes" if kind == "a DoRA" else "only a plain LoRA"
        )
        raise ConfigurationError(
            f"{field}: {kind} lies around {path}, and cannot take an edit from the right ({why}). Merge it into the "
            f"weights ({MERGE}) or unload it."
        )


def _not_plain(layer: nn.Module) -> str:
    """Why a layer is no linear map by its own weight; empty where it is one."""
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    replaced = vars(layer).get("forward")
    # accelerate's and diffusers' hooks move weights, and call what was there.
    hooked = hasattr(layer, "_hf_hook") or hasattr(layer, "_diffusers_hook")
    if is_parametrized(layer):
        return "its weight is computed anew at every call (a parametrization)"
    if type(layer).forward is not nn.Linear.forward:
        return f"it is quantized or replaced ({type(layer).__module__}.{type(layer).__name__})"
    if weight is None:
        return "its weight is computed anew at every call (a weight norm, a pruning)"
    if type(weight.data) is not Tensor or type(weight) is not nn.Parameter:
        kind = type(weight if type(weight) is not nn.Parameter else weight.data)
        return f"its weight is quantized or spread ({kind.__module__}.{kind.__name__})"
    # Hooks that were removed leave the layer's own.
    if replaced is not None and replaced != nn.Linear.forward.__get__(layer) and not hooked:
        return f"something took the place of its forward ({getattr(replaced, '__qualname__', type(replaced).__name__)})"
    return ""


def check_weight(where: str, weight: Tensor) -> None:
    """Refuse a weight that cannot be edited where it lies.

    Raises:
        ConfigurationError: for one that is offloaded or quantized.
    """
    if weight.is_meta:
        raise ConfigurationError(
            f"{where} is offloaded (on the device meta), so there is nothing here to edit; erase before "
            "pipeline.enable_sequential_cpu_offload(), or use pipeline.enable_model_cpu_offload()."
        )
    if not weight.is_floating_point() or weight.element_size() < 2 or weight.ndim != 2:
        raise ConfigurationError(
            f"{where} is {weight.dtype} {list(weight.shape)}; quantized weights cannot be edited, load "
            f"the model in float32, bfloat16 or float16: {WAY_OUT}."
        )


def algebra_device(weight: Tensor) -> torch.device:
    """Where float64 algebra beside a weight runs: on its device, on the CPU where that has no float64."""
    try:
        torch.zeros(1, dtype=torch.float64, device=weight.device)
    except (TypeError, RuntimeError, NotImplementedError):  # mps says TypeError
        return torch.device("cpu")
    return weight.device
