"""The Lightning strategy of the closed form: many processes, no gradients, nothing wrapped and nothing broadcast."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.launcher import check_launch
from rece_lightning.devices.lifeline import Lifeline
from rece_lightning.devices.options import check_options

NAME = "closed_form"
"""``--trainer.strategy`` in words; what the command's ``auto`` stands for with several processes."""
LOST = re.compile("gloo|NCCL|Connection (closed|reset)")
"""What the error of a lost connection says."""


class ClosedFormStrategy(DDPStrategy):
    """Starts the processes and connects them as Lightning's DDP does, and leaves the module as it is.

    DDP refuses a module without gradients, and broadcasts what it finds in it. Here the ranks sum moments
    (:func:`rece_lightning.distributed.summed`), each in its own turn of the loop.
    """

    strategy_name = NAME
    _lifeline: Lifeline | None = None
    _failed = False

    def setup_environment(self) -> None:
        """Connect the processes."""
        # What is logged is the same on every rank, and a mean over ranks would round it.
        warnings.filterwarnings("ignore", message=".*recommended to use `self.log.*sync_dist=True.*")
        super().setup_environment()
        self._end_lifeline()
        if self.world_size > 1:
            meeting = self.cluster_environment
            assert meeting is not None
            self._failed = False
            self._lifeline = Lifeline(self.global_rank, self.world_size, meeting.main_address, meeting.main_port)

    def on_exception(self, exception: BaseException) -> None:
        """Tell the other processes; where it is they that ended, say so in place of a lost connection."""
        if self._lifeline is None:
            return
        self._failed = True
        reason = self._lifeline.reason()
        if reason is None and isinstance(exception, RuntimeError) and LOST.search(str(exception)):
            reason = "another rank ended without a word: killed, or out of memory"
        if reason is not None:
            self._lifeline.say(reason)
            exception.args = (f"{reason} (here: {' '.join(str(exception).split())})",)
        self._lifeline.fail(exception)

    def teardown(self) -> None:
        """Say goodbye once all have done their work: rank 0 keeps what they tell each other."""
        if self._lifeline is not None and not self._failed:
            self.barrier()
        self._end_lifeline()
        super().teardown()

    def _end_lifeline(self) -> None:
        if self._lifeline is not None:
            self._lifeline.stop()
            self._lifeline = None

    def setup(self, trainer: Trainer) -> None:
        """As with one device: no wrapper, no broadcast."""
        Strategy.setup(self, trainer)

    def _setup_model(self, model: Any) -> Any:
        return model


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, ClosedFormStrategy, description="RECE's closed form on several devices")

DEFAULT_EPOCHS = 1000
"""Lightning's ``max_epochs`` where nobody gave one."""


def check_trainer(trainer: Any, stage: str, *, chooses: bool = False) -> None:
    """Refuse trainers under which the closed form would be wrong.

    Args:
        trainer: about to run.
        stage: of it.
        chooses: the number of epochs is still to be chosen.

    Raises:
        ConfigurationError: for a precision, a strategy, a number of epochs or another option that cannot be.
    """
    check_precision(trainer.precision)
    check_strategy(trainer)
    check_launch(trainer)
    check_options(trainer)
    if stage == "fit":
        if not chooses:
            check_epochs(trainer.max_epochs)
        check_limits(trainer)


def check_limits(trainer: Any) -> None:
    """Refuse what would leave prompts out of the edit, by the name that it was given under.

    ``fast_dev_run`` sets limits too; it tries the run on a sample, see ``trainer/handed.py``.
    """
    # A whole number counts batches: 1 is the first of them alone.
    limit = trainer.limit_train_batches
    for option, value, leaves_out in (
        ("overfit_batches", trainer.overfit_batches, trainer.overfit_batches > 0),
        ("max_steps", trainer.max_steps, trainer.max_steps == 0),
        ("limit_train_batches", limit, (isinstance(limit, int) or limit != 1.0) and not trainer.fast_dev_run),
    ):
        if leaves_out:
            raise ConfigurationError(
                f"trainer.{option}: {value}; prompts would be left out of the edit. Leave it out; to try a run on a "
                "few prompts give trainer.fast_dev_run: true."
            )


def check_strategy(trainer: Any) -> None:
    """Refuse strategies that wrap or shard the module: there is no parameter in it, and no gradient."""
    strategy = trainer.strategy
    if isinstance(strategy, (SingleDeviceStrategy, ClosedFormStrategy)):
        return
    named = getattr(strategy, "strategy_name", None) or type(strategy).__name__
    given = named.removesuffix("Strategy").lower()
    raise ConfigurationError(
        f"trainer.strategy: {given!r} wraps or shards a module with gradients, and the closed form has none; give "
        f"strategy: {NAME} (in the command also strategy: auto, which is the same with several processes)."
    )


def check_precision(precision: Any, option: str = "trainer.precision") -> None:
    """Refuse every precision but ``32-true``; ``option`` is what asks for it."""
    if str(precision) not in ("32", "32-true"):
        raise ConfigurationError(
            f"{option}: {precision!r} rounds inside the algebra, which is float64; use 32-true. "
            "Results are cast to the base model's own dtype anyway."
        )


def check_epochs(epochs: int | None) -> None:
    """Refuse what is no number of epochs to end after, and what Lightning takes where it is left out."""
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


def stopped_early(callbacks: Iterable[Any], history: Sequence[Mapping[str, float]]) -> bool:
    """Whether an ``EarlyStopping`` ended a run with this history."""
    for one in callbacks:
        if not isinstance(one, EarlyStopping) or not history:
            continue
        if 0 < one.stopped_epoch == len(history) - 1:
            return True
        threshold, value = one.stopping_threshold, history[-1].get(one.monitor)
        reached = threshold is not None and value is not None
        if reached and bool(one.monitor_op(torch.tensor(value), torch.tensor(threshold))):
            return True
    return False
