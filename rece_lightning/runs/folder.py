"""Where a run writes: the logger's folder, or the trainer's where there is no logger."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, finalize

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.distributed import gathered
from rece_lightning.files import discard_temporaries, sync_folder, temporary_name, write_text

CONFIG = "config.yaml"
TUNING = "tuning.json"
"""What was chosen before the first epoch, and why; see :meth:`rece_lightning.core.tuning.Choice.plain`."""
CHECKPOINTS = "checkpoints"
# Arguments that only the other verbs have.
NOT_OF_FIT = ("verbose", "return_predictions")


def run_folder(trainer: Any) -> Path:
    """The folder of the run; a run writes nowhere else. Of ``fast_dev_run`` nothing stays.

    Where nobody named it (:class:`RunFolder`), it is the first logger's ``log_dir``; ``default_root_dir`` without one.
    """
    if trainer.fast_dev_run:
        return _passing_folder(trainer)
    for callback in trainer.callbacks:
        if isinstance(callback, RunFolder):
            return callback.folder
    for logger in trainer.loggers:
        if logger.log_dir:
            return Path(logger.log_dir)
    # Not trainer.log_dir: with several processes it waits for all of them.
    places = [folder_of(logger) for logger in trainer.loggers if logger.save_dir]
    return places[0] if places else Path(trainer.default_root_dir)


def folder_of(logger: Any) -> Path:
    """Of a logger without ``log_dir``, such as W&B's: this run's own, where Lightning puts its checkpoints too."""
    if logger.name is None or logger.version is None:
        return Path(logger.save_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir) / str(logger.name) / version


_PASSING: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()


def _passing_folder(trainer: Any) -> Path:
    """A temporary folder of this trainer, gone when the trainer is, or the process."""
    if trainer not in _PASSING:
        folder = Path(tempfile.mkdtemp(prefix="fast_dev_run_"))
        finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
        _PASSING[trainer] = folder
    return _PASSING[trainer]


def version_of(folder: Path) -> int | None:
    """``3`` of ``version_3``; ``None`` for another folder."""
    named = re.fullmatch(r"version_(\d+)", folder.name)
    return int(named.group(1)) if named else None


def versions(root: Path) -> list[Path]:
    """The folders ``version_N`` below ``root``, the newest first."""
    found = [path for path in root.glob("version_*") if path.is_dir() and version_of(path) is not None]
    return sorted(found, key=lambda path: version_of(path) or 0, reverse=True)


def next_version(root: Path) -> Path:
    """The folder that the next run below ``root`` gets."""
    found = versions(root)
    return root / f"version_{(version_of(found[0]) or 0) + 1 if found else 0}"


def new_version(root: Path, config: str) -> Path:
    """Make the next ``version_N``, its ``config.yaml`` in it from the first moment on.

    So a folder whose run was killed at once says which verb it is of, and two runs that start together never share
    one.

    Raises:
        ConfigurationError: if the disk is full or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        discard_temporaries(root, below=False)
        while True:
            folder = next_version(root)
            temporary = temporary_name(folder)
            # The folder above may have been removed again by a run that was refused.
            temporary.mkdir(parents=True)
            write_text(temporary / CONFIG, config)
            try:
                # Fails where another run made it meanwhile: a folder never replaces one with something in it.
                os.rename(temporary, folder)  # noqa: PTH104
            except OSError:
                shutil.rmtree(temporary)
                if not folder.exists():
                    raise
            else:
                sync_folder(root)
                return folder
    except OSError as error:
        raise ConfigurationError(
            f"trainer.default_root_dir: {root} cannot be written ({error.strerror}); choose another folder."
        ) from error


def is_fit(folder: Path) -> bool:
    """Whether a folder is of ``fit``: the other verbs open folders of their own beside it."""
    if any((folder / CHECKPOINTS).glob("*.ckpt")):
        return True
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(config, dict) and not any(key in config for key in NOT_OF_FIT)


class RunFolder(Callback):
    """Names the run's folder, whatever its loggers name: some have none, and some would share it with other runs.

    As soon as the processes know each other, rank 0's holds for all.

    Args:
        folder: of the run.
        take: what every process does with it, before any other callback asks where to write.
    """

    def __init__(self, folder: Path, take: Callable[[Trainer, Path], None]) -> None:
        self.folder = folder
        self._take = take

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before any other callback asks where to write."""
        self.folder = Path(gathered(str(self.folder))[0])
        self._take(trainer, self.folder)
