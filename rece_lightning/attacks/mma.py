"""`mma`: greedy coordinate gradient towards the text embedding of the concept's own prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Budget, Goal
from rece_lightning.attacks.coordinate import Loss, TokenSearch
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, check_choice

MATCHES = ("pooled", "all")


def cosine_distance(target: Tensor) -> Loss:
    """``1 − cos`` of rows to target rows ``[r, d]``, averaged over the last ``r`` positions of every embedding."""

    def loss(embeddings: Tensor, pooled: Tensor | None) -> Tensor:
        rows = embeddings[:, -len(target) :]
        return 1 - torch.nn.functional.cosine_similarity(rows, target.to(rows), dim=-1).mean(dim=1)

    return loss


class Mma(TokenSearch):
    """Search for tokens whose text embedding points where the concept's does (MMA-Diffusion, arXiv 2311.17516).

    The loss is one minus the cosine to the embedding of the goal's own prompt. The attacker never sees the U-Net.

    Args:
        match: ``pooled``: the last position, where CLIP's end token has read the whole prompt (published: CLIP's
            pooled output); ``all``: the mean over all positions, which is what the cross-attention reads.
        steps: exchanges of a token, at most.
        candidates: exchanges tried a step.
        best: tokens that the gradient likes best, of which is drawn.
        tokens: of the prompt.
        restarts: independent searches.
        seed: of everything random.
    """

    name: ClassVar[str] = "mma"
    has: ClassVar[str] = "text encoder"
    searches_tokens: ClassVar[bool] = True
    PUBLISHED: ClassVar[Mapping[str, Any]] = {"steps": 1000, "candidates": 512, "best": 256, "tokens": 20}

    def __init__(
        self,
        match: str = "pooled",
        steps: int = 12,
        candidates: int = 32,
        best: int = 64,
        tokens: int = 4,
        restarts: int = 4,
        seed: int = 0,
    ) -> None:
        check_choice("attacks: mma: match", match, MATCHES)
        if min(candidates, best, tokens) < 1:
            raise ConfigurationError("attacks: mma: candidates, best and tokens must be 1 or more.")
        super().__init__(Budget(steps, tokens, restarts, seed), candidates, best)
        self.match = match

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """All restarts side by side."""
        own = victim.encoder.encode([goal.prompt]).embeddings[0]
        loss = cosine_distance(own if self.match == "all" else own[-1:])
        return self.minimised(victim, goal, restarts, loss)
