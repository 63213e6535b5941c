"""`p4d`: tokens under which the edited model predicts the noise that the original predicts under the concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Budget, Goal
from rece_lightning.attacks.coordinate import TokenSearch
from rece_lightning.attacks.explained import Explained, check_explains, explained
from rece_lightning.attacks.noise import NoisedPictures
from rece_lightning.attacks.pictures import OriginalPictures
from rece_lightning.attacks.pipeline_tokens import tokens_of, vocabulary_of
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.sampling import requests_of
from rece_lightning.models.text import Embedded


class P4D(TokenSearch):
    """Token search against the original model's noise prediction (Prompting4Debugging, arXiv 2309.06135).

    The loss is the squared distance of the edited denoiser's prediction from the original one's under the concept's own
    prompt, on noised pictures of the original model. The tokens are found by greedy coordinate gradient; the published
    attack moves continuous embeddings and projects them to tokens.

    Args:
        steps: exchanges of a token, at most.
        candidates: exchanges tried a step.
        best: tokens that the gradient likes best, of which is drawn.
        pictures: of the original model.
        noised: noised pictures; every candidate is judged on all of them.
        tokens: of the prompt.
        restarts: independent searches.
        seed: of everything random.
    """

    name: ClassVar[str] = "p4d"
    has: ClassVar[str] = "weights"
    looks_at_weights: ClassVar[bool] = True
    PUBLISHED: ClassVar[Mapping[str, Any]] = {"steps": 3000, "tokens": 16}

    def __init__(
        self,
        steps: int = 8,
        candidates: int = 12,
        best: int = 32,
        pictures: int = 4,
        noised: int = 4,
        tokens: int = 4,
        restarts: int = 2,
        seed: int = 0,
    ) -> None:
        if min(candidates, best, pictures, noised, tokens) < 1:
            raise ConfigurationError("attacks: p4d: candidates, best, pictures, noised and tokens must be 1 or more.")
        super().__init__(Budget(steps, tokens, restarts, seed), candidates, best)
        self.pictures, self.noised = pictures, noised

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """All restarts side by side."""
        check_explains(victim, f"attacks: {self.name}")
        vocabulary = vocabulary_of(victim, goal.forbidden)
        encoder = tokens_of(victim, vocabulary, self.budget.tokens, of_denoiser=True)
        pictures, problem = self.problem(victim, goal)

        def loss(texts: Embedded) -> Tensor:
            return pictures.losses(problem, requests_of(texts))

        with victim.edited():
            return self.minimised(goal, restarts, vocabulary, encoder, loss, cost=len(problem))

    def problem(self, victim: Victim, goal: Goal) -> tuple[Explained, NoisedPictures]:
        """Noised pictures with the original model's answers to the concept's own prompt: the same for all restarts."""
        drawn = OriginalPictures().of(victim, goal, self.pictures)
        pictures = explained(victim, goal.prompt, drawn, f"attacks: {self.name}")
        generator = self.generator(goal, -1)
        timesteps = torch.randint(pictures.levels // 10, pictures.levels, (self.noised,), generator=generator)
        noised = pictures.noised(torch.arange(self.noised) % len(pictures.latents), timesteps, generator)
        (own,) = victim.requests([goal.prompt])
        with victim.original(), torch.no_grad():
            return pictures, replace(noised, answer=pictures.prediction(noised.noisy, noised.timesteps, own))
