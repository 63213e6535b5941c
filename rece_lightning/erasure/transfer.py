"""One erasure, many models: the erasure of a checkpoint put on another model with the same text encoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.module import RECE

SAME_TO_ROUNDING = 0.02
"""Relative difference of an embedding that half precision explains; another encoder's is near 1."""
FIGURES = ("regeneration_residual", "regeneration_residual_unedited", "preservation_drift")


@dataclass(frozen=True)
class Transfer:
    """An erasure on the model it was put on."""

    erasure: Erasure
    before: dict[str, float]
    """Figures on the model that the checkpoint was made from: see ``core/diagnostics.py``."""
    after: dict[str, float]
    """The same on this one."""
    encoder_difference: float
    """Relative difference of one prompt's embedding; 0 where the encoders have the same bytes."""


def transfer(content: Mapping[str, Any], other: Mapping[str, Any], *, reuse_map: bool = False) -> Transfer:
    """Put the erasure of a checkpoint on another model.

    The prompts' embeddings are in the checkpoint. What depends on the weights (``G``, and so every derivation) is
    computed anew, unless the map is to be reused as it is.

    Args:
        content: of a checkpoint that RECE wrote.
        other: the model: any of ``pretrained``, ``revision``, ``variant``, ``config`` of :class:`RECE`.
        reuse_map: take ``M`` from the checkpoint.

    Raises:
        BaseModelError: if the model cannot be found, or has another text encoder.
        ConfigurationError: if the map is to be reused and the technique has one a layer.
    """
    state, settings = content["rece"], content["hyper_parameters"]
    if reuse_map and settings["technique"] == "tensor":
        raise ConfigurationError(
            "--reuse-map: the technique 'tensor' has one map a layer, made for the layers of its own model; "
            "leave --reuse-map out."
        )
    fresh = dict.fromkeys(("pretrained", "revision", "variant", "config"))
    module = RECE(**{**own_settings(settings), **fresh, **other})
    difference = encoder_difference(module, state)
    module.adopt(state, reuse_map=reuse_map)
    before, after = (
        {key: row[key] for key in FIGURES if key in row} for row in (state["history"][-1], module.history[-1])
    )
    erasure = module.erasure()
    how = "reused" if reuse_map else "recomputed"
    described = {**erasure.description, "applied_from": state["base"], "map": how}
    return Transfer(
        Erasure(erasure.base, erasure.names, erasure.maps, erasure.gram, described), before, after, difference
    )


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a checkpoint's hyper-parameters that RECE knows: LightningCLI adds its own."""
    return {key: settings[key] for key in inspect.signature(RECE).parameters if key in settings}


def encoder_difference(module: RECE, state: Mapping[str, Any]) -> float:
    """How far the model's text encoder is from the one that the prompts were encoded with.

    Raises:
        BaseModelError: if it is another one.
    """
    if module.fingerprint["text_encoder"] == state["fingerprint"]["text_encoder"]:
        return 0.0
    probe, expected = state["probe"]["prompt"], state["probe"]["embedding"]
    found = module.encoder.encode([probe]).embeddings[0].cpu()
    if found.shape != expected.shape:
        raise BaseModelError(
            f"--pretrained: {module.base.name!r} has another text encoder: embeddings of shape {tuple(found.shape)}, "
            f"the erasure's are {tuple(expected.shape)}. Run fit on this model."
        )
    difference = float((found - expected).norm() / expected.norm())
    if difference > SAME_TO_ROUNDING:
        raise BaseModelError(
            f"--pretrained: {module.base.name!r} has another text encoder: its embedding of {probe!r} differs by "
            f"{difference:.0%}. The erasure means nothing to it; run fit on this model."
        )
    return difference
