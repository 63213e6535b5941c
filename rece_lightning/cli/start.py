"""How the command starts a run: the checkpoint, the folder and the loggers; no trace of a run that is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from rece_lightning.callbacks.base import check_work_left, measures_existing, run_callbacks
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.extras import guard, reason_of
from rece_lightning.distributed import started_first
from rece_lightning.files import (
    check_writable,
    discard,
    discard_temporaries,
    missing_folders,
    remove_empty,
    write_text,
)
from rece_lightning.models.adapter import check_adapter
from rece_lightning.module import RECE
from rece_lightning.runs.checkpoints import Found, find_checkpoint
from rece_lightning.runs.csv_logger import RunCSVLogger
from rece_lightning.runs.folder import CHECKPOINTS, CONFIG, RunFolder, new_version, next_version, versions
from rece_lightning.runs.resuming import describe, log_former_epochs
from rece_lightning.trainer.epochs import settle

RUNS = "runs"
# What a run's folder holds before anything was done.
BEGUN = (CONFIG, "hparams.yaml", "events.out.tfevents")


@dataclass
class RunStart:
    """Where a run starts and where it writes."""

    verb: str
    root: Path
    """Folder of the configuration's runs."""
    found: Found | None
    """What ``--ckpt_path`` stands for."""
    folder: Path | None
    """Of the run that a ``fit`` goes on with; ``None`` where it opens a new one."""
    versioned: bool
    """Whether the folder is a ``version_N``, as it is unless somebody chose one and wants no logger."""
    own_loggers: bool
    """Whether nobody chose a logger."""
    place: RunFolder = field(init=False)
    """What tells callbacks where to write."""
    opened: Path | None = None
    """The folder, once there is one that was not there before, or had no configuration in it."""
    made: list[Path] = field(default_factory=list)
    """Folders that were made for it, the innermost first."""

    @classmethod
    def choose(cls, verb: str, name: str, settings: dict[str, Any], value: Any) -> RunStart:
        """Find the checkpoint and the folder: a resumed ``fit`` goes on in its run's own folder.

        Another ``default_root_dir`` asks for a new run that starts from the checkpoint.

        Args:
            verb: ``fit``, ``validate``, ``test`` or ``predict``.
            name: of the configuration.
            settings: of the trainer; logger and ``default_root_dir`` are set.
            value: of ``--ckpt_path``.

        Raises:
            ConfigurationError: if there is no such checkpoint, or the folder cannot be written.
        """
        chosen, logger = settings.get("default_root_dir"), settings.get("logger")
        versioned = not (chosen and logger is False)
        root = Path(chosen or Path(RUNS) / name)
        found = None
        if value is not None:
            places = [c.dirpath for c in settings["callbacks"] if isinstance(c, ModelCheckpoint) and c.dirpath]
            found = find_checkpoint(
                str(value),
                root,
                versioned=versioned,
                dirpath=Path(places[0]) if places else None,
                for_fit=verb == "fit",
            )
            if found is None and started_first():
                print(f"--ckpt_path {value}: there is no run in {root} yet; starting one")
        own = found.folder if verb == "fit" and found is not None else None
        if own is not None and chosen and (own.parent if versioned else own).resolve() != root.resolve():
            own = None
        if started_first():
            check_writable("trainer.default_root_dir", own if own is not None and versioned else root)
        settings["default_root_dir"] = str(root)
        if logger is True:
            settings["logger"] = None
        own_loggers = settings.get("logger") is None
        if own_loggers:
            settings["logger"] = False  # ours come when nothing stands against the run
        else:
            check_loggers(settings["logger"])
        return cls(verb, root, found, own, versioned, own_loggers)

    @property
    def checkpoint(self) -> str | None:
        """The file for the trainer."""
        return None if self.found is None or self.found.file is None else str(self.found.file)

    def check(self, trainer: Trainer, module: RECE, data: LightningDataModule) -> None:
        """Refuse what can be refused without heavy work, before the run leaves a trace.

        Raises:
            ConfigurationError: for a checkpoint of another run, a finished run, an unknown concept.
            BaseModelError: if the base model is not found, or another one.
        """
        if self.verb in ("fit", "predict") or not measures_existing(trainer):
            check_adapter(module.hparams["adapter"], self.verb, erased=self.found is not None)
            _ = module.session.names
        elif self.found is not None:
            raise ConfigurationError("--images: pictures that exist need no model; leave --ckpt_path out.")
        for callback in run_callbacks(trainer):
            callback.check_prompts(data, self.verb)
        if self.verb == "predict" and trainer.is_global_zero:
            self.folder = self._unfinished(trainer, module, data)
        self.place = RunFolder(self.folder or (next_version(self.root) if self.versioned else self.root), self._take)
        trainer.callbacks.insert(0, self.place)  # type: ignore[attr-defined]
        if self.verb == "fit" and self.folder is not None and self.checkpoint is None:
            for callback in run_callbacks(trainer):
                callback.check_begun(self.folder, trainer, module, data)
        if self.found is not None and self.found.content is not None:
            module.check_same_run(self.found.content["rece"], data)
            if self.verb == "fit":
                settle(trainer, self.found.content["rece"])
                check_work_left(trainer, self.found.content["rece"])
        if self.verb == "fit":
            # It is needed later in any case, and reads every projection: values that are no numbers are found now.
            _ = module.session.loaded.fingerprint
        begin_loggers(trainer.loggers)
        guard(trainer.loggers)

    def _unfinished(self, trainer: Trainer, module: RECE, data: LightningDataModule) -> Path | None:
        """The newest folder that a stopped ``predict`` of the same settings left."""
        state = None if self.found is None or self.found.content is None else self.found.content["rece"]
        places = versions(self.root) if self.versioned else [self.root]
        for place in places:
            if any(one.goes_on_in(place, trainer, module, data, state) for one in run_callbacks(trainer)):
                return place
        return None

    def open(self, trainer: Trainer, config: str, *, overwrite: bool) -> None:
        """Make the folder, or clean the one to go on in, and write the configuration.

        Raises:
            ConfigurationError: if a folder that the user chose holds another run.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.loggers = []  # and no folder
            return
        if not trainer.is_global_zero:
            return  # rank 0 opens the folder
        if self.versioned and self.folder is None:
            self.made = missing_folders(self.root)
            self.opened = self.place.folder = new_version(self.root, config)
        else:
            self._take_folder(self.place.folder, trainer, config, overwrite)
        self._give_loggers(trainer, self.place.folder)
        if self.verb != "fit" or self.found is None:
            return
        if self.found.folder is not None:
            print(describe(self.found.folder, self.found.epochs, trainer.max_epochs or 0))
        if self.found.content is not None:
            log_former_epochs(trainer, self.found.content, self._kept_epochs)

    def _take(self, trainer: Trainer, folder: Path) -> None:
        """Write into the folder that rank 0 opened; checkpoints of Lightning's own too, whatever the loggers say."""
        self._give_loggers(trainer, folder)
        for one in trainer.checkpoint_callbacks:
            if type(one) is ModelCheckpoint and one.dirpath is None:
                one.dirpath = str(folder / CHECKPOINTS)

    def _give_loggers(self, trainer: Trainer, folder: Path) -> None:
        # Loggers make their files when they are first used.
        if self.own_loggers and not trainer.loggers and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.loggers = self._loggers(folder)
            guard(trainer.loggers)

    def _take_folder(self, folder: Path, trainer: Trainer, config: str, overwrite: bool) -> None:
        if self.folder is not None:
            discard_temporaries(folder)
        elif not overwrite:
            for callback in run_callbacks(trainer) if self.verb == "fit" else []:
                callback.check_place(folder)
            if (folder / CONFIG).exists():
                raise ConfigurationError(
                    f"trainer.default_root_dir: {folder / CONFIG} is another run's; choose another folder, or move "
                    "it away."
                )
        if self.folder is None and not (folder / CONFIG).exists():
            self.opened, self.made = folder, missing_folders(folder)
        write_text(folder / CONFIG, config)

    def withdraw(self) -> None:
        """Remove what :meth:`open` made, unless the run has done something since."""
        if self.opened is None:
            return
        if not self.versioned and self.opened not in self.made:
            discard(self.opened / CONFIG)
        elif all(file.name.startswith(BEGUN) or file.is_dir() for file in self.opened.rglob("*")):
            shutil.rmtree(self.opened, ignore_errors=True)
        remove_empty(self.made)

    @property
    def _kept_epochs(self) -> int:
        """Of how many epochs the log stays as it is. The last one of a checkpoint may not have reached the logs."""
        goes_on = self.verb == "fit" and self.found is not None and self.folder is not None and self.own_loggers
        return max(self.found.epochs - 1, 0) if goes_on and self.found is not None else 0

    def _loggers(self, folder: Path) -> list[Logger]:
        # TensorBoard hides what an earlier part of the run logged after this step.
        options: dict[str, Any] = {}
        if self.verb == "fit" and self.folder is not None and self.found is not None:
            options["purge_step"] = self._kept_epochs
        number = folder.name.removeprefix("version_")
        # Lightning shows the end of the version beside the progress bar.
        version = int(number) if number.isdecimal() else folder.name
        board = TensorBoardLogger(folder.parent, name="", version=version, default_hp_metric=False, **options)
        return [board, RunCSVLogger(folder, self._kept_epochs)]


def check_loggers(given: Any) -> None:
    """Refuse loggers of the user's that cannot write where they are told to.

    Raises:
        ConfigurationError: naming logger and folder.
    """
    for one in given if isinstance(given, Iterable) else [given]:
        place = str(getattr(one, "save_dir", None) or "")
        if isinstance(one, Logger) and place and "://" not in place and started_first():
            check_writable(f"trainer.logger: {type(one).__name__}.save_dir", Path(place))


def begin_loggers(loggers: Iterable[Logger]) -> None:
    """Let the user's loggers begin: one that cannot is told before any work, not after it.

    Raises:
        ConfigurationError: naming the logger and what it says.
    """
    for one in loggers:
        try:
            _ = getattr(one, "experiment", None)
        except Exception as error:  # of a library of somebody else's: no key, no server
            raise ConfigurationError(
                f"trainer.logger: {type(one).__name__} cannot begin ({reason_of(error)}); mend it, or leave it out."
            ) from error
