"""What each format costs in bytes and error, found without writing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rece_lightning.core.embedding_map import numbers_of
from rece_lightning.core.low_rank import error_curve
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.exports.fitting import formats_of
from rece_lightning.exports.lora import adapter_rank, factored
from rece_lightning.exports.pipeline import WEIGHTS, loaded_files
from rece_lightning.models.base import BaseModel

RANKS = (1, 4, 16, 64)
LOADED = ("unet", "vae", "text_encoder", "text_encoder_2")
"""The parts whose weights a single file holds."""


@dataclass(frozen=True)
class Cost:
    """One way to write the erasure down."""

    format: str
    bytes: int
    """Of the tensors; the headers and configurations add a few kilobytes."""
    error: float
    """``‖ΔW' − ΔW‖ / ‖ΔW‖`` before rounding."""
    rank: int | None = None


def export_costs(erasure: Erasure, ranks: Sequence[int] = RANKS) -> list[Cost]:
    """The formats that fit the erasure; LoRAs at some ranks and at the full one, from one decomposition."""
    fits = formats_of(erasure)
    shapes = [erasure.base.projections[name] for name in erasure.names]
    _, weight = next(erasure.original())
    costs = [Cost("delta", sum(math.prod(shape) for shape in shapes) * weight.element_size(), 0.0)]
    if "pipeline" in fits:
        costs.append(Cost("pipeline", model_bytes(erasure.base), 0.0))
    if "single-file" in fits:
        costs.append(Cost("single-file", model_bytes(erasure.base, LOADED), 0.0))
    if "lora" in fits:
        by_space = factored(erasure)
        errors, full = error_curve([one for of_space in by_space for one in of_space]), adapter_rank(by_space, None)
        for rank in [*(rank for rank in sorted(ranks) if rank < full), full]:
            size = 4 * rank * sum(sum(shape) for shape in shapes)
            costs.append(Cost("lora", size, float(errors[min(rank, len(errors) - 1)]), rank))
            if "kohya" in fits:
                costs.append(Cost("kohya", size + 4 * len(shapes), costs[-1].error, rank))
    if "map" in fits:
        costs.append(Cost("map", 8 * sum(numbers_of(one.maps) for one in erasure.spaces), 0.0))
    return costs


def model_bytes(base: BaseModel, parts: Sequence[str] | None = None) -> int:
    """Bytes of a base model's weight files, of all its parts or of some; a checkpoint file counts whole."""
    if base.layout != "folder":
        return base.path.stat().st_size
    total = 0
    for folder in base.path.iterdir():
        if folder.is_dir() and (parts is None or folder.name in parts):
            files = [file for file in folder.iterdir() if file.is_file() and WEIGHTS.search(file.name)]
            total += sum(file.stat().st_size for file in loaded_files(files, base.variant))
    return total
