"""How a fit ended that did not run all its epochs, in words."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Timer

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.strategy import stopped_early

GO_ON = "go on with --ckpt_path last{}, in Python with {}"


def goes_on(trainer: Any, epochs: int) -> bool:
    """Whether a ``fit`` without a checkpoint goes on with what this trainer did before: it was told to run more epochs.

    Args:
        trainer: about to fit; ``None`` for none.
        epochs: that the module has.

    Raises:
        ConfigurationError: if the trainer counted its epochs with another module.
    """
    if trainer is None or trainer.current_epoch == 0:
        return False
    if epochs < trainer.current_epoch:
        raise ConfigurationError(
            f"trainer: it has run {trainer.current_epoch} epochs with another module, and goes on counting; make a new "
            "Trainer for this one."
        )
    return True


def has_ended(trainer: Any, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether a run has all its epochs, or was stopped by an ``EarlyStopping``."""
    wanted = trainer.max_epochs or 0
    return wanted > 0 and (len(history) >= wanted or stopped_early(trainer.callbacks, history))


def check_ended(
    trainer: Any, history: Sequence[Mapping[str, float]], before: int, counted: Sequence[int], data: Any
) -> None:
    """Say what ended a fit before its last epoch and how it goes on.

    Args:
        trainer: at the end of ``fit``.
        history: figures of every epoch so far.
        before: how many epochs there were when it began.
        counted: numbers of the batches that epoch 0 counted, as far as they are known.
        data: that they are of.

    Raises:
        ConfigurationError: if no epoch was run: nothing was edited, or nothing beyond what a checkpoint held.
    """
    done, wanted = len(history), trainer.max_epochs or 0
    if has_ended(trainer, history):
        return
    steps = trainer.max_steps
    if done > before and 0 <= steps <= trainer.global_step:
        return  # asked for in as many words
    why, remedy = _cause(trainer)
    if done == before == 0:
        kept = _partials(trainer)
        rest = f"; what was counted is in {kept}: " + GO_ON.format("", "the same folder") if kept is not None else ""
        count = f", after {len(counted)} of {len(data.train_dataloader())} batches of prompts" if counted else ""
        raise ConfigurationError(f"{why} ended the run in epoch 0{count}: nothing was edited; {remedy}{rest}.")
    if done == before:
        raise ConfigurationError(
            f"{why} ended the run before it did anything: it is where the checkpoint was, after {done} of {wanted} "
            f"epochs (the time of a run's earlier parts counts); {remedy}."
        )
    if trainer.is_global_zero:
        last = _checkpoint(trainer)
        go_on = GO_ON.format(" --overwrite", f"ckpt_path={last!r} and Export(overwrite=True)") if last else remedy
        what = "what is written is of these"
        print(f"{why} ended the run after {done} of {wanted} epochs: {what}; {remedy}; {go_on}.", file=sys.stderr)


def _cause(trainer: Any) -> tuple[str, str]:
    """What ended the run, and what to do about it."""
    for one in trainer.callbacks:
        left = one.time_remaining() if isinstance(one, Timer) else None
        if left is not None and left <= 0:
            over = timedelta(seconds=round(one.time_elapsed() + left))
            return f"trainer.max_time (a Timer of {over})", "give it more time"
    return "trainer.should_stop (set by a callback)", "see which callback stops it"


def _checkpoint(trainer: Any) -> str | None:
    """The last checkpoint, if one was written."""
    for one in trainer.checkpoint_callbacks:
        if one.last_model_path or one.best_model_path:
            return str(one.last_model_path or one.best_model_path)
    return None


def _partials(trainer: Any) -> Path | None:
    """The folder where a stopped epoch 0 left what it had counted."""
    for one in trainer.checkpoint_callbacks:
        if one.dirpath is not None and any(Path(one.dirpath).glob("partial-*-of-*.safetensors")):
            return Path(one.dirpath)
    return None
