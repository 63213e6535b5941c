"""Options and callbacks of a trainer that the closed form has no use for, or that no number of it can mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.callbacks.spike import SpikeDetection

from rece_lightning.core.errors import ConfigurationError

NO_GRADIENTS: Mapping[type[Any], str] = {
    GradientAccumulationScheduler: "accumulates gradients",
    LearningRateFinder: "tries learning rates",
    BatchSizeFinder: "tries how many prompts fit into a training step, and saves the model between two tries",
    BaseFinetuning: "freezes and unfreezes parameters",
    ModelPruning: "removes parameters",
    StochasticWeightAveraging: "averages parameters over epochs",
    WeightAveraging: "averages parameters over steps",
    SpikeDetection: "watches the loss of training steps",
}
"""Callback → what it does, which needs gradients or parameters."""
LEAST: Mapping[str, int] = {
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "check_val_every_n_epoch": 1,
    "min_epochs": 0,
    "min_steps": 0,
}
"""Option → its least value. Lightning takes less, and ignores it or fails much later."""


def check_options(trainer: Any) -> None:
    """Refuse what speaks of gradients, and numbers that mean nothing.

    Raises:
        ConfigurationError: naming option, value and remedy.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ConfigurationError(
            f"trainer.accumulate_grad_batches: {trainer.accumulate_grad_batches!r}; the closed form has no gradients "
            "to accumulate, and an epoch counts all batches anyway; leave it out."
        )
    if trainer.gradient_clip_val:
        raise ConfigurationError(
            f"trainer.gradient_clip_val: {trainer.gradient_clip_val!r}; the closed form has no gradients to clip; "
            "leave it out."
        )
    check_numbers(
        {
            "num_sanity_val_steps": trainer.num_sanity_val_steps,
            "log_every_n_steps": trainer.log_every_n_steps,
            "check_val_every_n_epoch": trainer.check_val_every_n_epoch,
            "min_epochs": trainer.min_epochs,
            "min_steps": trainer.min_steps,
        },
        trainer.max_epochs,
    )
    # Lightning sets none where the interval is a time.
    every = getattr(trainer, "val_check_interval", None)
    if every == 0 and not isinstance(every, float):
        raise ConfigurationError("trainer.val_check_interval: 0; give 1 or more batches, or leave it out.")
    check_callbacks(trainer.callbacks)


def check_numbers(values: Mapping[str, Any], epochs: int | None) -> None:
    """Refuse numbers that mean nothing.

    Args:
        values: option → number, or ``None`` where it is left out.
        epochs: ``max_epochs``. An epoch is a step.

    Raises:
        ConfigurationError: naming option, value and remedy.
    """
    for name, value in values.items():
        if value is not None and value < LEAST[name]:
            raise ConfigurationError(f"trainer.{name}: {value!r}; give {LEAST[name]} or more, or leave it out.")
        if name in ("min_epochs", "min_steps") and value is not None and epochs is not None and 0 < epochs < value:
            raise ConfigurationError(
                f"trainer.{name}: {value!r} is more than trainer.max_epochs, {epochs} (an epoch is a step); raise "
                "max_epochs, or leave it out."
            )


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks that work on gradients or parameters.

    Raises:
        ConfigurationError: naming the callback.
    """
    for one in callbacks:
        for kind, what in NO_GRADIENTS.items():
            if isinstance(one, kind):
                raise ConfigurationError(
                    f"trainer.callbacks: {type(one).__name__} {what}, and the closed form has neither gradients nor "
                    "parameters to train; leave it out."
                )
