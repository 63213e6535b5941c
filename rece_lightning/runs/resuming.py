"""What a checkpoint must have in common with the run that goes on from it, and what a stopped run still lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.robust.stopping import is_certified
from rece_lightning.runs.folder import run_folder

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from rece_lightning.module import RECE


def check_same_run(
    module: RECE, state: Mapping[str, Any], asked: Mapping[str, Any] | None, keys: Sequence[str]
) -> None:
    """Refuse a checkpoint of another base model, of other settings or concepts; what costs least is compared first.

    Args:
        module: that is to take the state.
        state: ``rece`` of the checkpoint.
        asked: what the data asks to erase and to keep (``ConceptData.summary``), where it is known.
        keys: the settings that decide the result.

    Raises:
        ConfigurationError: saying what differs.
    """
    settings = state["settings"]
    changed = [key for key in keys if module.hparams[key] != settings.get(key)]
    if changed:
        details = ", ".join(f"model.{key}: {settings.get(key)!r} → {module.hparams[key]!r}" for key in changed)
        raise ConfigurationError(
            f"ckpt_path: the checkpoint was made with other settings ({details}); take the config.yaml of its run."
        )
    if asked is not None and asked != state["concepts"]:
        raise ConfigurationError(
            "ckpt_path: the checkpoint erases other concepts or keeps other prompts than data.concepts and "
            "data.preserve say now; start a new run for these."
        )
    present = module.fingerprint
    differing = [key for key in present if present[key] != state["fingerprint"].get(key)]
    if differing:
        raise BaseModelError(
            f"ckpt_path: the checkpoint was made from {state['base']!r}; {' and '.join(differing)} of "
            f"model.pretrained {module.base.name!r} differ. Give the base it was made from."
        )


def check_map_fits(module: RECE, state: Mapping[str, Any]) -> None:
    """Refuse a map that cannot be put on the module's base, whatever its fingerprint says.

    Raises:
        ConfigurationError: naming the widths.
    """
    shape, a_layer = tuple(state["map"].shape), module.hparams["technique"] == "tensor"
    if shape[-1] != module.base.width or (len(shape) == 3) != a_layer:
        raise ConfigurationError(
            f"ckpt_path: the checkpoint's map has the shape {list(shape)}, model.pretrained {module.base.name!r} reads "
            f"embeddings {module.base.width} wide; give the checkpoint of a run on a model of that kind."
        )


def check_work_left(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that is finished, or to replace its results unasked.

    A run that has all its epochs goes on where a callback lacks what it writes at the end: ``missing(folder, state)``
    of a callback names it, or is ``None``.

    Raises:
        ConfigurationError: saying what is there already.
    """
    done, wanted, folder = state["epoch"], trainer.max_epochs or 0, run_folder(trainer)
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    certified = is_certified(state["settings"].get("robust"), state["history"])
    if done < wanted and not certified:
        for callback in callbacks:
            if hasattr(callback, "check_place"):
                callback.check_place(folder)
        return
    missing = [callback.missing(folder, state) for callback in callbacks if hasattr(callback, "missing")]
    if certified and not any(missing):
        raise ConfigurationError(
            f"ckpt_path: the run met model.robust.certificate after {done} epochs; `validate` the checkpoint, or start "
            "a new run that asks for more."
        )
    if done > wanted or not any(missing):
        raise ConfigurationError(
            f"ckpt_path: the checkpoint has {done} epochs already, trainer.max_epochs is {wanted}; "
            "give a higher number, or `validate` the checkpoint."
        )


def only_the_end_is_left(trainer: Trainer, module: RECE) -> bool:
    """Whether a resumed ``fit`` has all its epochs: Lightning then calls neither ``on_train_start`` nor
    ``on_train_end``, and what belongs there is done in ``on_fit_start``."""
    done = len(module.history) >= (trainer.max_epochs or 0) or is_certified(module.hparams["robust"], module.history)
    return trainer.ckpt_path is not None and done and (trainer.max_epochs or 0) > 0


def log_former_epochs(trainer: Trainer, content: Mapping[str, Any], first: int) -> None:
    """Log the epochs of a checkpoint from ``first`` on, as they were logged when they ran.

    A checkpoint is on the disk before the loggers hear of its epoch.
    """
    history = content["rece"]["history"]
    for epoch in range(first, len(history)):
        # Lightning logs in float32.
        figures = {key: float(torch.tensor(value, dtype=torch.float32)) for key, value in history[epoch].items()}
        for logger in trainer.loggers:
            logger.log_metrics({**figures, "epoch": epoch}, step=former_step(content, epoch))
            logger.save()


def former_step(content: Mapping[str, Any], epoch: int) -> int:
    """The step at which Lightning logged an epoch: it counts batches."""
    done = content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    return done // len(content["rece"]["history"]) * (epoch + 1) - 1


def describe(folder: Path, done: int, wanted: int) -> str:
    """One line for the user: where a resumed run goes on."""
    if not done:
        return f"{folder} was stopped before its first checkpoint: starting in it at epoch 0"
    if done >= wanted:
        return f"{folder} has all {done} epochs: writing what is missing"
    return f"{folder} goes on after {done} of {wanted} epochs"
