"""Trainers under which the closed form would be wrong are refused before any work."""

from __future__ import annotations

from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.strategy import NAME, works

# Lightning's max_epochs where nobody gave one.
DEFAULT_EPOCHS = 1000


def check_trainer(trainer: Any, stage: str) -> None:
    """Refuse trainers under which the closed form would be wrong.

    Raises:
        ConfigurationError: for a precision, a strategy or a number of epochs that cannot be.
    """
    check_precision(trainer.precision)
    check_strategy(trainer)
    if stage == "fit":
        check_epochs(trainer.max_epochs)
        # A whole number counts batches: 1 is the first of them alone.
        limit = trainer.limit_train_batches
        if trainer.max_steps == 0 or isinstance(limit, int) or limit != 1.0:
            raise ConfigurationError(
                f"trainer.max_steps: {trainer.max_steps}, trainer.limit_train_batches: {trainer.limit_train_batches}; "
                "prompts would be left out of the edit. Leave both out (and fast_dev_run)."
            )


def check_strategy(trainer: Any) -> None:
    """Refuse strategies that wrap or shard the module: there is no parameter in it, and no gradient.

    Raises:
        ConfigurationError: naming the one that works.
    """
    strategy = trainer.strategy
    if works(strategy):
        return
    named = getattr(strategy, "strategy_name", None) or type(strategy).__name__
    given = named.removesuffix("Strategy").lower()
    raise ConfigurationError(
        f"trainer.strategy: {given!r} wraps or shards a module with gradients, and the closed form has none; give "
        f"strategy: {NAME} (in the command also strategy: auto, which is the same with several processes)."
    )


def check_precision(precision: Any) -> None:
    """Refuse every precision but ``32-true``.

    Raises:
        ConfigurationError: naming it.
    """
    if str(precision) not in ("32", "32-true"):
        raise ConfigurationError(
            f"trainer.precision: {precision!r} rounds inside the algebra, which is float64; use 32-true. "
            "Results are cast to the base model's own dtype anyway."
        )


def check_epochs(epochs: int | None) -> None:
    """Refuse what is no number of epochs to end after.

    Raises:
        ConfigurationError: for none, endless, below 1, and what Lightning takes where it is left out.
    """
    remedy = "give 1 + the number of RECE epochs (1 is UCE alone, 4 the published setting for nudity)"
    if epochs is None or epochs == DEFAULT_EPOCHS:
        raise ConfigurationError(
            f"trainer.max_epochs: {epochs!r}; where it is left out Lightning takes {DEFAULT_EPOCHS} in silence, "
            f"so {remedy}."
        )
    if epochs == -1:
        raise ConfigurationError(f"trainer.max_epochs: -1 never ends; {remedy}.")
    if epochs < 1:
        raise ConfigurationError(f"trainer.max_epochs: {epochs!r}; {remedy}.")
