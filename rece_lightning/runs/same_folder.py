"""Several processes of one run have one folder: rank 0 makes it, the others are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from rece_lightning.devices.ranks import gathered
from rece_lightning.runs.folder import run_folder


class SameFolder(Callback):
    """As soon as the processes know each other, rank 0 names the run's folder.

    Args:
        take: what a process that did not open the folder does with it.
    """

    def __init__(self, take: Callable[[Trainer, Path], None]) -> None:
        self._take = take

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before any other callback asks where to write."""
        folder = gathered(str(run_folder(trainer)))[0]
        if not trainer.is_global_zero:
            self._take(trainer, Path(folder))
