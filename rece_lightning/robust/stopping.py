"""When a robust loop has reached what it was asked for: its certificate, of every concept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rece_lightning.distributed import gathered
from rece_lightning.erasure.certificates import certify_module

if TYPE_CHECKING:
    from rece_lightning.module import RECE

CERTIFICATE = "certificate"
"""Of every epoch's figures, where ``model.robust`` names one."""


def smallest_certificate(module: RECE, budget: float | None) -> float:
    """The least of all erased prompts' certificates: no embedding brings any of them back nearer.

    Relative to a prompt's own way to its target, about the weights as they are stored; 0 says nothing.

    Args:
        module: that was edited.
        budget: β; ``None``: over embeddings of any norm.
    """
    found = certify_module(module, [] if budget is None else [budget])
    # A prompt that is its own target has nothing to come back to.
    return min((one.bounds[budget] for one in found if not math.isnan(one.bounds[budget])), default=0.0)


def is_certified(robust: Mapping[str, Any] | None, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether the last epoch met the certificate that was asked for.

    Args:
        robust: ``model.robust`` in plain types.
        history: figures of every epoch.
    """
    wanted = (robust or {}).get(CERTIFICATE)
    return wanted is not None and bool(history) and history[-1].get(CERTIFICATE, 0.0) >= wanted


def stop_if_certified(module: RECE) -> None:
    """End a robust loop that has what it was asked for, and say so; as rank 0 finds, so that all ranks do the same."""
    trainer, robust = module.trainer, module.hparams["robust"]
    done, wanted = len(module.history), trainer.max_epochs or 0
    if not gathered(is_certified(robust, module.history))[0] or done >= wanted:
        return
    trainer.should_stop = True
    if trainer.is_global_zero:
        budget = robust.get("budget")
        over = "any embedding" if budget is None else f"embeddings up to {budget:g} times the concept's norm"
        print(
            f"Stopped after {done} of {wanted} epochs: the certificate over {over} is "
            f"{module.history[-1][CERTIFICATE]:.3g}, model.robust.certificate asks for {robust[CERTIFICATE]:g}."
        )
