"""An erasure that a LoRA carries: what lies in the base weights is moved into the LoRA, which erases alone then."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.low_rank import LowRank
from rece_lightning.models.layers import LiveLayer, plain_path
from rece_lightning.models.live_unet import reader_layers

KEYS_AND_VALUES = (".to_k.weight", ".to_v.weight")
"""Readers that every tool has a name for a LoRA around."""


@dataclass(frozen=True)
class LoraSize:
    """A layer's LoRA as it is trained."""

    rank: int
    """``r``."""
    nominal: float
    """``α/r``, or ``α/√r``."""
    weighted: float
    """What its scale is multiplied with beside: the weight that it was given among others."""

    @classmethod
    def of_module(cls, module: Any, name: str) -> LoraSize:
        """Of peft's layer."""
        rank = module.r[name]
        nominal = module.lora_alpha[name] / (math.sqrt(rank) if module.use_rslora[name] else rank)
        return cls(rank, nominal, module.scaling[name] / nominal)

    @classmethod
    def of(cls, layer: LiveLayer, name: str) -> LoraSize:
        """Of a layer that has it."""
        return cls.of_module(layer.module, name)

    def wide(self, rows: Tensor, columns: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """``[A; V]`` and ``[s B, U]``, a LoRA that has alpha equal to its rank."""
        further = (up / self.weighted).to(columns)
        return torch.cat([rows, down.to(rows)]), torch.cat([self.nominal * columns, further], dim=1)

    def narrow(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``A``, ``B`` and ``U V``, which belongs to the base weight, of what :meth:`wide` gave."""
        change = self.weighted * columns[:, self.rank :].double() @ rows[self.rank :].double()
        return rows[: self.rank].clone(), columns[:, : self.rank] / self.nominal, change


@dataclass(frozen=True)
class CarriedErasure:
    """What a LoRA is given so that it erases alone.

    With ``ΔW = W M − W`` of every reader and ``V`` shared by the readers of one width, ``W + [B, ΔW Vᵀ] [A M; V]`` is
    the erased weight with its LoRA, ``(W + B A) M``.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """Reader → ``down [R, i]`` and ``up [o, R]``, float64, at scale 1."""
    rank: int
    """The largest ``R``."""
    error: float
    """``‖ΔW' − ΔW‖ / ‖ΔW‖`` over these readers, in Frobenius norm."""
    left: tuple[str, ...] = ()
    """Readers whose erasure stays in their base weights: no LoRA lies around them that could be saved."""


def carried(original: Mapping[str, Tensor], erased: Mapping[str, Tensor], rank: int | None = None) -> CarriedErasure:
    """Factor what erasures changed in base weights.

    ``Σ ΔWᵀ ΔW = Vᵀ diag(e) V`` gives the best shared ``V`` of every rank (Eckart and Young, 1936). Without ``rank`` it
    is the full one: what is left out then lies below the rounding of the weights themselves.

    Args:
        original: reader → its weight ``[o, i]`` before all erasures.
        erased: the same after them, in the dtype that rounded them.
        rank: of each input width, at most.
    """

    def change(name: str) -> Tensor:
        return erased[name].detach().cpu().double() - original[name].detach().cpu().double()

    factors: dict[str, tuple[Tensor, Tensor]] = {}
    lost = total = 0.0
    for width in sorted({weight.shape[1] for weight in erased.values()}):
        names = [name for name, weight in erased.items() if weight.shape[1] == width]
        size = sum(float(erased[name].detach().double().square().sum()) for name in names)
        rounding = max(torch.finfo(erased[name].dtype).eps / 2 for name in names)
        energies, axes = torch.linalg.eigh(Gram.of((name, change(name)) for name in names).total)
        parts = LowRank(axes.flip(1), axes.flip(1).mT, energies.flip(0).clamp(min=0))
        # Rounding spreads over all directions: one that is no stronger may be nothing else.
        noise = max(4 * rounding**2 * size / width, width * torch.finfo(torch.float64).eps * float(parts.energies[0]))
        full = int((parts.energies > noise).sum())
        chosen = full if rank is None else min(rank, full)
        total += float(parts.energies.sum())
        if not chosen:
            continue
        up, down = parts.factors(chosen)
        factors |= {name: (down, change(name) @ up) for name in names}
        lost += sum(float((factors[name][1] @ down - change(name)).square().sum()) for name in names)
    most = max((len(down) for down, _ in factors.values()), default=0)
    return CarriedErasure(factors, most, math.sqrt(lost / total) if total else 0.0)


def carrier_of(layers: Mapping[str, LiveLayer], field: str) -> tuple[str, list[str]]:
    """The LoRA that carries an erasure, the first that is in force and trained, or else in force; and all in force.

    Raises:
        ConfigurationError: if none is in force, or they are merged: an erasure stays in the base weights then.
    """
    around = [layer.module for layer in layers.values() if layer.loras]
    active = [
        name
        for module in around
        for name in module.active_adapters
        if name in module.lora_A and module.scaling[name] and module.lora_B[name].bias is None
    ]
    trained = [name for name in active for module in around if is_trained(module, name)]
    if not active or any(module.merged or module.disable_adapters for module in around):
        raise ConfigurationError(
            f"{field}: no LoRA is in force that could carry an erasure (unmerged, enabled, of a scale, without bias); "
            "enable one."
        )
    return (trained or active)[0], list(dict.fromkeys(name for module in around for name in module.active_adapters))


def is_trained(module: Any, name: str) -> bool:
    """Whether a layer has a LoRA of this name that takes gradients."""
    return name in module.lora_A and module.lora_A[name].weight.requires_grad


@torch.no_grad()
def carry(
    unet: nn.Module, original: Mapping[str, Tensor], *, rank: int | None = None, field: str = "carry"
) -> CarriedErasure:
    """Move the erasure of a U-Net with a LoRA out of its base weights and into the LoRA, in place.

    What the U-Net computes stays the same; its base weights are the original ones again, bit for bit, and the LoRA has
    a higher rank. Saved alone it erases, on the original model. Keys and values that no LoRA lay around get one of the
    same name. Another reader, SDXL's of the pooled embedding, keeps its erasure in its base weight unless a LoRA lies
    around it: diffusers' ``convert_state_dict_to_diffusers`` has no name for one there, and its loader then drops all
    others. Factors that the LoRA's alpha stood for are multiplied into it: it has the same effect whether its alpha is
    saved or not.

    Args:
        unet: whose readers were edited with their LoRAs: by ``Erase``, by :func:`rece_lightning.erase`, or loaded from
            a checkpoint that is erased.
        original: reader → its base weight before all erasures, ``[o, i]``, such as the original U-Net's
            ``state_dict()``.
        rank: by how much the LoRA's rank may grow; unless given, by what an exact result needs.
        field: where the U-Net was found, for messages.

    Returns:
        What was added, and its error.

    Raises:
        ConfigurationError: if no LoRA is in force, or a weight is missing in ``original``; nothing was changed then.
    """
    layers = reader_layers(unet, field)
    carrier, active = carrier_of(layers, field)
    missing = [name for name in layers if name not in original]
    if missing:
        raise ConfigurationError(f"{field}: original: no {missing[0]} in it; give the U-Net's weights before the edit.")
    weights = {name: unet.get_parameter(layer.weight) for name, layer in layers.items()}
    erased = {name: weight for name, weight in weights.items() if not torch.equal(weight, original[name].to(weight))}
    left = [name for name in erased if carrier not in layers[name].loras and not name.endswith(KEYS_AND_VALUES)]
    added = carried(original, {name: weight for name, weight in erased.items() if name not in left}, rank)
    # Not the user's own object, which may be given to another model.
    config = copy.deepcopy(unet.peft_config[carrier])  # type: ignore[index, union-attr]
    unet.peft_config[carrier] = config  # type: ignore[index, union-attr, operator]
    sizes = {name: LoraSize.of(layer, carrier) for name, layer in layers.items() if carrier in layer.loras}
    for name, (down, up) in added.factors.items():
        layer = layers[name]
        erased[name].copy_(original[name])
        module = layer.module
        if carrier not in layer.loras:
            module = _around(unet, layer, name.removesuffix(".weight"), carrier, config, active)
            module.scaling[carrier] = next(iter(sizes.values())).weighted
        _widen(module, carrier, down, up)
    _write_sizes(unet, carrier, config)
    return replace(added, left=tuple(left))


def _write_sizes(unet: nn.Module, name: str, config: Any) -> None:
    """Every layer's rank and alpha by its whole name, in what a file says of the LoRA.

    The patterns that a user wrote match further layers, and which of two that match counts is a matter of their order,
    which files do not keep.
    """
    layers = {plain_path(path): layer for path, layer in unet.named_modules() if name in getattr(layer, "lora_A", ())}
    ranks = {path: layer.r[name] for path, layer in layers.items()}
    alphas = {path: layer.lora_alpha[name] for path, layer in layers.items()}
    config.rank_pattern = {path: rank for path, rank in ranks.items() if rank != config.r}
    config.alpha_pattern = {path: alpha for path, alpha in alphas.items() if alpha != config.lora_alpha}


def _around(unet: nn.Module, layer: LiveLayer, path: str, name: str, config: Any, active: list[str]) -> Any:
    """An empty LoRA of this name around a reader that had none of it, in the model and in what its file will say."""
    from peft import LoraConfig, inject_adapter_in_model

    fresh = LoraConfig(r=1, lora_alpha=1, target_modules=["layer"], use_rslora=config.use_rslora)
    frozen = [weight for weight in layer.module.parameters() if not weight.requires_grad]
    alone = nn.ModuleDict({"layer": layer.module})
    inject_adapter_in_model(fresh, alone, adapter_name=name)
    made: Any = alone["layer"]
    made.set_adapter(active)
    for weight in frozen:
        weight.requires_grad_(False)
    if not layer.loras:
        parent, _, child = layer.weight.removesuffix(".weight").rpartition(".")
        setattr(unet.get_submodule(parent), child, made)
    if isinstance(config.target_modules, str):
        config.target_modules = f"(?:{config.target_modules})|(?:{re.escape(path)})"
    else:
        config.target_modules = {*config.target_modules, path}
    return made


def _widen(module: Any, name: str, down: Tensor, up: Tensor) -> None:
    """Put further rows under a LoRA's down-projection, and columns beside its up-projection; its scale becomes 1."""
    inner, outer, size = module.lora_A[name], module.lora_B[name], LoraSize.of_module(module, name)
    for part, weight in zip((inner, outer), size.wide(inner.weight, outer.weight, down, up), strict=True):
        part.weight = nn.Parameter(weight, requires_grad=part.weight.requires_grad)
    whole = size.rank + len(down)
    inner.out_features = outer.in_features = module.r[name] = whole
    module.lora_alpha[name] = math.sqrt(whole) if module.use_rslora[name] else whole
    module.scaling[name] = size.weighted
