"""The number of epochs where tuning chooses it: ``trainer.max_epochs`` left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rece_lightning.core.grid import EPOCHS
from rece_lightning.core.tuning import Tuning
from rece_lightning.devices.strategy import DEFAULT_EPOCHS


def is_open(trainer: Any) -> bool:
    """Whether nobody said how many epochs a trainer runs."""
    return trainer.max_epochs in (None, DEFAULT_EPOCHS)


def open_epochs(trainer: Any, stage: str, tuning: Tuning | None) -> Tuning | None:
    """Before a fit: what the trainer was told stays fixed; otherwise it runs as many as tuning may choose at most.

    Args:
        trainer: about to run.
        stage: of it.
        tuning: that was asked for.

    Returns:
        The same with the number of epochs, where it is fixed.
    """
    if stage != "fit" or tuning is None:
        return tuning
    if not is_open(trainer):
        return replace(tuning, epochs=trainer.max_epochs)
    trainer.fit_loop.max_epochs = EPOCHS
    return replace(tuning, epochs=None)


def close_epochs(trainer: Any, tuning: Tuning | None, choice: Mapping[str, Any] | None, *, tell: bool = False) -> None:
    """After the choice, here or in the run that a checkpoint is of: as many epochs as were chosen, where they were.

    Args:
        trainer: that runs; ``None`` for none.
        tuning: that was asked for.
        choice: what was chosen, in plain types.
        tell: print it with its reason.
    """
    if tell and choice is not None and trainer.is_global_zero:
        print(f"tuned ({choice['aim']}): {choice['reason']}")
    if trainer is not None and tuning is not None and tuning.epochs is None and choice is not None:
        trainer.fit_loop.max_epochs = int(choice["chosen"]["epochs"])


def settle(trainer: Any, state: Mapping[str, Any]) -> None:
    """The same before anything is loaded.

    Args:
        trainer: about to go on.
        state: ``rece`` of the checkpoint.
    """
    if is_open(trainer):
        close_epochs(trainer, Tuning(), state.get("tuning"))
