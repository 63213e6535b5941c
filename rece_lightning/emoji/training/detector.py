"""Training of the embedded world's detector on rendered and on autoencoded pictures, in halves."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from rece_lightning.emoji.catalog import Catalog
from rece_lightning.emoji.detector import Detector
from rece_lightning.emoji.pictures import Renderer, random_indices
from rece_lightning.emoji.training.loop import mixed_precision, train


@torch.no_grad()
def autoencode(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures through the autoencoder and back, clamped to [−1, 1]."""
    decoded = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mean).sample
    return decoded.float().clamp(-1, 1)


def train_detector(
    catalog: Catalog, autoencoder: AutoencoderKL, folder: Path, *, steps: int, batch: int, device: str, seed: int
) -> tuple[Detector, float]:
    """Train on all objects, held-out ones included. Returns the detector and the seconds spent."""
    torch.manual_seed(seed)
    detector = Detector(len(catalog.objects), len(catalog.styles), len(catalog.backgrounds)).to(device)
    renderer = Renderer(catalog, device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        objects, styles, backgrounds = random_indices(catalog, batch, generator, trained_only=False)
        pictures = renderer.render(objects, styles, backgrounds, generator)
        with mixed_precision(device):
            pictures = torch.cat([pictures[: batch // 2], autoencode(autoencoder, pictures[batch // 2 :])])
            # Generated pictures are a little noisier than autoencoded ones.
            noise = torch.randn(pictures.shape, generator=generator).to(device)
            found = detector(pictures + 0.03 * noise)
        pairs = ((found.objects, objects), (found.styles, styles), (found.backgrounds, backgrounds))
        losses = [F.cross_entropy(head.float(), real.to(device), label_smoothing=0.05) for head, real in pairs]
        return losses[0] + losses[1] + 0.5 * losses[2]

    seconds = train(
        "detector", detector, loss_of, steps=steps, learning_rate=1.5e-3, folder=folder, seed=seed, decay=0.998
    )
    return detector, seconds


@torch.no_grad()
def detector_accuracy(
    detector: Detector, autoencoder: AutoencoderKL | None, catalog: Catalog, *, count: int, device: str, seed: int
) -> tuple[int, int, int]:
    """Right answers (objects, styles, backgrounds) among ``count`` pictures, autoencoded where asked for."""
    generator = torch.Generator().manual_seed(seed)
    truth = random_indices(catalog, count, generator, trained_only=False)
    pictures = Renderer(catalog, device).render(*truth, generator)
    if autoencoder is not None:
        pictures = torch.cat([autoencode(autoencoder, part) for part in pictures.split(128)])
    answers = [detector(part) for part in pictures.split(256)]

    def right(head: str, real: Tensor) -> int:
        logits = torch.cat([getattr(answer, head) for answer in answers])
        return int((logits.argmax(1).cpu() == real).sum())

    return right("objects", truth[0]), right("styles", truth[1]), right("backgrounds", truth[2])
