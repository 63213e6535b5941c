"""``kohya``: a LoRA under the names and with the alphas that WebUIs read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from rece_lightning.exports.adapters import make_adapters
from rece_lightning.exports.erasure import Erasure
from rece_lightning.exports.record import Loss
from rece_lightning.files import save_tensors
from rece_lightning.models.base import BaseModel
from rece_lightning.models.original import sgm_names


def write_kohya(erasure: Erasure, path: Path, metadata: dict[str, str], rank: int | None = None) -> Loss:
    """Write ``lora_unet_<layer>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``, which is the rank.

    Layers of SD 1 and 2 carry their diffusers names with underscores; those of SDXL the names of the original
    layout, as sd-scripts trains and writes them.

    Args:
        erasure: to write.
        path: of the file.
        metadata: of the file.
        rank: R; without it the full one.
    """
    adapters, loss = make_adapters(erasure, rank)
    names = kohya_names(erasure.base, [adapter.name for adapter in adapters])
    tensors = {}
    for adapter in adapters:
        name = names[adapter.name]
        tensors[f"{name}.lora_down.weight"] = adapter.down
        tensors[f"{name}.lora_up.weight"] = adapter.up
        tensors[f"{name}.alpha"] = torch.tensor(float(loss.rank or 0))
    said = {**metadata, **kohya_metadata(erasure.base, path.stem, loss.rank or 0), "rece.error": f"{loss.change:.3g}"}
    save_tensors(tensors, path, said)
    return loss


def kohya_names(base: BaseModel, layers: Iterable[str]) -> dict[str, str]:
    """Diffusers name of a layer → its name in a kohya file.

    Raises:
        BaseModelError: if SDXL's original layout has no place for one.
    """
    if base.family != "sdxl":
        return {layer: "lora_unet_" + layer.replace(".", "_") for layer in layers}
    # Of the whole model, whatever was edited: its blocks are numbered through.
    names = sgm_names(base.unet.shapes())
    return {layer: "lora_unet_" + names[f"{layer}.weight"] for layer in layers}


def kohya_metadata(base: BaseModel, name: str, rank: int) -> dict[str, str]:
    """The keys by which WebUIs tell what a LoRA fits; only what is true of a file that nobody trained."""
    version = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[base.family]
    if base.family == "sd2" and _predicts_velocity(base):
        version += "_v"
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_base_model_version": version,
        "ss_v2": str(base.family == "sd2"),
        "ss_sd_model_name": Path(base.name).name,
        "ss_output_name": name,
        "ss_training_comment": "concept erasure in closed form by rece-lightning; not trained",
    }


def _predicts_velocity(base: BaseModel) -> bool:
    file = base.configurations / "scheduler" / "scheduler_config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("prediction_type") == "v_prediction"
    except (OSError, ValueError):
        return False
