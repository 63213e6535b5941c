"""Small random models in the real structure of SD 1.x, 2.x and XL, as diffusers modules, folders and original files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from rece_lightning.models.layouts import LAYOUTS, write_vocabulary
from rece_lightning.models.original.model import to_original
from rece_lightning.models.weights import ModuleWeights

KINDS = ("sd1", "sd1-inpainting", "sd2", "sdxl")
SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1}
SECOND_TEXT = {"hidden_size": 64, "intermediate_size": 80, "num_attention_heads": 1, "projection_dim": 64}


def small_configs(kind: str) -> dict[str, dict[str, Any]]:
    """A shipped layout's configurations with small numbers; heads, groups and blocks follow the same rules."""
    configs = LAYOUTS[kind].configs()
    two = kind.startswith("sdxl")
    levels = len(configs["unet"]["block_out_channels"])
    channels = [32, 64, 64, 96][:levels]
    configs["unet"] |= {
        "sample_size": 8,
        "block_out_channels": channels,
        "cross_attention_dim": 96 if two else 32,
        "attention_head_dim": 8 if kind.startswith("sd1") else [max(1, width // 64) for width in channels],
    }
    configs["vae"] |= {"block_out_channels": [32, 32, 64, 64], "sample_size": 64}
    configs["text_encoder"] |= SMALL_TEXT
    if two:
        configs["unet"] |= {"transformer_layers_per_block": [1, 2, 3], "projection_class_embeddings_input_dim": 1600}
        configs["text_encoder_2"] |= {**SMALL_TEXT, **SECOND_TEXT}
    return configs


def build_parts(configs: dict[str, dict[str, Any]], seed: int = 0) -> dict[str, nn.Module]:
    """The parts with weights, random all of them. Within ``torch.device("meta")`` they take no memory."""
    torch.manual_seed(seed)
    parts: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_config(configs["unet"]),
        "vae": AutoencoderKL.from_config(configs["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
    }
    if "text_encoder_2" in configs:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"]))
    with torch.no_grad():
        # Fresh norms are all alike: two of them exchanged would go unseen.
        for parameter in (parameter for module in parts.values() for parameter in module.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return parts


@cache
def small_parts(kind: str) -> dict[str, nn.Module]:
    """The small model with seed 0, made once: not to be changed."""
    return build_parts(small_configs(kind))


def original_tensors(parts: dict[str, nn.Module], kind: str) -> dict[str, Tensor]:
    """The parts' tensors under original names."""
    weights = {part: ModuleWeights(module) for part, module in parts.items()}
    return dict(to_original(weights, LAYOUTS[kind].family))


def make_original(
    file: Path, kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, extra: dict[str, Tensor] | None = None
) -> Path:
    """Write a small random checkpoint in the original layout; ``.ckpt`` is PyTorch's format."""
    tensors = original_tensors(build_parts(small_configs(kind), seed), kind)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()} | (extra or {})
    if file.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 1}, file)
    else:
        save_file(tensors, file)
    return file


def make_folder(folder: Path, kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write the same model as :func:`make_original` as a diffusers folder."""
    configs = small_configs(kind)
    for part, module in build_parts(configs, seed).items():
        (module if dtype == torch.float32 else module.to(dtype)).save_pretrained(folder / part)
    for part in [part for part in configs if part.startswith("tokenizer")]:
        (folder / part).mkdir()
        (folder / part / "tokenizer_config.json").write_text(json.dumps(configs[part]))
        write_vocabulary(folder / part)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    # Diffusers writes its version into every model and looks for it in inpainting ones.
    index = {**configs["model_index"], "_diffusers_version": diffusers.__version__}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
