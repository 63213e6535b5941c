"""Write the trained parts in the layout of ``StableDiffusionPipeline``, in float16."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from rece_lightning.emoji.clip import save_clip_tower
from rece_lightning.emoji.training.unet import build_scheduler


def as_float32_config(path: Path) -> None:
    """Say float32 in a transformers configuration.

    transformers opens half-precision files in half, diffusers in float32; a pipeline of both would then
    mix the two.
    """
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n")


def save_clip(clip: CLIPModel, folder: Path) -> CLIPTextModel:
    """Write what CLIP has beyond the text encoder, and return its text tower as the pipeline's text encoder."""
    text_encoder = CLIPTextModel(clip.config.text_config).to(clip.device)
    text_encoder.load_state_dict(_text_state(clip, text_encoder))
    save_clip_tower(clip, folder / "clip")
    return text_encoder.eval().requires_grad_(False)


def _text_state(clip: CLIPModel, text_encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The text tower's tensors under the names that the stand-alone text model has in this transformers."""
    state = {name: value for name, value in clip.state_dict().items() if name.startswith("text_model.")}
    if not any(name.startswith("text_model.") for name in text_encoder.state_dict()):
        state = {name.removeprefix("text_model."): value for name, value in state.items()}
    return state


def save_pipeline(
    folder: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    autoencoder: AutoencoderKL,
    unet: UNet2DConditionModel,
) -> None:
    """Write the pipeline's folder: what ``StableDiffusionPipeline.from_pretrained`` reads."""
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(autoencoder).to("cpu", torch.float16),
        text_encoder=copy.deepcopy(text_encoder).to("cpu", torch.float16),
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet).to("cpu", torch.float16),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    as_float32_config(folder / "text_encoder" / "config.json")
