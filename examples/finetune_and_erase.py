"""Fine-tune a diffusers U-Net with Lightning; what is saved no longer makes some concepts.

The LightningModule below knows nothing of erasure. One callback is all that was added::

    python examples/finetune_and_erase.py --concepts bomb dagger --steps 20 --output finetuned

It fine-tunes the embedded world on its own pictures of a few objects; with ``--pretrained`` give any
diffusers folder of the same kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rece_lightning import Method
from rece_lightning.callbacks import Erase
from rece_lightning.emoji.captions import with_article
from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.pictures import Renderer, random_indices


class Pictures(Dataset[tuple[Tensor, str]]):
    """Pictures of the embedded world with captions."""

    def __init__(self, count: int) -> None:
        catalog = load_catalog()
        generator = torch.Generator().manual_seed(0)
        objects, styles, backgrounds = random_indices(catalog, count, generator, trained_only=True)
        self.pictures = Renderer(catalog).render(objects, styles, backgrounds, generator)
        self.captions = [with_article(catalog.names[index]) for index in objects.tolist()]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.pictures[index], self.captions[index]


class FineTune(LightningModule):
    """An ordinary fine-tuning of a latent-diffusion U-Net."""

    def __init__(self, pretrained: str, learning_rate: float = 1e-4) -> None:
        super().__init__()
        pipeline = StableDiffusionPipeline.from_pretrained(pretrained, safety_checker=None)
        self.unet, self.vae, self.text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
        self.vae.requires_grad_(False)
        self.text_encoder.requires_grad_(False)
        self.tokenizer, self.scheduler = pipeline.tokenizer, pipeline.scheduler
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> Tensor:
        """Predict what the scheduler asks for at random noise levels."""
        pictures, captions = batch
        latents = self.vae.encode(pictures).latent_dist.mean * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        levels = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),), device=self.device)
        ids = self.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = self.text_encoder(ids.to(self.device)).last_hidden_state
        answer = self.unet(self.scheduler.add_noise(latents, noise, levels), levels, states).sample
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        wanted = self.scheduler.get_velocity(latents, noise, levels) if velocity else noise
        loss = F.mse_loss(answer, wanted)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the U-Net."""
        return torch.optim.AdamW(self.unet.parameters(), lr=self.learning_rate)


def main(arguments: list[str] | None = None) -> Path:
    """Fine-tune, erase, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", default=str(WEIGHTS))
    parser.add_argument("--concepts", nargs="+", default=["bomb", "dagger"])
    parser.add_argument("--preserve", nargs="+", default=[" ", "dog", "rose", "pizza", "rocket", "guitar", "key"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("finetuned"))
    options = parser.parse_args(arguments)
    seed_everything(0)
    module = FineTune(options.pretrained)
    trainer = Trainer(
        max_steps=options.steps,
        accelerator="auto",
        devices=1,
        logger=False,
        default_root_dir=options.output,
        callbacks=[
            Erase(concepts=options.concepts, preserve=options.preserve, epochs=4, method=Method(accumulate=True))
        ],
    )
    trainer.fit(module, DataLoader(Pictures(8 * options.steps), batch_size=8))
    module.unet.save_pretrained(options.output / "unet")
    print(f"the fine-tuned and erased U-Net: {options.output / 'unet'}")
    return options.output / "unet"


if __name__ == "__main__":
    main()
