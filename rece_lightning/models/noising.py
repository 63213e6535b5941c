"""Noised latents and what a denoiser should say of them: the training loss of a diffusion model, in its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor

from rece_lightning.core.errors import BaseModelError

FLOW = "flow"
"""Kind of prediction of a model that was trained by flow matching."""


@dataclass(frozen=True)
class NoisedPictures:
    """Latents of pictures with noise in them, and what a denoiser should say of each."""

    noisy: Tensor
    """``[m, c, h, w]``, or ``[m, …]`` in the layout of a pipeline that packs its latents."""
    timesteps: Tensor
    """``[m]``."""
    answer: Tensor
    """What the denoiser should predict, of the same shape: noise, velocity or flow, as it was trained."""

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
    return (torch.cat(parts) - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor


def prediction_of(scheduler: Any, field: str) -> str:
    """What a model of this scheduler was trained to predict: ``epsilon``, ``v_prediction`` or :data:`FLOW`.

    Args:
        scheduler: of diffusers.
        field: who asks, for messages.

    Raises:
        BaseModelError: for anything else.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FLOW
    kind = getattr(scheduler.config, "prediction_type", None)
    if kind == "flow_prediction" and getattr(scheduler.config, "use_flow_sigmas", False):
        return FLOW
    if kind not in ("epsilon", "v_prediction"):
        raise BaseModelError(
            f"{field}: the scheduler predicts {kind!r}; only epsilon, v_prediction and the flow of flow matching are "
            "known."
        )
    return str(kind)


def check_reads_latents(denoiser: Any, channels: int, field: str) -> None:
    """Refuse a denoiser that reads more than noisy latents of so many channels.

    Raises:
        BaseModelError: naming what it is.
    """
    if denoiser.config.in_channels != channels:
        raise BaseModelError(f"{field}: the U-Net reads more than noisy latents (inpainting); take one that does not.")


def noised(scheduler: Any, latents: Tensor, timesteps: Tensor, noise: Tensor, field: str = "attacks") -> NoisedPictures:
    """Noise latents up to their timesteps, as a model of this scheduler was trained.

    With ``ā`` of the schedule: ``x_t = √ā x + √(1−ā) ε``, and the answer is ``ε`` or ``√ā ε − √(1−ā) x``; with flow
    matching ``x_t = (1−σ) x + σ ε``, and the answer is ``ε − x``.

    Args:
        scheduler: of the pipeline; what it was told about sampling does not matter.
        latents: ``[m, c, h, w]``, or in another layout ``[m, …]``.
        timesteps: ``[m]``, whole numbers from 0 up to the schedule's length; larger is noisier.
        noise: of the same shape.
        field: who asks, for messages.

    Raises:
        BaseModelError: if the scheduler predicts neither noise nor velocity nor flow.
    """
    kind = prediction_of(scheduler, field)
    each = (-1, *(1,) * (latents.ndim - 1))
    if kind == FLOW:
        shares, times = _flow_levels(scheduler)
        places = len(times) - 1 - timesteps.cpu()
        share = shares[places].to(latents).view(each)
        noisy = (1 - share) * latents + share * noise
        return NoisedPictures(noisy, times[places].to(latents), noise - latents)
    kept = scheduler.alphas_cumprod.to(latents)[timesteps.to(latents.device)].view(each)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    answer = noise if kind == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents
    return NoisedPictures(noisy, timesteps.to(latents.device), answer)


def _flow_levels(scheduler: Any) -> tuple[Tensor, Tensor]:
    """Shares of noise ``σ`` of the whole schedule and their timesteps, from the noisiest on."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Sampling replaces a scheduler's own sigmas.
        whole = type(scheduler).from_config(scheduler.config)
        return whole.sigmas, whole.timesteps
    # Solvers of another kind that were told to follow a flow: σ = s u / (1 + (s − 1) u), and the time is σ N.
    count, shift = scheduler.config.num_train_timesteps, scheduler.config.flow_shift
    even = torch.arange(count, 0, -1, dtype=torch.float64) / count
    shares = shift * even / (1 + (shift - 1) * even)
    return shares.float(), (shares * count).float()


def check_calls(denoiser: Any, field: str) -> None:
    """Refuse a denoiser whose call :func:`said_of` does not know.

    Args:
        denoiser: of a pipeline.
        field: who asks, for messages.

    Raises:
        BaseModelError: naming its class.
    """
    if not isinstance(denoiser, (UNet2DConditionModel, SD3Transformer2DModel)):
        raise BaseModelError(
            f"{field}: {type(denoiser).__name__} takes its latents in a way of its own; the U-Nets of Stable Diffusion "
            "1.x, 2.x and XL and the MMDiT of Stable Diffusion 3 can be asked."
        )


def said_of(denoiser: Any, noisy: Tensor, timesteps: Tensor, rows: Tensor, pooled: Tensor | None = None) -> Tensor:
    """What a denoiser, as its weights are now, says of noised pictures, each under a text of its own.

    Args:
        denoiser: a U-Net of Stable Diffusion 1.x, 2.x or XL, or the MMDiT of Stable Diffusion 3.
        noisy: ``[m, c, h, w]``.
        timesteps: ``[m]``.
        rows: the texts' embeddings, ``[m, positions, d]``.
        pooled: their pooled embeddings, ``[m, p]``, where the denoiser reads them.

    Returns:
        ``[m, c, h, w]``.

    Raises:
        BaseModelError: if it reads a pooled embedding and there is none.
    """
    noisy, rows = noisy.to(denoiser.dtype), rows.to(denoiser.device, denoiser.dtype)
    needs_pooled = getattr(denoiser.config, "addition_embed_type", None) == "text_time"
    if (needs_pooled or isinstance(denoiser, SD3Transformer2DModel)) and pooled is None:
        raise BaseModelError("attacks: the U-Net reads a pooled embedding, and there is none.")
    if isinstance(denoiser, SD3Transformer2DModel):
        assert pooled is not None
        given: Tensor = denoiser(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=rows,
            pooled_projections=pooled.to(rows),
        ).sample
        return given
    conditions = None
    if needs_pooled:
        assert pooled is not None
        side = float(denoiser.config.sample_size * 8)
        sizes = torch.tensor([side, side, 0.0, 0.0, side, side]).to(rows).expand(len(rows), -1)
        conditions = {"text_embeds": pooled.to(rows), "time_ids": sizes}
    said: Tensor = denoiser(noisy, timesteps, rows, added_cond_kwargs=conditions).sample
    return said
