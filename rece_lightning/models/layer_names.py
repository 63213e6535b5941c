"""The names that LoRAs give to a model's layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from rece_lightning.models.original.unet import PREFIX, unet_names

TEXT_PREFIXES = (("text_encoder.", "lora_te_", "lora_te1_"), ("text_encoder_2.", "lora_te2_"))


def plain_layer(layer: str) -> str:
    """A layer's name without what PEFT puts before it, and as newer diffusers writes it."""
    plain = layer.removeprefix("base_model.model.").replace(".processor.", ".")
    return re.sub(r"\.to_out$", ".to_out.0", plain) if plain != layer else plain


def layers_of(unet: nn.Module, text_encoders: Sequence[nn.Module], family: str) -> dict[str, nn.Parameter]:
    """Every name that a LoRA may give to a layer → the layer's weight."""
    places: dict[str, nn.Parameter] = {}
    matrices = {
        name.removesuffix(".weight"): value for name, value in unet.named_parameters()
        if name.endswith(".weight") and value.ndim > 1
    }  # fmt: skip
    for name, value in matrices.items():
        places[name] = places[f"unet.{name}"] = places[f"lora_unet_{name.replace('.', '_')}"] = value
    if family == "sdxl":
        for name, original in unet_names([name for name, _ in unet.named_parameters()]).items():
            layer = name.removesuffix(".weight")
            if layer in matrices:
                inner = original.removeprefix(PREFIX).removesuffix(".weight").replace(".", "_")
                places[f"lora_unet_{inner}"] = matrices[layer]
    for encoder, (dotted, *joined) in zip(text_encoders, TEXT_PREFIXES, strict=False):
        for name, value in encoder.named_parameters():
            if name.endswith(".weight") and value.ndim > 1:
                # Transformers changed whether names begin with this.
                inner = name.removesuffix(".weight").removeprefix("text_model.")
                for full in (inner, f"text_model.{inner}"):
                    places[dotted + full] = value
                    places |= {prefix + full.replace(".", "_"): value for prefix in joined}
    return places
