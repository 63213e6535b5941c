"""Muon: momentum whose step is made orthogonal, for matrices and convolutions; AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """Muon on a module's inner matrices and convolutions, AdamW on biases, norms and what touches the pixels.

    Args:
        module: what is trained.
        lr: of both parts.
        weight_decay: of both, decoupled.
        momentum: of Muon, Nesterov's.
        outer: beginnings of parameter names that AdamW takes although they are matrices: first and last layers.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        outer: tuple[str, ...] = ("conv_in", "conv_out"),
    ) -> None:
        named = list(module.named_parameters())
        inner = [value for name, value in named if value.ndim >= 2 and not name.startswith(outer)]
        taken = {id(value) for value in inner}
        rest = [value for _, value in named if id(value) not in taken]
        super().__init__(
            [{"params": inner, "orthogonal": True}, {"params": rest, "orthogonal": False}],
            {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": (0.9, 0.99), "eps": 1e-8},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step."""
        if closure is not None:
            closure()
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is None:
                    continue
                value.mul_(1 - group["lr"] * group["weight_decay"])
                move = self._orthogonal if group["orthogonal"] else self._adam
                value.add_(move(value, group), alpha=-group["lr"])

    def _orthogonal(self, value: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[value], value.grad
        assert gradient is not None
        if not state:
            state["average"] = torch.zeros_like(gradient)
        state["average"].mul_(group["momentum"]).add_(gradient)
        ahead = (gradient + group["momentum"] * state["average"]).flatten(1)
        return (SIZE * math.sqrt(max(ahead.shape)) * orthogonalized(ahead)).view_as(value)

    def _adam(self, value: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[value], value.grad
        assert gradient is not None
        if not state:
            state |= {"average": torch.zeros_like(gradient), "square": torch.zeros_like(gradient), "count": 0}
        first, second = group["betas"]
        state["count"] += 1
        state["average"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = (state["square"] / (1 - second ** state["count"])).sqrt_().add_(group["eps"])
        return state["average"] / (1 - first ** state["count"]) / root
