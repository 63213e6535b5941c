"""ErasureCheckpoint: slim checkpoints, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.files import check_writable, write_atomically
from rece_lightning.run_folder import run_folder

# What RECE logs every epoch and is worth choosing by.
MONITORED = (
    "regeneration_residual",
    "preservation_drift",
    "objective_after",
    "map_change",
    "map_condition",
    "norm_ratio",
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it: Ctrl-C leaves a whole file or none."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save atomically; what Lightning hands over is filtered by the module already."""
        write_atomically(
            Path(path), lambda temporary: super(AtomicCheckpointIO, self).save_checkpoint(checkpoint, temporary)
        )


class ErasureCheckpoint(ModelCheckpoint):
    """``checkpoints/epoch=N.ckpt`` after every epoch and ``last.ckpt``.

    A checkpoint holds the map, the embedding rows and what identifies base, concepts and settings: a few
    megabytes at width 768. It loads with ``weights_only=True``.

    Args:
        monitor: a figure that RECE logs, such as ``regeneration_residual``; with it only the best ones stay.
        mode: ``min`` or ``max``.
        save_top_k: how many stay; all of them (−1) without ``monitor``.
        every_n_epochs: between checkpoints.
        dirpath: in place of the run's ``checkpoints``.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int | None = None,
        every_n_epochs: int = 1,
        dirpath: str | None = None,
    ) -> None:
        if monitor is not None and monitor not in MONITORED:
            raise ConfigurationError(
                f"ErasureCheckpoint.monitor: unknown figure {monitor!r}; {nearest(monitor, MONITORED)}."
            )
        if mode not in ("min", "max"):
            raise ConfigurationError(f"ErasureCheckpoint.mode: {mode!r}; give min or max.")
        super().__init__(
            dirpath=dirpath,
            filename="{epoch}",
            monitor=monitor,
            mode=mode,
            save_top_k=(1 if monitor else -1) if save_top_k is None else save_top_k,
            save_last=True,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the checkpoints into the run's folder and make their writing atomic."""
        if stage == "fit":
            if self.dirpath is None:
                self.dirpath = str(run_folder(trainer) / "checkpoints")
            elif trainer.is_global_zero:
                check_writable("ErasureCheckpoint.dirpath", Path(self.dirpath))
            io = trainer.strategy.checkpoint_io
            if type(io) is TorchCheckpointIO:
                trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        super().setup(trainer, pl_module, stage)
