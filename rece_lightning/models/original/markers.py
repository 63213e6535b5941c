"""Tensors that stand in a checkpoint file for a setting: what its U-Net predicts, and over which noise.

Their shapes and names are those of no weight: WebUIs look whether they are there. The weights of such a model have the
names and shapes of any other of its family.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.weights import Weights

EDM = "edm_mean", "edm_std"
"""Playground 2.5: mean and spread of its latents, one number a channel; it predicts as EDM does."""
EDM_VELOCITY = "edm_vpred.sigma_max", "edm_vpred.sigma_min"
"""CosXL: the largest and smallest noise over which it predicts v; the second may be missing."""
VELOCITY, TERMINAL = "v_pred", "ztsnr"
"""It predicts v; its noise schedule was rescaled so that the last step has no signal left."""
MARKERS = frozenset((*EDM, *EDM_VELOCITY, VELOCITY, TERMINAL))
LATENT_CHANNELS = 4

Changes = dict[str, dict[str, Any]]
"""Part → entries of its configuration."""


def marked(weights: Weights) -> Changes:
    """What the markers of a file say of its configurations; nothing where it has none.

    Raises:
        BaseModelError: for a marker whose numbers cannot be.
    """
    names = set(weights.shapes())
    scheduler: dict[str, Any] = {}
    if names.issuperset(EDM):
        scheduler = {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "epsilon"}
        scheduler |= {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
        mean, spread = (_numbers(weights, name, LATENT_CHANNELS) for name in EDM)
        # The latents are normalized by what the markers say, in place of one factor.
        vae = {"latents_mean": mean, "latents_std": spread, "scaling_factor": scheduler["sigma_data"]}
        return {"scheduler": scheduler, "vae": vae}
    if EDM_VELOCITY[0] in names:
        largest, smallest = (_numbers(weights, name, 1)[0] if name in names else 0.002 for name in EDM_VELOCITY)
        scheduler = {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}
        scheduler |= {"sigma_data": 1.0, "sigma_min": smallest, "sigma_max": largest, "sigma_schedule": "exponential"}
        return {"scheduler": scheduler}
    if VELOCITY in names:
        scheduler["prediction_type"] = "v_prediction"
    if TERMINAL in names:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {"scheduler": scheduler} if scheduler else {}


def _numbers(weights: Weights, name: str, count: int) -> list[float]:
    [(_, tensor)] = weights.read([name])
    found = [float(one) for one in tensor.flatten()[: count + 1].double()]
    # A mean may be any number, a spread or an amount of noise none below zero.
    if len(found) != count or not all(isfinite(one) and (one > 0 or name == EDM[0]) for one in found):
        raise BaseModelError(
            f"model.pretrained: {weights.where}: the marker {name} holds {found}, where {count} finite "
            f"number{'s' * (count > 1)} would say how the model predicts; fetch the file again, or give its "
            "configurations with --model.config."
        )
    return found
