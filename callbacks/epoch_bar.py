"""EpochBar: Lightning's progress bar without the run's number, which the folder's path says."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class EpochBar(TQDMProgressBar):
    """Epochs done, and what the module logs for the bar."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        # On a narrow terminal it is cut off and reads like a figure.
        shown.pop("v_num", None)
        return shown
