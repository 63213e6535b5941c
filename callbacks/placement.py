"""DevicePlacement: which device holds which part, and when each is let go."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.devices.placement import Placement
from rece_lightning.module import RECE


class DevicePlacement(Callback):
    """Place text encoder, U-Net, autoencoder and algebra on devices of one process.

    Each device is ``auto`` (the trainer's), or one that torch knows: ``cpu``, ``cuda:0``.

    Args:
        text_encoder: encodes the prompts; needed in epoch 0 and to generate.
        unet: needed to generate alone; the edit reads its projections from the file.
        autoencoder: needed to generate alone.
        algebra: Gram, moments and map, in float64; an accelerator without float64 falls back to the CPU.
        release: let the text encoder go after epoch 0 and the pipeline at the end, unless an Evaluation
            still needs them.

    Raises:
        ConfigurationError: for a device that is none, or that torch does not see.
    """

    def __init__(
        self,
        text_encoder: str = "auto",
        unet: str = "auto",
        autoencoder: str = "auto",
        algebra: str = "auto",
        release: bool = True,
    ) -> None:
        self.placement = Placement(text_encoder, unet, autoencoder, algebra, release)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the plan to the module before it loads anything."""
        if isinstance(pl_module, RECE):
            pl_module.placement = self.placement
            # Every prompt is encoded in epoch 0; pictures need the encoder again.
            generates = any(isinstance(callback, Evaluation) for callback in trainer.callbacks)  # type: ignore[attr-defined]
            pl_module.keeps_encoder = generates or not self.placement.release

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pipeline has made its pictures."""
        if isinstance(pl_module, RECE) and self.placement.release:
            pl_module.release("pictures", "encoder")
