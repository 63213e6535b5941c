"""The trained parts as the folders that diffusers loads, in float16."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from rece_lightning.emoji.training.mmdit import build_pipeline, projected_encoder
from rece_lightning.emoji.training.unet import build_scheduler


def save_clip(clip: CLIPModel, folder: Path) -> CLIPTextModel:
    """Write what CLIP has beyond the text encoder, and return its text tower as the pipeline's text encoder."""
    text_encoder = CLIPTextModel(clip.config.text_config).to(clip.device)
    # Transformers changed whether the stand-alone encoder has the tower within it.
    getattr(text_encoder, "text_model", text_encoder).load_state_dict(clip.text_model.state_dict())
    (folder / "clip").mkdir(parents=True, exist_ok=True)
    clip.config.to_json_file(folder / "clip" / "config.json")
    state = {name: value for name, value in clip.state_dict().items() if not name.startswith("text_model.")}
    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in state.items()}
    save_file(half, folder / "clip" / "model.safetensors")
    return text_encoder.eval().requires_grad_(False)


def save_unet(
    folder: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    autoencoder: AutoencoderKL,
    unet: UNet2DConditionModel,
) -> None:
    """Write what ``StableDiffusionPipeline.from_pretrained`` reads, in float16."""
    parts = {"vae": autoencoder, "text_encoder": text_encoder, "unet": unet}
    pipeline = StableDiffusionPipeline(
        **{name: copy.deepcopy(part).to("cpu", torch.float16) for name, part in parts.items()},
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _save(pipeline, folder)


def save_mmdit(
    folder: Path,
    shared: Path,
    tokenizer: CLIPTokenizer,
    clip: CLIPModel,
    autoencoder: AutoencoderKL,
    transformer: SD3Transformer2DModel,
) -> None:
    """Write what ``StableDiffusion3Pipeline.from_pretrained`` reads, in float16.

    Weights that ``shared`` holds already, those of autoencoder and text encoder, become links to it. Configurations
    and tokenizer are files of the folder's own: an export copies them.

    Args:
        folder: beside ``shared``.
        shared: what :func:`save_unet` wrote with the same tokenizer, CLIP and autoencoder.
        tokenizer: of both CLIP places, as is the text tower of ``clip``.
        clip: whose projection of the text becomes the pooled embedding.
        autoencoder: of the latents.
        transformer: the MMDiT.
    """
    parts = transformer, autoencoder, projected_encoder(clip)
    half, vae, encoder = (copy.deepcopy(part).to("cpu", torch.float16) for part in parts)
    pipeline = build_pipeline(half, vae, encoder, tokenizer)
    # The pipeline adds it to every latent; Stable Diffusion's own has none.
    vae.register_to_config(shift_factor=0.0)
    _save(pipeline, folder)
    for part in ("text_encoder", "text_encoder_2"):
        _split(folder / part, shared / "text_encoder" / "model.safetensors")
    file = Path("vae", "diffusion_pytorch_model.safetensors")
    _link(folder / file, shared / file)


def _save(pipeline: DiffusionPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    for file in folder.glob("*/config.json"):  # where a part was read from is nobody's business
        content = json.loads(file.read_text())
        if content.pop("_name_or_path", None):
            file.write_text(json.dumps(content, indent=2) + "\n")
    # transformers opens half-precision files in half, diffusers in float32; a pipeline of both would then mix the two.
    for file in folder.glob("text_encoder*/config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float32"}, indent=2) + "\n")


def _split(part: Path, tower: Path) -> None:
    """Make a text encoder of two shards: the text tower, a link to ``tower``, and the projection."""
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    whole = part / "model.safetensors"
    stored = load_file(whole)
    projection = {name: value for name, value in stored.items() if name.startswith("text_projection.")}
    size = sum(value.nbytes for value in stored.values())
    whole.unlink()
    _link(part / first, tower)
    save_file(projection, part / second, {"format": "pt"})
    shards = dict.fromkeys(load_file(tower), first) | dict.fromkeys(projection, second)
    index = {"metadata": {"total_size": size}, "weight_map": shards}
    (part / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _link(file: Path, target: Path) -> None:
    """Put a relative link to ``target`` in the place of a file."""
    file.unlink(missing_ok=True)
    file.symlink_to(os.path.relpath(target, file.parent))
