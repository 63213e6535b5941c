"""Train the embedded world: ``python -m rece_lightning.emoji.training`` (``make world``).

Seeded and resumable: an interrupted training goes on from ``world-training/``. On two cores it takes two to six hours;
on a GPU (``--device cuda``) raise ``--scale`` to train longer. ``--warm-start --unet-steps N`` trains the shipped U-Net
on where ``world-training/`` is gone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import save_detector
from rece_lightning.emoji.training.autoencoder import train_autoencoder
from rece_lightning.emoji.training.clip import train_clip
from rece_lightning.emoji.training.detector import train_detector
from rece_lightning.emoji.training.pipeline import save_clip, save_pipeline
from rece_lightning.emoji.training.tokenizer import train_tokenizer
from rece_lightning.emoji.training.unet import train_unet

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
    parser.add_argument(
        "--warm-start",
        action="store_true",
        help="train the U-Net on from the shipped weights, with the other parts as they ship",
    )
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
            autoencoder, costs["autoencoder"] = train_autoencoder(
                catalog, steps=steps["autoencoder"], batch=32, **common
            )
    if "detector" in parts:
        detector, costs["detector"] = train_detector(catalog, autoencoder, steps=steps["detector"], batch=64, **common)
        save_detector(detector, arguments.output / "detector")
    if "unet" in parts:
        text_encoder = save_clip(clip, arguments.output)
        unet, costs["unet"] = train_unet(
            catalog,
            tokenizer,
            text_encoder,
            autoencoder,
            steps=steps["unet"],
            batch=64,
            copies=8,
            initial=initial,
            **common,
        )
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


if __name__ == "__main__":
    main()
