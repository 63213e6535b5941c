"""DevicePlacement: which device holds which part, and when each is let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from rece_lightning.callbacks.base import data_for, measures_existing
from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.callbacks.red_team import RedTeam
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.memory import begin_peaks, peaks_in_megabytes
from rece_lightning.devices.placement import PLACED_PARTS, Decided, Placement, decide
from rece_lightning.distributed import gathered
from rece_lightning.module import RECE
from rece_lightning.reporting.devices import Devices, PartRow, as_markdown
from rece_lightning.reporting.terminal import PlainConsole

GENERATING = ("unet", "autoencoder")


class DevicePlacement(Callback):
    """Place text encoder, U-Net, autoencoder and algebra on devices of one process.

    Each device is ``auto``, or one that torch knows: ``cpu``, ``cuda:0``. ``auto`` is decided by free memory: the
    trainer's device as long as it has room, then the next one that the process sees (with several processes each
    keeps to its own), then the CPU. What a part needs is read from the files' headers. Which device computes decides
    last digits: name the devices where a run that is resumed must give the same bits while others use the device too.

    The plan and the peak of every device are logged (``memory/peak_mb/cuda:0``; for the CPU it is the process's
    resident memory, from its start on) and stand in the report.

    Args:
        text_encoder: encodes the prompts; needed in epoch 0 and to generate.
        unet: needed to generate alone; the edit reads its projections from the file.
        autoencoder: needed to generate alone.
        algebra: Gram, moments and map, in float64; an accelerator without float64 falls back to the CPU.
        release: let the text encoder go after epoch 0 and the pipeline at the end, unless an Evaluation
            or RedTeam still needs them.
        offload: true: text encoder, U-Net and autoencoder wait in host memory, and are on their device only while
            they encode or generate; false: they stay there; left out: they wait where they do not fit otherwise.
        gram: devices that sum the projections' Gram, the layers in turn; that of the algebra unless given, with the
            others that have room where parts had to spread over several.

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
        offload: bool | None = None,
        gram: list[str] | None = None,
    ) -> None:
        if offload is not None and not isinstance(offload, bool):
            raise ConfigurationError(f"DevicePlacement.offload: {offload!r}; give true, false, or leave it out.")
        if gram is not None and (isinstance(gram, str) or not gram):
            raise ConfigurationError(f"DevicePlacement.gram: {gram!r}; give a list of devices, or leave it out.")
        self.placement = Placement(text_encoder, unet, autoencoder, algebra, release, gram=tuple(gram or ()))
        self.offload = offload
        self.decided: Decided | None = None
        """What was decided, once the base model is known."""
        self.peaks: dict[str, float] = {}
        """Device → megabytes, at the end of a verb: the most of any process."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the plan to the module before it loads anything."""
        if isinstance(pl_module, RECE):
            module = pl_module
            if self.decided is None:
                module.placement = self.placement
            # The module knows its model once it is set up, and the pictures' sampling when all callbacks are.
            module.place = lambda stage: self.place(trainer, module, stage)
            # Every prompt is encoded in epoch 0; pictures need the encoder again.
            module.keeps_encoder = _generates(trainer, module, stage) or not self.placement.release

    def place(self, trainer: Trainer, module: RECE, stage: str) -> None:
        """Decide where the parts go, unless that was decided for an earlier verb."""
        needed = frozenset(PLACED_PARTS if _generates(trainer, module, stage) else set(PLACED_PARTS) - set(GENERATING))
        home = trainer.strategy.root_device
        if self.decided is not None and needed <= self.decided.needed and self.decided.of == (module.base, home):
            return
        asked, data = self.placement, data_for(trainer, module)
        if self.decided is not None:
            # What lies where an earlier plan put it would count twice; the algebra's results stay where they are.
            module.release(encoder=True, pictures=True)
            asked = replace(asked, algebra=self.decided.placement.algebra)
        begin_peaks()
        self.decided = decide(
            asked,
            module.base,
            module.session.names,
            home=home,
            needed=needed,
            batch_size=module.sampling.batch_size,
            apart=len(getattr(data, "pairs", ())) if module.method.editor.per_layer else None,
            offload=self.offload,
            processes=trainer.num_devices,
        )
        module.placement = self.decided.placement
        for row in self.decided.plan.rows:
            if not row.fits and trainer.is_global_zero:
                PlainConsole(stderr=True).print(f"Warning: {row.part.replace('_', ' ')}: {row.why}.", soft_wrap=True)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the plan."""
        devices = self.devices()
        if devices is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("devices", as_markdown(devices), 0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pipeline has made its pictures."""
        if isinstance(pl_module, RECE):
            if pl_module.history:  # a run that was stopped before it edited anything leaves no figures
                self._log_peaks(trainer, len(pl_module.history) - 1)
            if self.placement.release:
                pl_module.release(pictures=True, encoder=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the peaks."""
        if isinstance(pl_module, RECE) and trainer.state.fn != "fit":
            self._log_peaks(trainer, None)

    on_test_end = on_predict_end = on_validation_end

    def _log_peaks(self, trainer: Trainer, step: int | None) -> None:
        own = peaks_in_megabytes()
        self.peaks = {}
        for found in gathered(own):
            for device, size in found.items():
                self.peaks[device] = max(size, self.peaks.get(device, 0.0))
        for logger in trainer.loggers:
            logger.log_metrics({f"memory/peak_mb/{device}": size for device, size in self.peaks.items()}, step=step)

    def devices(self) -> Devices | None:
        """For the report: every part with its device and why, and every device with its peak."""
        if self.decided is None:
            return None
        plan, placement = self.decided.plan, self.decided.placement
        rows = [
            PartRow(row.part, row.device, row.need.weights, row.need.working, row.waits, row.fits, row.why)
            for row in plan.rows
        ]
        rows += [
            PartRow(part, getattr(placement, part), None, None, False, True, "not needed by this run")
            for part in PLACED_PARTS
            if part not in self.decided.needed
        ]
        return Devices(rows, dict(plan.free), plan.peaks, self.peaks or peaks_in_megabytes(), list(placement.gram))


def _generates(trainer: Trainer, module: RECE, stage: str) -> bool:
    """Whether a verb makes pictures."""
    if stage != "fit":
        return not measures_existing(trainer)
    callbacks: Sequence[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(one, Evaluation) or (isinstance(one, RedTeam) and one.attacks_in_fit) for one in callbacks)
