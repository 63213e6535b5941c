"""``lora``: a LoRA under the names that diffusers and PEFT write."""

from __future__ import annotations

from pathlib import Path

from rece_lightning.exports.adapters import make_adapters
from rece_lightning.exports.erasure import Erasure
from rece_lightning.exports.record import Loss
from rece_lightning.files import save_tensors


def write_lora(erasure: Erasure, path: Path, metadata: dict[str, str], rank: int | None = None) -> Loss:
    """Write ``unet.<layer>.lora_A.weight [r, d]`` and ``unet.<layer>.lora_B.weight [o, r]``.

    Such a file holds no alpha: diffusers then takes the rank, and the scale 1 is the edit itself.

    Args:
        erasure: to write.
        path: of the file.
        metadata: of the file.
        rank: R; without it the full one.
    """
    adapters, loss = make_adapters(erasure, rank)
    tensors = {}
    for adapter in adapters:
        tensors[f"unet.{adapter.name}.lora_A.weight"] = adapter.down
        tensors[f"unet.{adapter.name}.lora_B.weight"] = adapter.up
    save_tensors(tensors, path, {**metadata, "rece.rank": str(loss.rank), "rece.error": f"{loss.change:.3g}"})
    return loss
