"""Checkpoints that a trainer writes, with every copy of a denoiser in training erased in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import Strategy
from torch import nn

from rece_lightning.erasure.in_training import DenoiserInTraining

TEMPORARY = (".lr_find_", ".scale_batch_size_")
"""How Lightning's tuner calls what it writes to go back to: that is the training itself, and nobody keeps it."""


class ErasedCheckpoints(CheckpointIO):
    """Writes through another ``CheckpointIO`` what is erased by then.

    This is the last place that a checkpoint passes, with all weights or the weights alone, whoever saves it: every
    callback has put into it what it wants by then, in whatever order they stand.

    Args:
        inner: that writes and reads.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner
        self.denoisers: list[DenoiserInTraining] = []

    @classmethod
    def of(cls, strategy: Strategy) -> ErasedCheckpoints:
        """A strategy's, put around what it has where it is not there yet."""
        present = strategy.checkpoint_io
        if not isinstance(present, cls):
            present = strategy.checkpoint_io = cls(present)
        return present

    def denoiser_of(self, module: nn.Module) -> DenoiserInTraining | None:
        """What was added for a module."""
        return next((one for one in self.denoisers if one.denoiser is module), None)

    def forget(self, owner: object) -> None:
        """Take off the erasures that somebody had added."""
        self.denoisers = [one for one in self.denoisers if not one.forget(owner)]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Erase, and write."""
        if not Path(path).name.startswith(TEMPORARY):
            for denoiser in self.denoisers:
                checkpoint = denoiser.erased(checkpoint)
        self.inner.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As the other one does; a LoRA that carries an erasure is given back as it is trained."""
        checkpoint = self.inner.load_checkpoint(*arguments, **options)
        for denoiser in self.denoisers:
            checkpoint = denoiser.loadable(checkpoint)
        return checkpoint

    def remove_checkpoint(self, *arguments: Any, **options: Any) -> None:
        """As the other one does."""
        self.inner.remove_checkpoint(*arguments, **options)

    def teardown(self) -> None:
        """As the other one does."""
        self.inner.teardown()
