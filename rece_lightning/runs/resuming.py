"""What a resumed run says and logs of its earlier part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def log_former_epochs(trainer: Trainer, content: Mapping[str, Any], first: int) -> None:
    """Log the epochs of a checkpoint from ``first`` on, as they were logged when they ran.

    A checkpoint is on the disk before the loggers hear of its epoch.
    """
    history = content["rece"]["history"]
    for epoch in range(first, len(history)):
        # Lightning logs in float32.
        figures = {key: float(torch.tensor(value, dtype=torch.float32)) for key, value in history[epoch].items()}
        for logger in trainer.loggers:
            logger.log_metrics({**figures, "epoch": epoch}, step=former_step(content, epoch))
            logger.save()


def former_step(content: Mapping[str, Any], epoch: int) -> int:
    """The step at which Lightning logged an epoch: it counts batches."""
    done = content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    return done // len(content["rece"]["history"]) * (epoch + 1) - 1


def describe(folder: Path, done: int, wanted: int) -> str:
    """One line for the user: where a resumed run goes on."""
    if not done:
        return f"{folder} was stopped before its first checkpoint: starting in it at epoch 0"
    if done >= wanted:
        return f"{folder} has all {done} epochs: writing what is missing"
    return f"{folder} goes on after {done} of {wanted} epochs"
