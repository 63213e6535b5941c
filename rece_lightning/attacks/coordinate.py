"""Greedy coordinate gradient: search over tokens, led by the gradient at their one-hot matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.tokens import EncodesTokens, Vocabulary, texts_found
from rece_lightning.models.text import Embedded

Loss = Callable[[Embedded], Tensor]
"""Texts → a loss for each, ``[n]``, differentiable."""


@dataclass(frozen=True)
class Found:
    """What a search over tokens found, a row a restart."""

    tokens: Tensor
    """``[n, k]``."""
    before: Tensor
    """Losses of the start, ``[n]``."""
    after: Tensor
    """Losses at the end, ``[n]``; never above the start's."""
    queries: int
    """Of each restart."""


def one_hot_gradient(loss: Loss, encoder: EncodesTokens, tokens: Tensor) -> Tensor:
    """Gradient of the loss of tokens ``[n, k]`` at their one-hot matrix, ``[n, k, vocabulary]``."""
    inputs = [one.requires_grad_() for one in encoder.inputs(tokens)]
    total = loss(encoder.encode_soft(inputs, tokens)).sum()
    gradients = torch.autograd.grad(total, inputs)
    # The one-hot matrix enters by its product with the table alone.
    parts = [gradient @ table.detach().mT for gradient, table in zip(gradients, encoder.tables(), strict=True)]
    return encoder.by_token(sum((part.to(parts[0].device) for part in parts[1:]), start=parts[0]))


def coordinate_search(
    loss: Loss,
    encoder: EncodesTokens,
    vocabulary: Vocabulary,
    start: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    candidates: int,
    best: int,
) -> Found:
    """Exchange one token a step for the candidate that lowers the loss most (GCG, arXiv 2307.15043; MMA, 2311.17516).

    A step takes the gradient of all restarts at once, draws for each restart ``candidates`` exchanges among the
    ``best`` tokens of random places, and evaluates them. A step that finds nothing better changes nothing.

    Args:
        loss: of texts as the encoder gives them.
        vocabulary: tokens that may be used; others are never drawn.
        start: ``[n, k]``.
        generators: one a restart.
        steps: at most; each costs ``candidates + 1`` queries a restart.
        candidates: exchanges that are tried a step and restart.
        best: tokens with the most negative gradient, of which is drawn.
    """
    tokens = start.clone()
    count, free = tokens.shape
    allowed = vocabulary.ids
    before = _evaluate(loss, encoder, tokens)
    current = before.clone()
    best = min(best, len(allowed))
    for _ in range(steps):
        gradient = one_hot_gradient(loss, encoder, tokens)[:, :, allowed.to(encoder.tables()[0].device)].cpu()
        leading = allowed[(-gradient).topk(best, dim=-1).indices]  # [n, k, best]
        tried = tokens.repeat_interleave(candidates, dim=0)
        for row, generator in enumerate(generators):
            places = torch.randint(free, (candidates,), generator=generator)
            ranks = torch.randint(best, (candidates,), generator=generator)
            rows = torch.arange(row * candidates, (row + 1) * candidates)
            tried[rows, places] = leading[row, places, ranks]
        losses = _evaluate(loss, encoder, tried).view(count, candidates)
        lowest, which = losses.min(dim=1)
        better = lowest < current
        chosen = tried.view(count, candidates, free)[torch.arange(count), which]
        tokens = torch.where(better[:, None], chosen, tokens)
        current = torch.where(better, lowest, current)
    return Found(tokens, before, current, 1 + steps * (candidates + 1))


@torch.no_grad()
def _evaluate(loss: Loss, encoder: EncodesTokens, tokens: Tensor) -> Tensor:
    return loss(encoder.encode(tokens)).cpu()


class TokenSearch(Attack):
    """What attacks share that search a whole prompt of free tokens; each brings a loss of its own."""

    def __init__(self, budget: Budget, candidates: int, best: int) -> None:
        super().__init__(budget)
        self.candidates, self.best = candidates, best

    def minimised(
        self,
        goal: Goal,
        restarts: Sequence[int],
        vocabulary: Vocabulary,
        encoder: EncodesTokens,
        loss: Loss,
        cost: int = 1,
    ) -> list[AdversarialPrompt]:
        """The prompts of lowest loss that the restarts find, side by side, each from random tokens.

        ``cost`` are the queries of one evaluation of the loss.
        """
        generators = [self.generator(goal, restart) for restart in restarts]
        start = torch.stack([vocabulary.draw(self.budget.tokens, generator) for generator in generators])
        settings = {"steps": self.budget.steps, "candidates": self.candidates, "best": self.best}
        found = coordinate_search(loss, encoder, vocabulary, start, generators, **settings)
        queries = found.queries * cost
        return texts_found(self.name, goal, restarts, found.tokens, vocabulary, found.before, found.after, queries)
