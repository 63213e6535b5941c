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

    torch's own Muon multiplies in bfloat16, which a processor may have to emulate; and here the rounds run on the Gram
    matrix where that is the smaller one, which takes a convolution from ten large products to two.

    Args:
        step: ``[rows, columns]``.

    Returns:
        The same shape, float32.
    """
    small = step if step.shape[0] <= step.shape[1] else step.mT
    small = small / (torch.linalg.matrix_norm(small) + 1e-7)
    result = by_gram(small) if small.shape[1] >= 2 * small.shape[0] else by_products(small)
    return result if step.shape[0] <= step.shape[1] else result.mT


def by_products(small: Tensor) -> Tensor:
    """The rounds on the matrix itself."""
    first, third, fifth = QUINTIC
    for _ in range(ROUNDS):
        gram = small @ small.mT
        small = torch.addmm(small, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), small, beta=first)
    return small


def by_gram(small: Tensor) -> Tensor:
    """The same rounds on ``small @ small.mT``, their product applied at the end."""
    first, third, fifth = QUINTIC
    gram, total = small @ small.mT, None
    for _ in range(ROUNDS):
        factor = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
        factor.diagonal().add_(first)
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    assert total is not None
    return total @ small


class Muon(torch.optim.Optimizer):
    """Muon on matrices and convolutions.

    Args:
        parameters: of two dimensions or more.
        lr: of AdamW's size.
        weight_decay: decoupled.
        momentum: Nesterov's.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step."""
        if closure is not None:
            closure()
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is None:
                    continue
                state = self.state[value]
                if not state:
                    state["average"] = torch.zeros_like(value.grad)
                state["average"].mul_(group["momentum"]).add_(value.grad)
                ahead = (value.grad + group["momentum"] * state["average"]).flatten(1)
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
    return [
        Muon(inner, lr, weight_decay),
        torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99)),
    ]
