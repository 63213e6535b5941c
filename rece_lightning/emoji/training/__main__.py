"""Train the embedded world: ``python -m rece_lightning.emoji.training`` (``make world``).

Seeded and resumable: an interrupted training goes on from ``world-training/``. On two cores it takes two to six hours;
on a GPU (``--device cuda``) raise ``--scale`` to train longer. ``--warm-start --unet-steps N`` trains the shipped U-Net
on where ``world-training/`` is gone.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import save_detector
from rece_lightning.emoji.training.autoencoder import train_autoencoder
from rece_lightning.emoji.training.clip import train_clip
from rece_lightning.emoji.training.detector import train_detector
from rece_lightning.emoji.training.tokenizer import train_tokenizer
from rece_lightning.emoji.training.unet import build_scheduler, train_unet

STEPS = {"clip": 3300, "autoencoder": 4500, "detector": 1500, "unet": 12600}


def main() -> None:
    """Train every part in turn and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m rece_lightning.emoji.training", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every part's number of steps")
    parser.add_argument("--unet-steps", type=int, help="of the U-Net alone; raise it to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("world-training"), help="checkpoints")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="where the weights go")
    warm = "train the U-Net on from the shipped weights, with the other parts as they ship"
    parser.add_argument("--warm-start", action="store_true", help=warm)
    parser.add_argument("--parts", default="clip,autoencoder,detector,unet", help="stop after the parts named")
    arguments = parser.parse_args()
    steps = {part: round(count * arguments.scale) for part, count in STEPS.items()}
    if arguments.unet_steps:
        steps["unet"] = arguments.unet_steps
    parts = arguments.parts.split(",")
    catalog = load_catalog()
    common = {"folder": arguments.folder, "device": arguments.device, "seed": arguments.seed}
    costs = {}
    torch.manual_seed(arguments.seed)
    initial = None
    if arguments.warm_start:
        parts = ["unet"]
        clip, tokenizer = load_clip(WEIGHTS)
        clip.to(arguments.device)
        autoencoder = AutoencoderKL.from_pretrained(WEIGHTS / "vae").to(arguments.device)
        initial = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet").to(arguments.device)
    else:
        tokenizer = train_tokenizer(catalog, arguments.folder / "tokenizer")
        if "clip" in parts or "unet" in parts:
            clip, costs["clip"] = train_clip(catalog, tokenizer, steps=steps["clip"], batch=160, **common)
        if set(parts) & {"autoencoder", "detector", "unet"}:
            trained = train_autoencoder(catalog, steps=steps["autoencoder"], batch=32, **common)
            autoencoder, costs["autoencoder"] = trained
    if "detector" in parts:
        detector, costs["detector"] = train_detector(catalog, autoencoder, steps=steps["detector"], batch=64, **common)
        save_detector(detector, arguments.output / "detector")
    if "unet" in parts:
        text_encoder = save_clip(clip, arguments.output)
        trained_parts = catalog, tokenizer, text_encoder, autoencoder
        unet, costs["unet"] = train_unet(*trained_parts, steps=steps["unet"], batch=64, initial=initial, **common)
        save_pipeline(arguments.output, tokenizer, text_encoder, autoencoder, unet)
    # Parts may be trained in several calls, on several threads each: every part keeps its own line.
    record = arguments.folder / "cost.json"
    cost = json.loads(record.read_text()) if record.exists() else {}
    cost |= {
        part: {"steps": steps[part], "seconds": round(seconds), "device": arguments.device}
        for part, seconds in costs.items()
    }
    record.write_text(json.dumps(cost, indent=2) + "\n")
    print(json.dumps(cost))


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


def save_pipeline(
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
    pipeline.save_pretrained(folder)
    # transformers opens half-precision files in half, diffusers in float32; a pipeline of both would then mix the two.
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float32"}, indent=2) + "\n")


if __name__ == "__main__":
    main()
