"""The embedded world's U-Net: cross-attention at every level, trained on cached latents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from rece_lightning.emoji.captions import random_caption
from rece_lightning.emoji.catalog import Catalog
from rece_lightning.emoji.pictures import Renderer
from rece_lightning.emoji.training.autoencoder import LATENT_CHANNELS
from rece_lightning.emoji.training.clip import WIDTH, tokenize
from rece_lightning.emoji.training.loop import mixed_precision, multiplies_bfloat16, train
from rece_lightning.emoji.training.muon import muon_and_adamw

EMPTY_SHARE = 0.1  # of the captions, for classifier-free guidance
LEARNING_RATE = 1e-3  # the highest
PLACEMENTS = 8  # of every trained (object, style, background)
STYLE_SHARE = 0.9  # of the captions: a style is learned last, long after objects and backgrounds


def build_unet() -> UNet2DConditionModel:
    """The U-Net with random weights."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """DDIM over 1,000 noise levels, in Stable Diffusion 2's parametrisation (velocity)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def cache_latents(catalog: Catalog, autoencoder: AutoencoderKL, *, device: str, seed: int) -> tuple[Tensor, Tensor]:
    """Scaled latents ``[n, 8, 8, 8]``, float16, of trained (object, style, background), and these, ``[n, 3]``."""
    renderer = Renderer(catalog, device)
    generator = torch.Generator().manual_seed(seed)
    sizes = (len(catalog.trained), len(catalog.styles), len(catalog.backgrounds))
    grid = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).repeat(PLACEMENTS, 1)
    latents = []
    for part in grid.split(256):
        pictures = renderer.render(part[:, 0], part[:, 1], part[:, 2], generator)
        with mixed_precision(device):
            mean = autoencoder.encode(pictures).latent_dist.mean
        latents.append((mean.float() * autoencoder.config.scaling_factor).half().cpu())
    return torch.cat(latents), grid


def train_unet(
    catalog: Catalog,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    autoencoder: AutoencoderKL,
    folder: Path,
    *,
    steps: int,
    batch: int,
    device: str,
    seed: int,
    initial: UNet2DConditionModel | None = None,
) -> tuple[UNet2DConditionModel, float]:
    """Train with the min-SNR weighting, from ``initial`` or anew. Returns the U-Net and the seconds spent."""
    torch.manual_seed(seed)
    unet = (initial or build_unet()).to(device)
    layout = torch.contiguous_format
    if multiplies_bfloat16(device):
        # On a CPU in bfloat16 the plain attention takes half the fused one's time at 64 positions.
        unet.set_attn_processor(AttnProcessor())
    else:
        layout = torch.channels_last  # a fifth faster in float32, with the fused attention
    unet.to(memory_format=layout)  # type: ignore[call-overload]
    latents, grid = cache_latents(catalog, autoencoder, device=device, seed=seed)
    scheduler = build_scheduler()

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (batch,), generator=generator)
        source = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [
            ""
            if source.random() < EMPTY_SHARE
            else random_caption(catalog, item, style, background, source, style_share=STYLE_SHARE).text
            for item, style, background in grid[rows].tolist()
        ]
        clean = latents[rows].float()
        # Stratified noise levels: every step sees the whole range, which halves the gradient's noise.
        levels = ((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * 1000).long()
        noise = torch.randn(clean.shape, generator=generator)
        noisy = scheduler.add_noise(clean, noise, levels)
        velocity = scheduler.get_velocity(clean, noise, levels).to(device)
        ratio = compute_snr(scheduler, levels)[:, None, None, None]
        weight = (ratio.clamp(max=5.0) / (ratio + 1)).to(device)
        with torch.no_grad():
            states = text_encoder(tokenize(tokenizer, texts).to(device)).last_hidden_state
        with mixed_precision(device):
            answer = unet(noisy.to(device, memory_format=layout), levels.to(device), states).sample
        return (weight * (answer.float() - velocity) ** 2).mean()

    seconds = train(
        "unet",
        unet,
        loss_of,
        steps=steps,
        learning_rate=LEARNING_RATE,
        folder=folder,
        seed=seed,
        decay=0.999,
        every=200,
        optimizers=muon_and_adamw(unet, LEARNING_RATE),
    )
    unet.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return unet, seconds
