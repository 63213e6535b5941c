"""`mma`: greedy coordinate gradient towards the text embedding of the concept's own prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Budget, Goal
from rece_lightning.attacks.coordinate import Loss, TokenSearch
from rece_lightning.attacks.pipeline_tokens import tokens_of, vocabulary_of
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.models.text import Embedded, PromptEncoder
from rece_lightning.models.token_inputs import read_rows, searched_rows

MATCHES = ("pooled", "all")


def cosine_distance(target: Tensor) -> Loss:
    """``1 − cos`` of rows to target rows ``[r, d]``, averaged over the last ``r`` positions of every embedding."""

    def loss(texts: Embedded) -> Tensor:
        rows = texts.embeddings[:, -len(target) :]
        return 1 - torch.nn.functional.cosine_similarity(rows, target.to(rows), dim=-1).mean(dim=1)

    return loss


def last_distance(target: Tensor, rows: int | None) -> Loss:
    """``1 − cos`` of the last row that is not zero to a target row ``[d]``, among the first ``rows`` of them."""

    def loss(texts: Embedded) -> Tensor:
        last = torch.stack([_last(one[:rows]) for one in texts.embeddings])
        return 1 - torch.nn.functional.cosine_similarity(last, target.to(last), dim=-1)

    return loss


def places_distance(target: Tensor) -> Loss:
    """``1 − cos`` of rows to target rows ``[r, d]`` in the same place, averaged over those that are not zero.

    Where an embedding has fewer rows the cosine is zero.
    """
    asked = target.bool().any(dim=1)

    def loss(texts: Embedded) -> Tensor:
        missing = max(0, len(target) - texts.embeddings.shape[1])
        rows = torch.nn.functional.pad(texts.embeddings, (0, 0, 0, missing))
        alike = torch.nn.functional.cosine_similarity(rows[:, : len(target)], target.to(rows), dim=-1)
        return 1 - alike[:, asked.to(alike.device)].mean(dim=1)

    return loss


def _last(rows: Tensor) -> Tensor:
    """Of rows ``[positions, d]`` the last that is not zero; the last one where all are."""
    read = rows.detach().bool().any(dim=1).nonzero()
    return rows[int(read[-1])] if len(read) else rows[-1]


class Mma(TokenSearch):
    """Search for tokens whose text embedding points where the concept's does (MMA-Diffusion, arXiv 2311.17516).

    The loss is one minus the cosine to the embedding of the goal's own prompt. The attacker never sees the U-Net.

    Args:
        match: ``pooled``: the last position that is read, where CLIP's end token, T5's or the end of a language model's
            template has read the whole prompt (published: CLIP's pooled output); ``all``: the mean over all positions,
            which is what the denoiser reads.
        steps: exchanges of a token, at most.
        candidates: exchanges tried a step.
        best: tokens that the gradient likes best, of which is drawn.
        tokens: of the prompt.
        restarts: independent searches.
        seed: of everything random.
    """

    name: ClassVar[str] = "mma"
    has: ClassVar[str] = "text encoder"
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
        own = read_rows(victim.encoder, [goal.prompt], victim.source)[0]
        vocabulary = vocabulary_of(victim, goal.forbidden)
        encoder = tokens_of(victim, vocabulary, self.budget.tokens)
        return self.minimised(goal, restarts, vocabulary, encoder, self._loss(victim, own))

    def _loss(self, victim: Victim, own: Tensor) -> Loss:
        if isinstance(victim.encoder, PromptEncoder):
            return cosine_distance(own if self.match == "all" else own[-1:])
        if self.match == "all":
            return places_distance(own)
        rows = searched_rows(victim.encoder, victim.source)
        return last_distance(_last(own[:rows]), rows)
