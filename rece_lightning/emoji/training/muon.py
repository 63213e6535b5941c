"""Muon: momentum whose step is made orthogonal, for matrices and convolutions; AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# A quintic that takes singular values in (0, 1] near 1 in five rounds (Jordan et al., 2024: "Muon").
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# Scales an orthogonal step to the size of AdamW's, so that both take one learning rate (arXiv 2502.16982).
SIZE = 0.2


def orthogonalized(step: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly: singular values end between 0.7 and 1.2.

    torch.optim.Muon takes no convolutions, and multiplies in bfloat16: a processor that has to emulate it takes up to
    thirty times as long. The rounds run on the Gram matrix, which takes a convolution from ten large products to two.

    Args:
        step: ``[rows, columns]``.

    Returns:
        The same shape, float32.
    """
    small = step if step.shape[0] <= step.shape[1] else step.mT
    small = small / (torch.linalg.matrix_norm(small) + 1e-7)
    first, third, fifth = QUINTIC
    gram, total = small @ small.mT, None
    for remaining in reversed(range(ROUNDS)):
        factor = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
        factor.diagonal().add_(first)
        total = factor if total is None else factor @ total
        if remaining:
            gram = factor @ gram @ factor
    return total @ small if step.shape[0] <= step.shape[1] else (total @ small).mT


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay, on parameters of two dimensions or more."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is never given."""
        for group in self.param_groups:
            for value in (value for value in group["params"] if value.grad is not None):
                average = self.state[value].setdefault("average", torch.zeros_like(value.grad))
                average.mul_(group["momentum"]).add_(value.grad)
                ahead = (value.grad + group["momentum"] * average).flatten(1)
                move = SIZE * math.sqrt(max(ahead.shape)) * orthogonalized(ahead)
                value.mul_(1 - group["lr"] * group["weight_decay"])
                value.add_(move.view_as(value), alpha=-group["lr"])


def muon_and_adamw(
    module: nn.Module, lr: float, weight_decay: float = 0.01, outer: tuple[str, ...] = ("conv_in", "conv_out")
) -> list[torch.optim.Optimizer]:
    """Muon for a module's inner matrices and convolutions, AdamW for biases, norms and what touches the pixels.

    Args:
        module: what is trained.
        lr: of both.
        weight_decay: of both, decoupled.
        outer: beginnings of parameter names that AdamW takes although they are matrices: first and last layers.
    """
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, value in module.named_parameters():
        (inner if value.ndim >= 2 and not name.startswith(outer) else rest).append(value)
    return [Muon(inner, lr, weight_decay), torch.optim.AdamW(rest, lr, (0.9, 0.99), weight_decay=weight_decay)]
