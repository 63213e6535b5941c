"""How well a prompt explains noised pictures: the loss of the attacks that see the U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError


@dataclass(frozen=True)
class NoisedPictures:
    """Latents of pictures with noise in them, and what a U-Net should say of each."""

    noisy: Tensor
    """``[m, c, h, w]``."""
    timesteps: Tensor
    """``[m]``."""
    answer: Tensor
    """What the U-Net should predict, ``[m, c, h, w]``: noise or velocity, as it was trained."""

    def __len__(self) -> int:
        return len(self.noisy)

    def rows(self, index: Tensor) -> NoisedPictures:
        """Some of them."""
        return NoisedPictures(self.noisy[index], self.timesteps[index], self.answer[index])


@torch.no_grad()
def latents_of(pipeline: Any, pictures: Tensor) -> Tensor:
    """Means of the autoencoder's latents of pictures ``[n, 3, h, w]`` in [0, 1]."""
    vae = pipeline.vae
    parts = [vae.encode(part.to(vae.device, vae.dtype) * 2 - 1).latent_dist.mean for part in pictures.split(16)]
    return torch.cat(parts) * vae.config.scaling_factor


def add_noise(pipeline: Any, latents: Tensor, timesteps: Tensor, generator: torch.Generator) -> NoisedPictures:
    """Noise latents ``[m, c, h, w]`` up to their timesteps, as the model was trained.

    Raises:
        BaseModelError: for a U-Net that reads more than noisy latents, or predicts neither noise nor velocity.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    if unet.config.in_channels != latents.shape[1]:
        raise BaseModelError("attacks: the U-Net reads more than noisy latents (inpainting); take one that does not.")
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise BaseModelError(f"attacks: the scheduler predicts {kind!r}; only epsilon and v_prediction are known.")
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    kept = scheduler.alphas_cumprod.to(latents)[timesteps.to(latents.device)].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    answer = noise if kind == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents
    return NoisedPictures(noisy.to(unet.device), timesteps.to(unet.device), answer.to(unet.device))


def predict(unet: Any, noised: NoisedPictures, embeddings: Tensor, pooled: Tensor | None = None) -> Tensor:
    """What the U-Net, as its projections are now, says of ``m`` noised pictures under every embedding.

    Takes embeddings ``[n, positions, d]`` and SDXL's pooled ones ``[n, p]``; gives ``[n, m, c, h, w]``.
    """
    count, many = len(embeddings), len(noised)
    context = embeddings.to(unet.device, unet.dtype).repeat_interleave(many, dim=0)
    conditions = None
    if getattr(unet.config, "addition_embed_type", None) == "text_time":
        if pooled is None:
            raise BaseModelError("attacks: the U-Net reads a pooled embedding, and there is none.")
        side = float(unet.config.sample_size * 8)
        sizes = torch.tensor([side, side, 0.0, 0.0, side, side]).to(context).expand(len(context), -1)
        conditions = {"text_embeds": pooled.to(context).repeat_interleave(many, dim=0), "time_ids": sizes}
    noisy, timesteps = noised.noisy.to(unet.dtype).repeat(count, 1, 1, 1), noised.timesteps.repeat(count)
    said = unet(noisy, timesteps, context, added_cond_kwargs=conditions).sample
    return said.view(count, many, *said.shape[1:])


def noise_loss(unet: Any, noised: NoisedPictures, embeddings: Tensor, pooled: Tensor | None = None) -> Tensor:
    """Mean squared distance of the U-Net's predictions from the answers, for every embedding, ``[n]``."""
    said = predict(unet, noised, embeddings, pooled)
    return (said - noised.answer.to(said)).square().mean(dim=(1, 2, 3, 4))
