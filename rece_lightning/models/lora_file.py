"""What the file of a LoRA holds: which tensors are whose factors, and by how much a layer counts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.original.unet import PREFIX, unet_names
from rece_lightning.models.weights import Weights, plain_name

PEFT_FILE = "adapter_model"
"""What PEFT calls the file in a folder, beside ``adapter_config.json``."""
# PEFT and newer diffusers; older diffusers; kohya.
FACTOR = re.compile(
    r"^(?P<layer>.+?)(?:\.lora_(?P<peft>[AB])(?:\.[\w-]+)?|[._]lora(?:_linear_layer)?\.(?P<old>down|up)"
    r"|\.lora_(?P<kohya>down|up))\.weight$"
)
ALPHA = re.compile(r"^(?P<layer>.+)\.(?:network_)?alpha$")


@dataclass(frozen=True)
class Factors:
    """One layer of a LoRA: ``W + scale · up @ down``. Names of tensors in the file."""

    down: str
    up: str
    scale: float


def factors_of(file: Path, weights: Weights) -> dict[str, Factors]:
    """The layers of a LoRA, each with both factors and its scale.

    Raises:
        BaseModelError: for a tensor that is no part of a LoRA, and for half a layer.
    """
    factors: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    for name in weights.shapes():
        matched, alpha = FACTOR.match(name), ALPHA.match(name)
        if matched:
            side = {"A": "down", "B": "up"}.get(matched["peft"], matched["old"] or matched["kohya"])
            factors.setdefault(matched["layer"], {})[side] = name
        elif alpha:
            alphas[alpha["layer"]] = name
        else:
            raise BaseModelError(
                f"model.adapter: {file}: {name} is no part of a LoRA that is known; fuse it elsewhere."
            )
    settings = written_settings(file)
    layers = {}
    for layer, sides in factors.items():
        if len(sides) != 2:
            raise BaseModelError(f"model.adapter: {file}: {layer} has only {next(iter(sides))}; fetch the file again.")
        shapes = [weights.shapes()[sides[side]] for side in ("down", "up")]
        rank = shapes[0][0]
        if len(shapes[1]) < 2 or shapes[1][1] != rank or math.prod(shapes[1][2:]) != 1:
            raise BaseModelError(f"model.adapter: {file}: factors of {layer}: {shapes} do not fit; fetch it again.")
        scale = scale_of(layer, rank, settings)
        if layer in alphas:
            scale = float(next(weights.read([alphas[layer]]))[1]) / rank
        layers[layer] = Factors(sides["down"], sides["up"], scale)
    return layers


def written_settings(file: Path) -> dict[str, Any]:
    """What PEFT's ``adapter_config.json`` or the metadata of a diffusers file says of ranks and alphas.

    Raises:
        BaseModelError: for DoRA, and for what cannot be read.
    """
    config = file.parent / "adapter_config.json"
    settings: Any = {}
    try:
        if file.stem == PEFT_FILE and config.is_file():
            settings = json.loads(config.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata() or {}
            # Its keys carry the part's name.
            written = json.loads(metadata.get("lora_adapter_metadata", "{}"))
            settings = {key.split(".", 1)[-1]: value for key, value in written.items()}
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"model.adapter: {file}: its settings cannot be read ({error}); fetch it again."
        ) from error
    if not isinstance(settings, dict):
        raise BaseModelError(f"model.adapter: {config} holds no settings; fetch it again.")
    if settings.get("use_dora"):
        raise BaseModelError(f"model.adapter: {file} is a DoRA, which is not read; fuse it elsewhere.")
    return settings


def scale_of(layer: str, rank: int, settings: Mapping[str, Any]) -> float:
    """α/r, and α/√r where the file asks for it; 1 where nothing is said."""
    patterns = settings.get("alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if re.search(rf"(^|\.)({key})$", layer)), None)
    alpha = settings.get("lora_alpha") if alpha is None else alpha
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


TEXT_PREFIXES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("text_encoder.",), ("lora_te_", "lora_te1_")),
    (("text_encoder_2.",), ("lora_te2_",)),
)
"""Before a text encoder's layers: with dots, as diffusers writes them; with underscores, as kohya does."""
ORIGINAL_PREFIXES = {
    "sd1": (("clip_l.transformer.", "cond_stage_model.transformer."),),
    "sd2": (("clip_h.transformer.",),),
    "sdxl": (("clip_l.transformer.", "conditioner.embedders.0.transformer."), ("clip_g.transformer.",)),
}
"""The same in ComfyUI, alone or after ``text_encoders.``, and in the original layout, whose OpenCLIP joins layers."""


def plain_layer(layer: str) -> str:
    """A layer's name without what PEFT puts before it, and as newer diffusers writes it."""
    plain = layer.removeprefix("base_model.model.").replace(".processor.", ".")
    return re.sub(r"\.to_out$", ".to_out.0", plain) if plain != layer else plain


def layers_of(unet: nn.Module, text_encoders: Sequence[nn.Module], family: str) -> dict[str, nn.Parameter]:
    """Every name that a LoRA may give to a layer → the layer's weight."""
    places: dict[str, nn.Parameter] = {}
    matrices = _matrices(unet)
    for name, value in matrices.items():
        places[name] = places[f"unet.{name}"] = places[f"lora_unet_{name.replace('.', '_')}"] = value
    for layer, original in _original_layers(unet).items():
        places[f"lora_unet_{original.replace('.', '_')}"] = matrices[layer]
        places |= dict.fromkeys((original, f"diffusion_model.{original}", f"{PREFIX}{original}"), matrices[layer])
    for number, (encoder, (dotted, joined)) in enumerate(zip(text_encoders, TEXT_PREFIXES, strict=False)):
        others = ORIGINAL_PREFIXES.get(family, ())[number : number + 1]
        dotted = (
            *dotted,
            *(f"{before}{other}" for one in others for other in one for before in ("", "text_encoders.")),
        )
        for name, value in _matrices(encoder).items():
            for full in (plain_name(name), f"text_model.{plain_name(name)}"):
                places |= {prefix + full: value for prefix in dotted}
                places |= {prefix + full.replace(".", "_"): value for prefix in joined}
    return places


def _original_layers(unet: nn.Module) -> dict[str, str]:
    """Layer → its name in the original layout, without what all begin with; empty where that has no place for one."""
    matrices = _matrices(unet)
    try:
        names = unet_names([name for name, _ in unet.named_parameters()])
    except BaseModelError:
        return {}
    layers = {name.removesuffix(".weight"): original for name, original in names.items() if name.endswith(".weight")}
    return {
        layer: original.removeprefix(PREFIX).removesuffix(".weight")
        for layer, original in layers.items()
        if layer in matrices
    }


def _matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """Layer → its weight, of every layer that multiplies."""
    weights = {name: value for name, value in module.named_parameters() if value.ndim > 1}
    return {name.removesuffix(".weight"): value for name, value in weights.items() if name.endswith(".weight")}
