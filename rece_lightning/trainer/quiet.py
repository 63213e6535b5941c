"""What a trainer of the user's own says of every module and what means nothing for a closed form."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from lightning.pytorch.callbacks import ModelSummary

# Of Lightning's own code under a newer torch; it says nothing of anybody's.
warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", module=r"lightning\.pytorch\.utilities\._pytree")


class PutAside:
    """The table of a module's parameters, which is empty here, and a logging interval longer than an epoch.

    Both come back at the end: a trainer may have another module next. ``fast_dev_run`` goes through all of its sample
    (:meth:`PromptData.sample`), for its first batch would be erased prompts alone.

    Args:
        trainer: that is about to run.
        stage: its verb.
        batches: of an epoch of ``fit``.
    """

    def __init__(self, trainer: Any, stage: str, batches: int) -> None:
        self._trainer, self._interval = trainer, trainer.log_every_n_steps
        self._summaries = [one for one in trainer.callbacks if isinstance(one, ModelSummary) and stage == "fit"]
        for one in self._summaries:
            trainer.callbacks.remove(one)
        # Figures are those of epochs: an interval of more batches changes nothing but a warning.
        if stage == "fit" and batches:
            trainer.log_every_n_steps = min(trainer.log_every_n_steps, batches)
        for name in ("train", "val", "test", "predict") if trainer.fast_dev_run else ():
            setattr(trainer, f"limit_{name}_batches", 1.0)

    def give_back(self) -> None:
        """Put everything where it was; say what ``fast_dev_run`` was."""
        self._trainer.log_every_n_steps = self._interval
        self._trainer.callbacks[:0] = self._summaries
        self._summaries = []
        if self._trainer.fast_dev_run and self._trainer.is_global_zero:
            verb = self._trainer.state.fn.value
            print(f"fast_dev_run: {verb} ran through on a few prompts; nothing of it is kept.", file=sys.stderr)
