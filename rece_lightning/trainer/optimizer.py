"""The optimizer of the closed form: what Lightning counts an epoch by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SETTINGS = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}


class ClosedFormOptimizer(torch.optim.Optimizer):
    """Its step is RECE's epoch: no gradients, no parameters.

    Lightning counts an epoch's progress in optimizer steps; without one it would save no checkpoint. What callbacks
    look for in an optimizer is there: a learning rate of 1, for the step is the whole way to the minimum, and no decay.
    """

    def __init__(self, edit: Callable[[], None]) -> None:
        super().__init__([torch.zeros(())], dict(SETTINGS))
        self._edit = edit

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's state; one of an earlier version names no settings."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in SETTINGS.items():
                group.setdefault(name, value)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Run the edit once."""
        if closure is not None:
            closure()
        self._edit()
