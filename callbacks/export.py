"""Export: the edited projections as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from safetensors import SafetensorError, safe_open

from rece_lightning.baselines.trained import TrainedErasure
from rece_lightning.callbacks.base import RunCallback
from rece_lightning.callbacks.subject import described, epochs_of, result_of
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.exports import file_metadata, write_delta
from rece_lightning.files import check_writable, refuse_existing
from rece_lightning.module import RECE
from rece_lightning.runs.folder import run_folder

# What an edited file and a checkpoint of the same run both say.
SAME = ("fingerprint", "concepts", "method", "epochs")


class Export(RunCallback):
    """Write ``edited.safetensors`` into the run's folder at the end of ``fit``.

    It holds the edited projections under their diffusers parameter names, in the base model's dtype; base,
    concepts, settings and version stand in its metadata. A resumed run that has written it keeps it.

    Args:
        filename: of the file.
        overwrite: replace a file of that name.
    """

    def __init__(self, filename: str = "edited.safetensors", overwrite: bool = False) -> None:
        if not filename.endswith(".safetensors") or "/" in filename:
            raise ConfigurationError(
                f"Export.filename: {filename!r}; give a plain file name that ends in .safetensors."
            )
        self.filename = filename
        self.overwrite = overwrite

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out before any work whether the folder can be written."""
        if stage == "fit" and trainer.is_global_zero:
            check_writable("trainer.default_root_dir", run_folder(trainer))

    def check_place(self, folder: Path) -> None:
        """Refuse a file of that name, unless it may be replaced."""
        refuse_existing(folder / self.filename, self.overwrite)

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """The file, where a run with all its epochs has not written it (or may write it again).

        Args:
            folder: of the run.
            state: ``rece`` of its last checkpoint.

        Raises:
            ConfigurationError: if a file of that name is another run's, or of other epochs.
        """
        path = folder / self.filename
        if self.overwrite or not path.exists():
            return path
        try:
            with safe_open(path, framework="pt") as file:
                written = file.metadata() or {}
        except (OSError, SafetensorError):
            written = {}
        if any(written.get(f"rece.{key}") != json.dumps(state[key]) for key in SAME):
            refuse_existing(path, self.overwrite)
        return None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to replace a result; write the file where a stopped run lacks it alone."""
        if not isinstance(pl_module, RECE | TrainedErasure) or not trainer.is_global_zero:
            return
        folder = run_folder(trainer)
        if trainer.ckpt_path is None:
            self.check_place(folder)
        elif pl_module.only_the_end_is_left and self.missing(folder, described(pl_module)) is not None:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if not isinstance(pl_module, RECE | TrainedErasure) or not trainer.is_global_zero or not epochs_of(pl_module):
            return
        erasure = result_of(pl_module)
        write_delta(erasure, run_folder(trainer) / self.filename, file_metadata(erasure.description, "delta"))
