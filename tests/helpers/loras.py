"""LoRAs around what reads the text of small models, and what the layers compute with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def readers(unet: nn.Module) -> dict[str, nn.Module]:
    """Keys and values of the cross-attention, by their diffusers name, whatever lies around them."""
    return {
        path.removeprefix("base_model.model."): module
        for path, module in unet.named_modules()
        if path.endswith(("attn2.to_k", "attn2.to_v"))
    }


@torch.no_grad()
def computed(unet: nn.Module) -> dict[str, Tensor]:
    """What every reader multiplies with, asked of the layer itself."""
    found = {}
    for name, layer in readers(unet).items():
        width, dtype = layer.in_features, next(layer.parameters()).dtype
        nothing = torch.zeros(1, width, dtype=dtype)  # type: ignore[arg-type]
        found[name] = (layer(torch.eye(width, dtype=dtype)) - layer(nothing)).mT  # type: ignore[call-overload]
    return found


def fill(unet: nn.Module, seed: int = 3) -> None:
    """Factors as if trained: a fresh LoRA's up-projection is zero."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(unet.parameters()).dtype
    for name, weight in unet.named_parameters():
        if "lora_" in name:
            weight.data = (torch.randn(weight.shape, generator=generator, dtype=torch.float64) / 4).to(dtype)
