"""What a resumed run says and logs of its earlier part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rece_lightning.trainer.loggers import log_epoch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def log_former_epochs(trainer: Trainer, content: Mapping[str, Any], first: int) -> None:
    """Log the epochs of a checkpoint from ``first`` on, as they were logged when they ran.

    A checkpoint is on the disk before the loggers hear of its epoch.
    """
    history = content["rece"]["history"]
    for epoch in range(first, len(history)):
        log_epoch(trainer, history[epoch], epoch)


def describe(folder: Path, done: int, wanted: int) -> str:
    """One line for the user: where a resumed run goes on."""
    if not done:
        return f"{folder} was stopped before its first checkpoint: starting in it at epoch 0"
    if done >= wanted:
        return f"{folder} has all {done} epochs: writing what is missing"
    return f"{folder} goes on after {done} of {wanted} epochs"
