"""Attacks that search a whole prompt of free tokens by greedy coordinate gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.coordinate import Loss, coordinate_search
from rece_lightning.attacks.found import texts_found
from rece_lightning.attacks.tokens import Template, TokenEncoder
from rece_lightning.attacks.victim import Victim
from rece_lightning.attacks.vocabulary import Vocabulary


class TokenSearch(Attack):
    """What such attacks share; each brings a loss of its own.

    Args:
        budget: that it may spend.
        candidates: exchanges tried a step.
        best: tokens that the gradient likes best, of which is drawn.
    """

    def __init__(self, budget: Budget, candidates: int, best: int) -> None:
        super().__init__(budget)
        self.candidates, self.best = candidates, best

    def minimised(
        self, victim: Victim, goal: Goal, restarts: Sequence[int], loss: Loss, cost: int = 1
    ) -> list[AdversarialPrompt]:
        """The prompts of lowest loss that the restarts find, side by side, each from random tokens.

        Args:
            victim: whose text encoder reads the tokens.
            goal: the concept.
            restarts: to run.
            loss: of embeddings.
            cost: queries of one evaluation.
        """
        vocabulary = Vocabulary(victim.encoder.tokenizer, goal.forbidden)
        encoder = TokenEncoder(victim.encoder, Template.prefixed(self.budget.tokens))
        generators = [self.generator(goal, restart) for restart in restarts]
        found = coordinate_search(
            loss,
            encoder,
            vocabulary,
            torch.stack([vocabulary.draw(self.budget.tokens, generator) for generator in generators]),
            generators,
            steps=self.budget.steps,
            candidates=self.candidates,
            best=self.best,
        )
        queries = found.queries * cost
        return texts_found(self.name, goal, restarts, found.tokens, vocabulary, found.before, found.after, queries)
