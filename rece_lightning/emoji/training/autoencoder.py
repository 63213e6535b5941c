"""The embedded world's autoencoder: 32×32 pictures → 8×8 latents with 8 channels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from rece_lightning.emoji.catalog import Catalog
from rece_lightning.emoji.pictures import PICTURE_SIZE, Renderer, random_indices
from rece_lightning.emoji.training.loop import mixed_precision, train

LATENT_CHANNELS = 8


def build_autoencoder() -> AutoencoderKL:
    """The autoencoder with random weights."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=PICTURE_SIZE,
        scaling_factor=1.0,
    )


def train_autoencoder(
    catalog: Catalog, folder: Path, *, steps: int, batch: int, device: str, seed: int
) -> tuple[AutoencoderKL, float]:
    """Train on rendered pictures with an L1 loss on pixels and edges. Returns the model and the seconds.

    Held-out objects are seen too: the autoencoder is the world's camera, not its knowledge of objects.
    """
    torch.manual_seed(seed)
    autoencoder = build_autoencoder().to(device)
    renderer = Renderer(catalog, device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        pictures = renderer.render(*random_indices(catalog, batch, generator, trained_only=False), generator)
        with mixed_precision(device):
            posterior = autoencoder.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = autoencoder.decode(posterior.mean + posterior.std * noise).sample
        decoded = decoded.float()
        loss = (decoded - pictures).abs().mean()
        for axis in (3, 2):  # edges: differences of neighbouring pixels
            loss = loss + (decoded.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return loss + 1e-4 * divergence

    seconds = train(
        "autoencoder", autoencoder, loss_of, steps=steps, learning_rate=1.5e-3, folder=folder, seed=seed, decay=0.998
    )
    pictures = renderer.render(
        *random_indices(catalog, 1024, torch.Generator().manual_seed(seed), trained_only=True),
        torch.Generator().manual_seed(seed + 1),
    )
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(part).latent_dist.mean for part in pictures.split(128)])
    autoencoder.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    return autoencoder, seconds
