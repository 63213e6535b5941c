"""Somebody's fine-tuning, and what of a concept is left in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from rece_lightning.models.text import PromptEncoder


class SomebodysModule(LightningModule):
    """A fine-tuning that knows nothing of erasure."""

    def __init__(self, folder: Path, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.build(folder)

    def build(self, folder: Path) -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        self.unet, self.text_encoder, self.tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        ids = self.tokenizer(["bomb"] * len(batch), padding="max_length", return_tensors="pt").input_ids
        states = self.text_encoder(ids).last_hidden_state
        return F.mse_loss(self.unet(batch, torch.tensor(10), states).sample, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.unet.parameters(), lr=self.learning_rate)


def train(
    module: LightningModule, folder: Path, *callbacks: object, steps: int = 2, resume: Path | None = None, **more: Any
) -> Trainer:
    keeps = ModelCheckpoint(folder, filename="saved", save_weights_only=more.pop("save_weights_only", False))
    trainer = Trainer(
        max_epochs=more.pop("max_epochs", 1),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks, keeps],  # type: ignore[list-item]
        **more,
    )
    trainer.fit(module, DataLoader(torch.randn(steps, 4, 4, 4), batch_size=1), ckpt_path=resume)
    return trainer


class Snapshots(Callback):
    """The text-reading projections after every batch."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self.taken.append(projections(pl_module.unet))

    def changes(self) -> list[int]:
        """Numbers of the batches, from 1, after which something was different."""
        pairs = zip(self.taken[:-1], self.taken[1:], strict=True)
        return [index + 2 for index, (one, other) in enumerate(pairs) if not same(one, other)]


def projections(unet: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: weight.detach().clone()
        for name, weight in unet.named_parameters()
        if "attn2.to_k" in name or "attn2.to_v" in name
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def way_left(pipeline: StableDiffusionPipeline, edited: Mapping[str, Tensor], concept: str) -> float:
    """How far a concept's values are from its target's, as a share of how far they were; the target is a space."""
    encoded = PromptEncoder.of_pipeline(pipeline).encode([concept, " "])
    subject, target = (encoded.embeddings[row, last].double() for row, last in enumerate(encoded.last_subject))
    left, way = 0.0, 0.0
    for name, weight in projections(pipeline.unet).items():
        if "attn2.to_v" in name:
            left += float((edited[name].double() @ subject - weight.double() @ target).square().sum())
            way += float((weight.double() @ (subject - target)).square().sum())
    return (left / way) ** 0.5
