"""Lightning's callbacks beside a closed form: those that have nothing to work on, and figures that nobody logs."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.devices.options import check_callbacks as check_have_work

OWNERS = ("lightning.", "pytorch_lightning.", "rece_lightning.")


FIGURES = (
    "objective_before", "objective_after", "preservation_drift", "norm_ratio", "regeneration_residual",
    "regeneration_residual_unedited", "regeneration_residual_at_0.25", "regeneration_residual_at_0.5",
    "regeneration_residual_at_1", "regeneration_residual_at_2", "regeneration_residual_at_inf", "mapped_residual",
    "map_change", "map_rank", "map_condition", "gram_scale", "erased_scale", "preserved_scale", "edit_seconds",
    "erase_seconds", "certificate",
)  # fmt: skip
"""What RECE logs every epoch; those of a further text space carry its name: ``pooled/map_change``."""

EVALUATED = (
    "detected_erased", "detected_own_words", "detected_synonym", "detected_preserved", "floor_erased", "excess_erased",
    "excess_own_words", "excess_synonym", "harmonic_mean",
)  # fmt: skip
"""What ``Evaluation`` logs of its pictures; every epoch where ``every_n_epochs`` asks for it."""


def check_callbacks(trainer: Any, *, own: bool) -> None:
    """Refuse callbacks that could do nothing, or something else than they say.

    Args:
        trainer: with the callbacks.
        own: the module is RECE itself; one that derives from it may log anything.

    Raises:
        ConfigurationError: naming the callback and why.
    """
    check_have_work(trainer.callbacks)
    for one in trainer.callbacks:
        name = type(one).__name__
        if isinstance(one, LearningRateMonitor) and not trainer.loggers:
            raise ConfigurationError(f"trainer.callbacks: {name}: there is no logger to write to; leave it out.")
    # A callback of the user's may log anything too.
    if (
        trainer.state.fn != "fit"
        or not own
        or not all(type(one).__module__.startswith(OWNERS) for one in trainer.callbacks)
    ):
        return
    for one in trainer.callbacks:
        monitor = one.monitor if isinstance(one, (EarlyStopping, ModelCheckpoint)) else None
        if monitor is None or monitor.rpartition("/")[2] in FIGURES or monitor.startswith("lr-"):
            continue
        if monitor in EVALUATED:
            if not any(getattr(other, "measures_epochs", False) for other in trainer.callbacks):
                raise ConfigurationError(
                    f"{type(one).__name__}.monitor: {monitor!r} is counted in pictures, and no epoch has any; give "
                    "Evaluation a detector, prompts and every_n_epochs: 1."
                )
            continue
        if not (isinstance(one, ModelCheckpoint) and monitor in ("epoch", "step")):
            raise ConfigurationError(
                f"{type(one).__name__}.monitor: no figure {monitor!r} is logged by epoch; {nearest(monitor, FIGURES)}."
            )
