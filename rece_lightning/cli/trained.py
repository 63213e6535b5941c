"""How the command trains a baseline: ordinary Lightning in this project's folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from rece_lightning.baselines.trained import TrainedErasure
from rece_lightning.callbacks import ErasureCheckpoint, Export
from rece_lightning.callbacks.base import run_callbacks
from rece_lightning.callbacks.terminal import EpochBar
from rece_lightning.cli.flags import configurations, last_said
from rece_lightning.cli.lightning import ReceCLI
from rece_lightning.cli.start import begin_loggers, check_loggers
from rece_lightning.cli.trainer import making
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.extras import guard
from rece_lightning.distributed import started_first
from rece_lightning.files import check_writable, write_text
from rece_lightning.runs.csv_logger import RunCSVLogger
from rece_lightning.runs.folder import CONFIG, RunFolder, new_version, next_version
from rece_lightning.runs.trained import Former, find_former

NAMED = ("--model", "--model.class_path")


def trains_baseline(argv: Sequence[str]) -> bool:
    """Whether a command line is of a baseline: its configuration, or the line itself, names a class of model.

    Args:
        argv: the verb and its arguments, configurations as paths.
    """
    on_line = any(word.partition("=")[0] in NAMED for word in argv)
    return on_line or last_said(configurations(argv), "model", "class_path") is not None


class TrainedCLI(ReceCLI):
    """``rece fit`` of a baseline: any trainer that Lightning has.

    ``--ckpt_path last`` goes on in the newest run's own folder, a path in the run that it lies in.
    """

    model_kind = TrainedErasure
    settings: ClassVar[Mapping[str, Any]] = {
        "subclass_mode_model": True,
        "trainer_defaults": {"max_epochs": 1, "log_every_n_steps": 1},
    }

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, as Lightning does; a checkpoint's hyper-parameters never replace what the user asks for."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        verb = self.config["subcommand"]
        if verb != "fit":
            raise ConfigurationError(
                f"{verb}: a baseline is trained with fit. Measure what it wrote as an adapter on its base: rece {verb} "
                "--config emoji.yaml --model.adapter RUN/edited.safetensors."
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, the run's folder and the callbacks that every run has."""
        settings = self._get(self.config_init, "trainer", default={})
        given = settings.get("callbacks")
        callbacks: list[Callback] = [given] if isinstance(given, Callback) else list(given or [])
        if not any(isinstance(one, ModelCheckpoint) for one in callbacks):
            callbacks += [] if settings.get("enable_checkpointing") is False else [ErasureCheckpoint()]
        if not any(isinstance(one, Export) for one in callbacks):
            callbacks.append(Export())
        if settings.get("enable_progress_bar") is not False:
            callbacks += [] if any(isinstance(one, ProgressBar) for one in callbacks) else [EpochBar()]
        for one in callbacks:
            if self._overwrites and isinstance(one, Export):
                one.overwrite = True
        settings["callbacks"] = callbacks
        root = Path(settings.get("default_root_dir") or Path("runs") / self.run_name)
        settings["default_root_dir"] = str(root)
        self.former = find_former(self._get(self.config_init, "ckpt_path"), root)
        self.config_init[self.subcommand]["ckpt_path"] = None if self.former is None else str(self.former.file)
        if started_first():
            check_writable("trainer.default_root_dir", root)
        if settings.get("enable_model_summary") is None:
            settings["enable_model_summary"] = False
        self.own_loggers = settings.get("logger") in (None, True)
        if self.own_loggers:
            settings["logger"] = False  # ours come when nothing stands against the run
        else:
            check_loggers(settings["logger"])
        with making(settings):
            return LightningCLI.instantiate_trainer(self, **kwargs)

    def before_fit(self) -> None:
        """Refuse what can be refused, then open the run's folder and write the configuration into it."""
        trainer, former = self.trainer, self.former
        for callback in run_callbacks(trainer):
            callback.check_prompts(self.datamodule, "fit")
        _ = self.model.base
        if former is not None and former.epochs >= (trainer.max_epochs or 0) >= 0 and self._nothing_left(former):
            raise ConfigurationError(
                f"ckpt_path: the checkpoint has {former.epochs} epochs already, trainer.max_epochs is "
                f"{trainer.max_epochs}; give a higher number, or start a new run."
            )
        begin_loggers(trainer.loggers)
        root = Path(trainer.default_root_dir)
        own = None if former is None else former.folder
        place = RunFolder(own or next_version(root), self._give_loggers)
        trainer.callbacks.insert(0, place)  # type: ignore[attr-defined]
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        config = self.config[self.subcommand].clone()
        config.pop("overwrite", None)
        config["ckpt_path"] = None
        text = self._parser(self.subcommand).dump(config, skip_none=False)
        if own is None:
            place.folder = new_version(root, text)
        else:
            write_text(own / CONFIG, text)

    def _nothing_left(self, former: Former) -> bool:
        folder = former.folder
        exports = [one for one in self.trainer.callbacks if isinstance(one, Export)]  # type: ignore[attr-defined]
        return folder is None or not any(one.overwrite or not (folder / one.filename).exists() for one in exports)

    def _give_loggers(self, trainer: Trainer, folder: Path) -> None:
        if not self.own_loggers or trainer.loggers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        epochs, steps = (0, None) if self.former is None else (self.former.epochs, self.former.steps)
        board = TensorBoardLogger(
            folder.parent, name="", version=folder.name, default_hp_metric=False, purge_step=steps
        )
        loggers: list[Logger] = [board, RunCSVLogger(folder, epochs)]
        trainer.loggers = loggers
        guard(trainer.loggers)

    def _run_subcommand(self, subcommand: str) -> None:
        LightningCLI._run_subcommand(self, subcommand)
