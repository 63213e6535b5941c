"""What a run asks of its callbacks beside Lightning's hooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.strategy import stopped_early
from rece_lightning.module import RECE
from rece_lightning.runs.folder import run_folder
from rece_lightning.trainer.handed import data_of


class RunCallback(Callback):
    """A callback that writes into a run's folder. Each method answers for one that has nothing to say."""

    def check_prompts(self, data: Any, stage: str) -> None:
        """Refuse prompts that this callback cannot work with.

        Raises:
            ConfigurationError: naming the prompt.
        """

    def check_place(self, folder: Path) -> None:
        """Refuse a folder in which this callback would replace a result.

        Raises:
            ConfigurationError: naming the file.
        """

    def check_begun(self, folder: Path, trainer: Trainer, module: RECE, data: Any) -> None:
        """Refuse to go on in a folder where epoch 0 of another run was begun.

        Raises:
            ConfigurationError: saying what differs.
        """

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """What a run with all its epochs lacks of this callback's files; ``None`` where it lacks nothing.

        Args:
            folder: of the run.
            state: ``rece`` of its last checkpoint.
        """
        return None

    def goes_on_in(self, run: Path, trainer: Trainer, module: RECE, data: Any, state: Mapping[str, Any] | None) -> bool:
        """Whether a run's folder holds work of this callback that was stopped and can go on.

        Args:
            run: a folder of an earlier run.
            trainer: with the callbacks.
            module: that would do the work.
            data: with the prompts.
            state: ``rece`` of the checkpoint.
        """
        return False


def measures_existing(trainer: Trainer) -> bool:
    """Whether pictures that exist already (``--images``) are measured: then ``validate`` and ``test`` open no model."""
    return any(getattr(callback, "images", None) is not None for callback in run_callbacks(trainer))


def run_callbacks(trainer: Trainer) -> list[RunCallback]:
    """Those of a trainer's callbacks that a run asks."""
    return [one for one in trainer.callbacks if isinstance(one, RunCallback)]  # type: ignore[attr-defined]


def check_work_left(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that is finished, or to replace its results unasked.

    A run that has all its epochs goes on where a callback lacks what it writes at the end.

    Args:
        trainer: with the callbacks.
        state: ``rece`` of the checkpoint.

    Raises:
        ConfigurationError: saying what is there already.
    """
    done, wanted, folder = state["epochs"], trainer.max_epochs or 0, run_folder(trainer)
    early = stopped_early(trainer.callbacks, state["history"])  # type: ignore[attr-defined]
    if done < wanted and not early:
        for callback in run_callbacks(trainer):
            callback.check_place(folder)
        return
    missing = [callback.missing(folder, state) for callback in run_callbacks(trainer)]
    if early and not any(missing):
        raise ConfigurationError(
            f"ckpt_path: EarlyStopping ended the run after {done} epochs; `validate` the checkpoint, or start a new "
            "run that asks for more."
        )
    if done > wanted or not any(missing):
        raise ConfigurationError(
            f"ckpt_path: the checkpoint has {done} epochs already, trainer.max_epochs is {wanted}; "
            "give a higher number, or `validate` the checkpoint."
        )


def data_for(trainer: Trainer, module: RECE) -> Any:
    """What a module's trainer works on; see :func:`data_of`."""
    return data_of(trainer, module.session.concepts)


def rece_module(module: LightningModule, owner: str = "Evaluation") -> RECE:
    """The module as RECE.

    Raises:
        ConfigurationError: if it is none, naming the callback ``owner``.
    """
    if not isinstance(module, RECE):
        raise ConfigurationError(f"{owner}: {type(module).__name__} is no RECE module; use it beside one.")
    return module


class Lent:
    """Fields of an object that hold something else for a while."""

    def __init__(self, owner: Any, **values: Any) -> None:
        self._owner, self._former = owner, {name: getattr(owner, name) for name in values}
        for name, value in values.items():
            setattr(owner, name, value)

    def back(self) -> None:
        """Put the former values back."""
        for name, value in self._former.items():
            setattr(self._owner, name, value)
        self._former = {}
