"""How a model's pictures are made unless somebody says otherwise: steps and guidance are the model's own."""

from __future__ import annotations

import inspect
import json
from typing import Any

import diffusers

from rece_lightning.models.base import BaseModel
from rece_lightning.models.families import family_named
from rece_lightning.models.families.base import Family
from rece_lightning.models.sampling import Sampling


def default_sampling(base: BaseModel) -> Sampling:
    """Steps and guidance of a model.

    Of an embedded world those that it was measured with; of a declared family what diffusers' pipeline does when it is
    called with a prompt alone; of a U-Net of Stable Diffusion's kind diffusers' guidance (7.5, SDXL 5) with 20 steps in
    place of 50: the sooner to be seen.
    """
    family = family_named(base.family)
    if base.sampling:
        return Sampling(**base.sampling)
    if family is None:
        return Sampling(guidance_scale=5.0 if base.family == "sdxl" else 7.5)
    return Sampling(**_of_pipeline(family, _class_of(base, family)))


def _class_of(base: BaseModel, family: Family) -> str:
    """Diffusers' class of its pipeline, where its folder says so; the family's first one otherwise."""
    try:
        index = json.loads((base.configurations / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}
    name = index.get("_class_name") if isinstance(index, dict) else None
    return name if name in family.pipelines else family.pipelines[0]


def _of_pipeline(family: Family, name: str) -> dict[str, Any]:
    """What a pipeline's own call takes where nothing is given; nothing of a class that cannot be looked at."""
    kind = getattr(diffusers, name, None)
    taken = {} if kind is None else inspect.signature(kind.__call__).parameters
    given = {"steps": taken.get("num_inference_steps"), "guidance_scale": taken.get(family.guidance)}
    return {key: one.default for key, one in given.items() if one is not None and isinstance(one.default, (int, float))}
