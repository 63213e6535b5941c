"""The keys of a file's metadata by which WebUIs and their tools tell what it is: ``modelspec.…`` and ``ss_…``.

The first are Stability AI's Model Metadata Standard 1.0 (https://github.com/Stability-AI/ModelSpec), the second those
that kohya's sd-scripts write into what they train. Only what is true of a file that nobody trained is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import BaseModelError
from rece_lightning.erasure.trained_weights import baseline_of
from rece_lightning.models.base import BaseModel
from rece_lightning.models.part_configs import read_json

VERSION = "1.0.0"
"""Of the standard."""
ORIGINAL_CODE, DIFFUSERS = "https://github.com/Stability-AI/generative-models", "diffusers"
"""Whose names the tensors have, as sd-scripts say it."""
MOST = 20
"""Concepts that a description names."""
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""diffusers' word → the standard's."""
PLAIN, INPAINTING, DEPTH = 4, 9, 5
"""Channels that a U-Net reads."""
ARCHITECTURES = {
    ("sd1", PLAIN): "stable-diffusion-v1",
    ("sd1", INPAINTING): "stable-diffusion-v1-inpainting",
    ("sd2", PLAIN): "stable-diffusion-v2-512",
    ("sd2", INPAINTING): "stable-diffusion-v2-inpainting",
    ("sd2", DEPTH): "stable-diffusion-v2-depth",
    ("sdxl", PLAIN): "stable-diffusion-xl-v1-base",
    ("sdxl-refiner", PLAIN): "stable-diffusion-xl-v1-refiner",
}
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}
"""What sd-scripts call the base of a LoRA."""
VELOCITY = {"stable-diffusion-v2-512": "stable-diffusion-v2-768-v"}
"""Another kind where the model predicts v, which asks for other code."""


def modelspec(
    base: BaseModel, title: str, concepts: Sequence[str], metadata: Mapping[str, str], *, adapter: bool = False
) -> dict[str, str]:
    """``modelspec.…`` of a LoRA or of a whole checkpoint; empty for a model that the standard does not name.

    A LoRA of a model with more inputs fits the plain one, whose name readers look for.

    Args:
        base: the model.
        title: of the file.
        concepts: that were erased.
        metadata: the file's other keys, its date among them.
        adapter: it is a LoRA.
    """
    unet = _configuration(base, "unet/config.json")
    channels = PLAIN if adapter else unet.get("in_channels", PLAIN)
    kind = ARCHITECTURES.get((base.family, channels))
    if kind is None:
        return {}
    prediction = PREDICTIONS.get(_prediction(base))
    kind = VELOCITY.get(kind, kind) if prediction == "v" else kind
    side = _pixels(unet, _configuration(base, "vae/config.json"))
    erased = ", ".join(concepts[:MOST]) + (" …" if len(concepts) > MOST else "")
    baseline = baseline_of({"method": json.loads(metadata.get("rece.method", "{}"))})
    how = "in closed form (RECE); nothing was trained" if baseline is None else f"by training ({baseline})"
    said = {
        "sai_model_spec": VERSION,
        "architecture": f"{kind}/lora" if adapter else kind,
        # sd-scripts name the layers of SDXL's LoRAs after the original code.
        "implementation": DIFFUSERS if adapter and not base.family.startswith("sdxl") else ORIGINAL_CODE,
        "title": title,
        "resolution": f"{side}x{side}" if side else None,
        "prediction_type": prediction,
        "date": metadata.get("rece.date"),
        "description": f"Erases {erased} {how}." if erased else None,
    }
    return {f"modelspec.{key}": text for key, text in said.items() if text is not None}


def kohya_metadata(base: BaseModel, name: str, rank: int, baseline: str | None = None) -> dict[str, str]:
    """``ss_…`` of a LoRA.

    Args:
        base: the model.
        name: of the file, without its ending.
        rank: of all its layers.
        baseline: that trained it; none for an edit.
    """
    how = "in closed form by rece-lightning; not trained" if baseline is None else f"by training ({baseline})"
    version = VERSIONS.get(base.family, base.family)
    # sd-scripts know one version of SDXL, whatever it predicts.
    if base.family in ("sd1", "sd2") and _prediction(base) == "v_prediction":
        version += "_v"
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_base_model_version": version,
        "ss_v2": str(base.family == "sd2"),
        "ss_v_parameterization": str(_prediction(base) == "v_prediction"),
        "ss_sd_model_name": Path(base.published).name,
        "ss_output_name": name,
        "ss_training_comment": f"concept erasure {how}",
    }


def _prediction(base: BaseModel) -> str:
    """What the model predicts, in diffusers' word."""
    return str(_configuration(base, "scheduler/scheduler_config.json").get("prediction_type", "epsilon"))


def _configuration(base: BaseModel, file: str) -> Mapping[str, Any]:
    """A configuration of a part, empty where there is none."""
    try:
        return read_json(base.configurations / file)
    except BaseModelError:
        return {}


def _pixels(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    """Side of the pictures that the model was made for, where its configurations say so."""
    side, widths = unet.get("sample_size"), vae.get("block_out_channels")
    if not isinstance(side, int) or not isinstance(widths, list) or not widths:
        return None
    return side * 2 ** (len(widths) - 1)
