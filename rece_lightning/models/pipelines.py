"""Diffusers pipelines of a base model, their projections exchanged, and pictures from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.pickled import PickledWeights


def load_pipeline(base: BaseModel, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load the whole pipeline without a safety checker.

    Raises:
        BaseModelError: if diffusers cannot load it.
    """
    common: dict[str, Any] = {"local_files_only": True, "torch_dtype": dtype}
    if base.family != "sdxl":
        common |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        if base.layout == "folder":
            if isinstance(base.unet, PickledWeights):
                # Diffusers opens PyTorch's files with weights_only, but looks for their shards only when told.
                common["unet"] = UNet2DConditionModel.from_pretrained(
                    base.path / "unet", use_safetensors=False, variant=base.variant, torch_dtype=dtype
                )
            pipeline = DiffusionPipeline.from_pretrained(base.path, variant=base.variant, **common)
        else:
            pipeline = pipeline_class(base).from_single_file(
                str(base.path), config=str(base.configurations), **{**common, "safety_checker": None}
            )
    except Exception as error:  # diffusers raises many kinds; each means that the model is not whole
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {base.path} cannot be loaded as a pipeline ({reason}); copy the model anew."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_class(base: BaseModel) -> Any:
    """The diffusers class that the configurations of a base name."""
    name = json.loads((base.configurations / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    return getattr(diffusers, name)


@torch.no_grad()
def put_weights(unet: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named tensors into the U-Net's parameters, cast to their dtype and device."""
    for name, weight in weights.items():
        parameter = unet.get_parameter(name)
        parameter.copy_(weight.to(parameter))
