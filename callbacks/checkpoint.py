"""ErasureCheckpoint: slim checkpoints, written whole or not at all."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rece_lightning.callbacks.base import RunCallback, check_work_left, data_for
from rece_lightning.callbacks.export import Export
from rece_lightning.core.errors import ConfigurationError, check_number, nearest
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.erasure.certificates import CERTIFICATE
from rece_lightning.files import check_writable, discard, refuse_existing, write_atomically
from rece_lightning.module import RECE
from rece_lightning.runs.checkpoints import LAST, epochs_named, read_checkpoint
from rece_lightning.runs.folder import CHECKPOINTS, run_folder
from rece_lightning.runs.partial import PartialSums, differing, partials
from rece_lightning.trainer.callbacks import EVALUATED

# What RECE logs every epoch and is worth choosing by.
MONITORED = (
    "regeneration_residual",
    "preservation_drift",
    "objective_after",
    "map_change",
    "map_condition",
    "norm_ratio",
    CERTIFICATE,
    *EVALUATED,
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside it and renames it: a process that dies leaves a whole file or
    none, and nothing outside the run's folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save atomically; what Lightning hands over is filtered by the module already."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        # Straight to the file torch tells nothing of a full disk.
        write_atomically(Path(path), lambda temporary: temporary.write_bytes(content.getvalue()))


class ErasureCheckpoint(ModelCheckpoint, RunCallback):
    """``checkpoints/epoch=N.ckpt`` after every epoch and ``last.ckpt``.

    A checkpoint holds the map, the embedding rows and what identifies base, concepts and settings: a few
    megabytes at width 768. It loads with ``weights_only=True``. While epoch 0 encodes, which takes long where there are
    many concepts, ``partial-…`` holds what was counted so far: a run that is stopped goes on there.

    Args:
        monitor: a figure that is logged by epoch, such as ``regeneration_residual``, or ``detected_erased`` where
            ``Evaluation`` has ``every_n_epochs: 1``; with it only the best ones stay.
        mode: ``min`` or ``max``.
        save_top_k: how many stay; all of them (−1) without ``monitor``.
        every_n_epochs: between checkpoints.
        dirpath: in place of the run's ``checkpoints``.
        partial_seconds: between two times that epoch 0 writes what it has counted; 0: after every batch.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int | None = None,
        every_n_epochs: int = 1,
        dirpath: str | None = None,
        partial_seconds: float = 30.0,
    ) -> None:
        # A figure of the text space, or of another one: pooled/regeneration_residual.
        if monitor is not None and monitor.rpartition("/")[2] not in MONITORED:
            raise ConfigurationError(
                f"ErasureCheckpoint.monitor: unknown figure {monitor!r}; {nearest(monitor, MONITORED)}."
            )
        if mode not in ("min", "max"):
            raise ConfigurationError(f"ErasureCheckpoint.mode: {mode!r}; give min or max.")
        check_number("ErasureCheckpoint.partial_seconds", partial_seconds)
        self.partial_seconds = partial_seconds
        self._partial: PartialSums | None = None
        super().__init__(
            dirpath=dirpath,
            filename="{epoch}",
            monitor=monitor,
            mode=mode,
            save_top_k=(1 if monitor else -1) if save_top_k is None else save_top_k,
            save_last=True,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
            # A run that goes on from an earlier epoch writes the same names again.
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the checkpoints into the run's folder and make their writing atomic."""
        if stage == "fit":
            self._check_logged(pl_module)
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                return  # nothing is saved, and what is there stays
            if self.dirpath is None:
                self.dirpath = str(run_folder(trainer) / "checkpoints")
            elif trainer.is_global_zero:
                check_writable("ErasureCheckpoint.dirpath", Path(self.dirpath))
            if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                trainer.strategy.checkpoint_io = AtomicCheckpointIO()
            self._partial = self._partial_sums(trainer, pl_module)
            if self._partial is not None and trainer.ckpt_path is None and isinstance(pl_module, RECE):
                pl_module.keeps_choice = self._partial.find(overwrite=overwrites(trainer))
        super().setup(trainer, pl_module, stage)

    def _check_logged(self, module: LightningModule) -> None:
        """Refuse a figure that this run will not log."""
        if not isinstance(module, RECE) or self.monitor is None:
            return
        space, _, figure = self.monitor.rpartition("/")
        if figure == CERTIFICATE and module.hparams["certificate"] is None:
            raise ConfigurationError(
                "ErasureCheckpoint.monitor: no certificate is logged; set model.certificate to any, or to a number "
                "such as 1."
            )
        if space and space not in (further := [one.name for one in module.session.spaces[1:]]):
            raise ConfigurationError(
                f"ErasureCheckpoint.monitor: {self.monitor!r}: no text space {space!r} is logged by its name; those "
                f"that are: {', '.join(further) or 'none'}."
            )

    def _partial_sums(self, trainer: Trainer, module: LightningModule) -> PartialSums | None:
        data = data_for(trainer, module) if isinstance(module, RECE) else None
        if not isinstance(module, RECE) or not isinstance(data, ConceptData):
            return None
        return PartialSums(Path(self.dirpath or ""), self.partial_seconds, module.session, data)

    def check_begun(self, folder: Path, trainer: Trainer, module: RECE, data: Any) -> None:
        """Refuse to go on in epoch 0 of another run.

        Raises:
            ConfigurationError: saying what differs.
        """
        wrong = differing(partials(Path(self.dirpath or folder / CHECKPOINTS)), module.session, data)
        if wrong and not overwrites(trainer):
            raise ConfigurationError(wrong)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembered paths follow a run's folder that was moved, or is called from elsewhere.

        Raises:
            ConfigurationError: for a run that is finished.
        """
        if trainer.state.fn == "fit" and isinstance(checkpoint.get("rece"), dict):
            check_work_left(trainer, checkpoint["rece"])
        state, place = checkpoint["callbacks"].get(self.state_key), Path(self.dirpath or "")
        if state is None:
            return
        source = Path(trainer.ckpt_path or "")
        if source.resolve().parent != place.resolve():
            # From another folder Lightning takes no paths over: it deletes what falls out of the best ones.
            state["dirpath"] = str(source.parent)
            return
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = str(place / Path(state[key]).name) if state[key] else state[key]
        state["best_k_models"] = {str(place / Path(path).name): score for path, score in state["best_k_models"].items()}
        state["dirpath"] = self.dirpath

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make ``last.ckpt`` the checkpoint that the run goes on from, and the last one there is.

        Raises:
            ConfigurationError: if another run's checkpoints are here and nobody said that they may be replaced.
        """
        if self._partial is not None and trainer.ckpt_path is None:
            self._partial.take_up()
        if not isinstance(pl_module, RECE) or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        place, source = Path(self.dirpath or ""), trainer.ckpt_path
        if source is None:
            for file in (*place.glob("epoch=*.ckpt"), *place.glob(LAST)):
                refuse_existing(file, overwrites(trainer))
                discard(file)
            return
        done, last = len(pl_module.history), place / LAST
        if not is_of_epoch(last, done):
            write_atomically(last, lambda temporary: shutil.copyfile(source, temporary))
        for file in place.glob("epoch=*.ckpt"):
            if epochs_named(file) > done:
                discard(file)
        if self._partial is not None:
            self._partial.discard()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what epoch 0 has counted so far, where it is time; the last batch is the epoch's own."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._partial is not None and trainer.current_epoch == 0 and not trainer.is_last_batch:
            self._partial.write_when_due()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; a checkpoint holds all that epoch 0 counted."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._partial is not None and trainer.is_global_zero and self._last_checkpoint_saved:
            self._partial.discard()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run has all its epochs, whether or not they were saved; or it was stopped within epoch 0."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if isinstance(pl_module, RECE) and not pl_module.history:
            if self._partial is not None:
                self._partial.write_when_due(now=True)
            return  # a checkpoint would hold no erasure
        super().on_train_end(trainer, pl_module)
        if self._partial is not None and trainer.is_global_zero:
            self._partial.discard()


def overwrites(trainer: Trainer) -> bool:
    """Whether a run may replace what is there."""
    return any(isinstance(one, Export) and one.overwrite for one in trainer.callbacks)  # type: ignore[attr-defined]


def is_of_epoch(file: Path, epochs: int) -> bool:
    """Whether a checkpoint is there, whole, and of so many epochs."""
    try:
        return file.is_file() and read_checkpoint(file)["rece"]["epochs"] == epochs
    except ConfigurationError:
        return False
