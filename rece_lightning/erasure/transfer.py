"""One erasure, many models: the erasure of a checkpoint put on another model with the same text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.core.method import Method
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.erasure.loaded import LoadedModel, Naming
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.published import published_name

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


def transfer(content: Mapping[str, Any], naming: Naming, *, reuse_map: bool = False) -> Transfer:
    """Put the erasure of a checkpoint on another model.

    The prompts' embeddings are in the checkpoint. What depends on the weights (``G``, and so every derivation) is
    computed anew, unless the map is to be reused as it is.

    Args:
        content: of a checkpoint that RECE wrote.
        naming: of the model.
        reuse_map: take ``M`` from the checkpoint.

    Raises:
        BaseModelError: if the model cannot be found, or has another text encoder.
        ConfigurationError: if the map is to be reused and there is one a layer.
    """
    session = restored_session(content, naming)
    state = content["rece"]
    if reuse_map and session.method.editor.per_layer:
        raise ConfigurationError(
            f"--reuse-map: {type(session.method.editor).__name__} has one map a layer, made for the layers of its own "
            "model; leave --reuse-map out."
        )
    difference = encoder_difference(session, state)
    session.adopt(state, reuse_map=reuse_map)
    before, after = (
        {key: row[key] for key in FIGURES if key in row} for row in (state["history"][-1], session.history[-1])
    )
    erasure = session.erasure()
    how = "reused" if reuse_map else "recomputed"
    described = {**erasure.description, "applied_from": published_name(state["base"]), "map": how}
    return Transfer(replace(erasure, description=described), before, after, difference)


def restored_session(content: Mapping[str, Any], naming: Naming) -> ErasureSession:
    """A session with the method of a checkpoint, on a model, with no prompt counted yet.

    Args:
        content: of a checkpoint that RECE wrote.
        naming: of the model.
    """
    method = Method.from_plain(content["rece"]["method"], "ckpt_path: method")
    return ErasureSession(LoadedModel(naming), method, content["hyper_parameters"].get("attacker_scale"))


def encoder_difference(session: ErasureSession, state: Mapping[str, Any]) -> float:
    """How far the model's text encoder is from the one that the prompts were encoded with.

    Raises:
        BaseModelError: if it is another one.
    """
    passed = [name for space in session.spaces for name in space.before]
    if passed and session.loaded.fingerprint.get("passed") != state["fingerprint"].get("passed"):
        raise BaseModelError(
            f"--pretrained: {session.base.name!r} has another {passed[0]}, which the text passes before what is "
            "edited: the rows that were erased are not this model's. Run fit on it."
        )
    if session.loaded.fingerprint["text_encoder"] == state["fingerprint"]["text_encoder"]:
        return 0.0
    probe, expected = state["statistics"]["probe"]["prompt"], state["statistics"]["probe"]["embedding"]
    found = next(iter(session.concept_encoder.rows([probe]).values()))[0].cpu()
    if found.shape != expected.shape:
        raise BaseModelError(
            f"--pretrained: {session.base.name!r} has another text encoder: embeddings of shape {tuple(found.shape)}, "
            f"the erasure's are {tuple(expected.shape)}. Run fit on this model."
        )
    difference = float((found - expected).norm() / expected.norm())
    if difference > SAME_TO_ROUNDING:
        raise BaseModelError(
            f"--pretrained: {session.base.name!r} has another text encoder: its embedding of {probe!r} differs by "
            f"{difference:.0%}. The erasure means nothing to it; run fit on this model."
        )
    return difference
