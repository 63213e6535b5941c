"""How well a prompt explains noised pictures: the loss of the attacks that see the denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rece_lightning.models.denoisers import denoisers_of
from rece_lightning.models.noising import NoisedPictures, check_reads_latents, latents_of, noised, said_of


def add_noise(pipeline: Any, latents: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
    """Noise latents ``[m, c, h, w]`` up to their timesteps, as the model was trained.

    Raises:
        BaseModelError: for a denoiser that reads more than noisy latents, or predicts something unknown.
    """
    denoiser: Any = next(iter(denoisers_of(pipeline).values()))
    check_reads_latents(denoiser, latents.shape[1], "attacks")
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    made = noised(pipeline.scheduler, latents, timesteps, noise)
    return NoisedPictures(*(part.to(denoiser.device) for part in (made.noisy, made.timesteps, made.answer)))


def predict(unet: Any, noisy: Tensor, timesteps: Tensor, embeddings: Tensor, pooled: Tensor | None = None) -> Tensor:
    """What a denoiser, as its projections are now, says of noised latents under every embedding.

    Takes latents ``[m, c, h, w]`` with timesteps ``[m]``, embeddings ``[n, positions, d]`` and pooled ones ``[n, p]``;
    gives ``[n, m, c, h, w]``.
    """
    count, many = len(embeddings), len(noisy)
    each = None if pooled is None else pooled.repeat_interleave(many, dim=0)
    rows = embeddings.repeat_interleave(many, dim=0)
    said = said_of(unet, noisy.repeat(count, 1, 1, 1), timesteps.repeat(count), rows, each)
    return said.view(count, many, *said.shape[1:])


def noise_loss(unet: Any, noised: NoisedPictures, embeddings: Tensor, pooled: Tensor | None = None) -> Tensor:
    """Mean squared distance of the denoiser's predictions from the answers, for every embedding, ``[n]``."""
    said = predict(unet, noised.noisy, noised.timesteps, embeddings, pooled)
    return (said - noised.answer.to(said)).square().mean(dim=(1, 2, 3, 4))


__all__ = ["NoisedPictures", "add_noise", "latents_of", "noise_loss", "predict"]
