"""``delta``: the edited projections alone, under their diffusers names."""

from __future__ import annotations

from pathlib import Path

from rece_lightning.erasure.erasure import Erasure
from rece_lightning.exports.record import Loss
from rece_lightning.files import save_tensors


def write_delta(erasure: Erasure, path: Path, metadata: dict[str, str]) -> Loss:
    """Write the projections in the base model's dtype.

    ``unet.load_state_dict(safetensors.torch.load_file(path), strict=False)`` puts them into the base model's U-Net.
    """
    save_tensors(dict(erasure.weights()), path, metadata)
    return Loss()
