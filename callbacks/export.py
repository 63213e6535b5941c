"""Export: the edited projections as one safetensors file."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import check_writable, refuse_existing, save_tensors
from rece_lightning.module import RECE
from rece_lightning.run_folder import run_folder


class Export(Callback):
    """Write ``edited.safetensors`` into the run's folder at the end of ``fit``.

    It holds the edited projections under their diffusers parameter names, in the base model's dtype; base,
    concepts, settings and version stand in its metadata.

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
        """Find out before any work whether the file can be written."""
        if stage != "fit":
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            check_writable("trainer.default_root_dir", folder)
            refuse_existing(folder / self.filename, self.overwrite)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if not isinstance(pl_module, RECE) or not trainer.is_global_zero or not pl_module.history:
            return
        description = {f"rece.{key}": value for key, value in pl_module.description().items()}
        metadata = {"format": "pt", **description}
        save_tensors(dict(pl_module.edited_weights()), run_folder(trainer) / self.filename, metadata)
