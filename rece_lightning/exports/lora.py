"""``lora`` and ``kohya``: the erasure as a LoRA, under the names of diffusers and PEFT, or those that WebUIs read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from rece_lightning.core.low_rank import LowRank, low_rank_of, sufficient_rank
from rece_lightning.erasure.erasure import ErasedSpace, Erasure
from rece_lightning.erasure.trained_weights import AnyErasure, TrainedWeights, baseline_of
from rece_lightning.exports.modelspec import kohya_metadata, modelspec
from rece_lightning.exports.record import Error, Loss
from rece_lightning.exports.trained_lora import Adapter, trained_adapters
from rece_lightning.files import save_tensors
from rece_lightning.models.base import BaseModel
from rece_lightning.models.families import family_named
from rece_lightning.models.original.model import sgm_names


def factored(erasure: Erasure) -> list[list[LowRank]]:
    """The factors of every text space: one that all its layers share, or one a layer."""
    return [low_rank_of(one.maps, one.gram) for one in erasure.spaces]


def adapter_rank(by_space: Iterable[list[LowRank]], rank: int | None) -> int:
    """The rank that is written: the full one, ``rank`` where that is less, and 1 for an edit that changed nothing."""
    full = max(1, *(sufficient_rank(of_space) for of_space in by_space))
    return full if rank is None else min(rank, full)


def make_adapters(erasure: AnyErasure, rank: int | None) -> tuple[list[Adapter], Loss]:
    """The adapters of all edited layers, all of one rank, and what was lost, measured on the rounded factors.

    One rank for all: readers that find different ranks have scaled some layers by the wrong alpha.

    Without ``rank`` it is the smallest one at which the truncation is below float32's rounding.
    """
    if isinstance(erasure, TrainedWeights):
        return trained_adapters(erasure, rank)
    by_space = factored(erasure)
    chosen = adapter_rank(by_space, rank)
    adapters, sums = list[Adapter](), torch.zeros(4, dtype=torch.float64)
    for one, of_space in zip(erasure.spaces, by_space, strict=True):
        factors = [tuple(factor.cpu() for factor in low_rank.factors(chosen)) for low_rank in of_space]
        for layer, name in enumerate(one.space.readers):
            up, down = factors[layer if len(factors) > 1 else 0]
            adapter, lost = _adapter(erasure, one, name, layer, up, down)
            adapters.append(adapter)
            sums += lost
    lost, beside, *sizes = sums.tolist()
    return adapters, Loss(Error.of(lost, *sizes), Error.of(beside, *sizes), chosen)


def _adapter(
    erasure: Erasure, one: ErasedSpace, name: str, layer: int, up: Tensor, down: Tensor
) -> tuple[Adapter, Tensor]:
    """One layer; ``‖W' − W M‖²``, the same against ``W M`` rounded as it was stored, ``‖W M − W‖²`` and ``‖W M‖²``."""
    reader = one.space.readers[name]
    stored = reader.part(next(erasure.source.read_projections([name]))[1])
    exact, weight = one.maps.exactly(stored, layer).cpu(), stored.cpu().double()
    narrow, wide = down.float(), (weight @ up).float()
    change, added = exact - weight, wide.double() @ narrow.double()
    rounded = exact.to(stored.dtype).double()
    sums = [(added - change), weight + added - rounded, change, exact]
    adapter = (name.removesuffix(".weight"), reader.padded(narrow), wide)
    return adapter, torch.stack([one.square().sum() for one in sums])


def write_lora(erasure: AnyErasure, path: Path, metadata: dict[str, str], rank: int | None = None) -> Loss:
    """Write ``<denoiser>.<layer>.lora_A.weight [r, i]`` and ``<denoiser>.<layer>.lora_B.weight [o, r]``.

    Such a file holds no alpha: diffusers then takes the rank, and the scale 1 is the edit itself. Without
    ``rank`` it is the full one.
    """
    adapters, loss = make_adapters(erasure, rank)
    tensors: dict[str, Tensor] = {}
    for name, down, up in adapters:
        layer = ".".join(erasure.base.home(name))
        tensors |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    save_tensors(tensors, path, {**metadata, "rece.rank": str(loss.rank), "rece.error": f"{loss.exact.change:.3g}"})
    return loss


def write_kohya(erasure: AnyErasure, path: Path, metadata: dict[str, str], rank: int | None = None) -> Loss:
    """Write ``lora_unet_<layer>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``, which is the rank.

    Layers of SD 1 and 2 carry their diffusers names with underscores; those of SDXL the names of the original
    layout, as sd-scripts trains and writes them.
    """
    adapters, loss = make_adapters(erasure, rank)
    names = kohya_names(erasure.base, [layer for layer, _, _ in adapters])
    tensors = {}
    for layer, down, up in adapters:
        tensors[f"{names[layer]}.lora_down.weight"] = down
        tensors[f"{names[layer]}.lora_up.weight"] = up
        tensors[f"{names[layer]}.alpha"] = torch.tensor(float(loss.rank or 0))
    said = {
        **metadata,
        **modelspec(erasure.base, path.stem, erasure.concepts, metadata, adapter=True),
        **kohya_metadata(erasure.base, path.stem, loss.rank or 0, baseline_of(erasure.description)),
        "rece.error": f"{loss.exact.change:.3g}",
    }
    save_tensors(tensors, path, said)
    return loss


def kohya_names(base: BaseModel, layers: Iterable[str]) -> dict[str, str]:
    """Diffusers name of a layer → its name in a kohya file.

    Raises:
        BaseModelError: if SDXL's original layout has no place for one.
    """
    family = family_named(base.family)
    if family is not None:
        return {layer: "lora_unet_" + family.original[layer].replace(".", "_") for layer in layers}
    if base.family not in ("sdxl", "sdxl-refiner"):
        return {layer: "lora_unet_" + layer.replace(".", "_") for layer in layers}
    # Of the whole model, whatever was edited: its blocks are numbered through.
    names = sgm_names(base.weights.shapes())
    return {layer: "lora_unet_" + names[f"{layer}.weight"] for layer in layers}
