"""Train the embedded worlds: ``python -m rece_lightning.emoji.training`` (``make world``).

Seeded and resumable: an interrupted training goes on from ``world-training/``. On two cores it takes four to eight
hours; on a GPU (``--device cuda``) raise ``--scale`` to train longer. ``--shipped`` leaves everything but the
denoisers, U-Net and MMDiT, as it ships; ``--warm-start --denoiser-steps N`` trains the shipped denoisers on where
``world-training/`` is gone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel

from rece_lightning.emoji.catalog import FOLDER, MMDIT, WEIGHTS, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import save_detector
from rece_lightning.emoji.training.autoencoder import train_autoencoder
from rece_lightning.emoji.training.clip import train_clip
from rece_lightning.emoji.training.detector import train_detector
from rece_lightning.emoji.training.folders import save_clip, save_mmdit, save_unet
from rece_lightning.emoji.training.mmdit import projected_encoder, train_mmdit
from rece_lightning.emoji.training.tokenizer import train_tokenizer
from rece_lightning.emoji.training.unet import train_unet

STEPS = {"clip": 3300, "autoencoder": 4500, "detector": 1500, "unet": 12600, "mmdit": 10400}
DENOISERS = ("unet", "mmdit")


def main() -> None:
    """Train every part in turn and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m rece_lightning.emoji.training", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every part's number of steps")
    parser.add_argument("--denoiser-steps", type=int, help="of U-Net and MMDiT alone; raise it to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("world-training"), help="checkpoints")
    where = f"where {WEIGHTS.name}/ and {MMDIT.name}/ go"
    parser.add_argument("--output", type=Path, default=FOLDER, help=where)
    parser.add_argument(
        "--shipped", action="store_true", help="train denoisers alone, with the other parts as they ship"
    )
    parser.add_argument("--warm-start", action="store_true", help="the same, on from the shipped denoisers")
    parser.add_argument("--parts", default=",".join(STEPS), help="stop after the parts named")
    arguments = parser.parse_args()
    steps = {part: round(count * arguments.scale) for part, count in STEPS.items()}
    if arguments.denoiser_steps:
        steps |= dict.fromkeys(DENOISERS, arguments.denoiser_steps)
    parts = set(arguments.parts.split(","))
    shipped = arguments.shipped or arguments.warm_start
    weights, mmdit = (arguments.output / folder.name for folder in (WEIGHTS, MMDIT))
    if "mmdit" in parts and not (shipped or "unet" in parts or (weights / "model_index.json").exists()):
        parser.error(f"--parts: the MMDiT shares parts that the U-Net's training writes to {weights}; name unet too.")
    catalog = load_catalog()
    common = {"folder": arguments.folder, "device": arguments.device, "seed": arguments.seed}
    costs = {}
    torch.manual_seed(arguments.seed)
    if shipped:
        parts &= set(DENOISERS)
        clip, tokenizer = load_clip(WEIGHTS)
        clip.to(arguments.device)
        autoencoder = AutoencoderKL.from_pretrained(WEIGHTS / "vae").to(arguments.device)
        if not weights.exists():
            shutil.copytree(WEIGHTS, weights)
    else:
        tokenizer = train_tokenizer(catalog, arguments.folder / "tokenizer")
        if parts & {"clip", *DENOISERS}:
            clip, costs["clip"] = train_clip(catalog, tokenizer, steps=steps["clip"], batch=160, **common)
        if parts & {"autoencoder", "detector", *DENOISERS}:
            trained = train_autoencoder(catalog, steps=steps["autoencoder"], batch=32, **common)
            autoencoder, costs["autoencoder"] = trained
    if "detector" in parts:
        detector, costs["detector"] = train_detector(catalog, autoencoder, steps=steps["detector"], batch=64, **common)
        save_detector(detector, weights / "detector")
    if "unet" in parts:
        first = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet") if arguments.warm_start else None
        text_encoder = save_clip(clip, weights)
        trained_parts = catalog, tokenizer, text_encoder, autoencoder
        unet, costs["unet"] = train_unet(*trained_parts, steps=steps["unet"], batch=64, initial=first, **common)
        save_unet(weights, tokenizer, text_encoder, autoencoder, unet)
    if "mmdit" in parts:
        begun = SD3Transformer2DModel.from_pretrained(MMDIT / "transformer") if arguments.warm_start else None
        trained_parts = catalog, tokenizer, projected_encoder(clip), autoencoder
        transformer, costs["mmdit"] = train_mmdit(
            *trained_parts, steps=steps["mmdit"], batch=64, initial=begun, **common
        )
        save_mmdit(mmdit, weights, tokenizer, clip, autoencoder, transformer)
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
