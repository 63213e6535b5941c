"""A fit that leaves no files and says nothing."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData


def fit_quietly(module: RECE, data: ConceptData, resume: Path | None = None, epochs: int = 1) -> Trainer:
    """Fit on the CPU, from a checkpoint where one is given; returns the trainer."""
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer
