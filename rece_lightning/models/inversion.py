"""The noise that a picture comes from: a sampler's equation run backwards, from latents to noise."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rece_lightning.models.noising import FLOW, prediction_of

Predict = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents ``[n, …]`` and one timestep → what the denoiser predicts of each."""


@torch.no_grad()
def noise_behind(scheduler: Any, latents: Tensor, steps: int, sampled: int, predict: Predict, field: str) -> Tensor:
    """Run the probability flow backwards: from latents without noise to the noise that leads to them.

    DDIM inversion (Song et al., arXiv 2010.02502): every step takes the picture and the noise that the prediction says
    are in ``x``, and mixes them anew at the next noisier level, ``x ← √ā' x̂₀ + √(1 − ā') ε̂``; of a flow,
    ``x ← x + (σ' − σ) v``. It is exact as the steps become many, and leads back where the sampler is deterministic.

    Args:
        scheduler: of the pipeline, as it will sample.
        latents: ``[n, …]``, in the layout that the pipeline denoises.
        steps: of the way back; more are nearer to the equation.
        sampled: steps that the sampler will take, which says at what level it begins.
        predict: the denoiser under a text, without guidance.
        field: who asks, for messages.

    Returns:
        What the pipeline takes as ``latents``, of the same shape.

    Raises:
        BaseModelError: if the scheduler predicts neither noise nor velocity nor flow.
    """
    kind, noisy = prediction_of(scheduler, field), latents
    if kind == FLOW:
        levels = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        for now, then in pairwise(levels):
            timestep = (now * scheduler.config.num_train_timesteps).to(latents)
            noisy = noisy + float(then - now) * predict(noisy, timestep).to(noisy)
        return noisy
    times = torch.linspace(0, _first_timestep(scheduler, sampled), steps + 1).round().long()
    shares = scheduler.alphas_cumprod.double().cpu()[times]
    shares[0] = 1.0  # a picture has no noise in it
    for now, then, timestep in zip(shares[:-1], shares[1:], times[:-1], strict=True):
        said = predict(noisy, timestep.to(latents.device)).to(noisy)
        picture, noise = _parts(kind, noisy, said, float(now))
        noisy = float(then.sqrt()) * picture + float((1 - then).sqrt()) * noise
    return noisy


def _parts(kind: str, noisy: Tensor, said: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The picture and the noise that a prediction says are in ``√ā x + √(1 − ā) ε``."""
    kept, lost = share**0.5, (1 - share) ** 0.5
    if kind == "epsilon":
        return (noisy - lost * said) / kept, said
    return kept * noisy - lost * said, lost * noisy + kept * said


def _first_timestep(scheduler: Any, steps: int) -> int:
    """Where a sampler of so many steps begins."""
    asked = copy(scheduler)
    asked.set_timesteps(steps)
    return round(float(asked.timesteps.max()))
