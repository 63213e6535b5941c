"""The embedded world's detector: what object, style and background does a picture show?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rece_lightning.emoji.catalog import WEIGHTS
from rece_lightning.emoji.pictures import PICTURE_SIZE


@dataclass(frozen=True)
class Detection:
    """Logits of the three heads, each ``[n, classes]``."""

    objects: Tensor
    styles: Tensor
    backgrounds: Tensor


class Detector(nn.Module):
    """Seven convolutions and three linear heads on 32×32 pictures.

    Trained on rendered and on autoencoded pictures, so that the autoencoder's traces do not count as
    evidence. It also knows the objects that the U-Net was never shown.
    """

    def __init__(self, objects: int, styles: int, backgrounds: int, width: int = 48) -> None:
        super().__init__()
        channels = [3, width, width, 2 * width, 2 * width, 3 * width, 3 * width, 3 * width]
        strides = [1, 1, 2, 1, 2, 1, 2]
        layers: list[nn.Module] = []
        for before, after, stride in zip(channels[:-1], channels[1:], strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        # Quarters of the picture are place enough, and keep the weights small.
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.shared = nn.Linear(channels[-1] * 4, 192)
        self.objects = nn.Linear(192, objects)
        self.styles = nn.Linear(192, styles)
        self.backgrounds = nn.Linear(192, backgrounds)

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures ``[n, 3, h, w]`` in [−1, 1] → features ``[n, 192]``."""
        if pictures.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
            pictures = F.interpolate(pictures, (PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", antialias=True)
        return F.silu(self.shared(self.pool(self.body(pictures)).flatten(1)))

    def forward(self, pictures: Tensor) -> Detection:
        """Pictures ``[n, 3, h, w]`` in [−1, 1] → the three heads' logits."""
        features = self.features(pictures)
        return Detection(self.objects(features), self.styles(features), self.backgrounds(features))


def save_detector(detector: Detector, folder: Path) -> None:
    """Write ``model.safetensors``, in float16, and ``config.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {head: getattr(detector, head).out_features for head in ("objects", "styles", "backgrounds")}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous() for name, value in detector.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")


def load_detector(folder: Path = WEIGHTS / "detector") -> Detector:
    """Load the shipped detector in float32, in evaluation mode."""
    detector = Detector(**json.loads((folder / "config.json").read_text()))
    state = load_file(folder / "model.safetensors")
    detector.load_state_dict({name: value.float() for name, value in state.items()})
    return detector.eval().requires_grad_(False)
