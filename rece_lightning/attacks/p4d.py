"""`p4d`: tokens under which the edited model predicts the noise that the original predicts under the concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Budget, Goal
from rece_lightning.attacks.coordinate import TokenSearch
from rece_lightning.attacks.noise import NoisedPictures, add_noise, latents_of, noise_loss, predict
from rece_lightning.attacks.pictures import OriginalPictures
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError

TOGETHER = 32
"""Noised pictures that go through the U-Net at once."""


class P4D(TokenSearch):
    """Token search against the original model's noise prediction (Prompting4Debugging, arXiv 2309.06135).

    The loss is the squared distance of the edited U-Net's prediction from the original U-Net's under the concept's own
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
    noises_pictures: ClassVar[bool] = True
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
        problem = self.problem(victim, goal)
        with victim.edited() as unet:

            def loss(embeddings: Tensor, pooled: Tensor | None) -> Tensor:
                size = max(1, TOGETHER // len(problem))
                parts = embeddings.split(size)
                pooled_parts: Sequence[Tensor | None] = [None] * len(parts) if pooled is None else pooled.split(size)
                pairs = zip(parts, pooled_parts, strict=True)
                return torch.cat([noise_loss(unet, problem, *pair) for pair in pairs])

            return self.minimised(victim, goal, restarts, loss, cost=len(problem))

    def problem(self, victim: Victim, goal: Goal) -> NoisedPictures:
        """Noised pictures with the original model's answers to the concept's own prompt: the same for all restarts."""
        latents = latents_of(victim.pipeline, OriginalPictures().of(victim, goal, self.pictures))
        generator = self.generator(goal, -1)
        last = victim.pipeline.scheduler.config.num_train_timesteps
        timesteps = torch.randint(last // 10, last, (self.noised,), generator=generator)
        noised = add_noise(victim.pipeline, latents[torch.arange(self.noised) % len(latents)], timesteps, generator)
        encoded = victim.encoder.encode([goal.prompt])
        with victim.original() as unet, torch.no_grad():
            parts = torch.arange(self.noised).split(TOGETHER)
            said = [predict(unet, noised.rows(rows), encoded.embeddings, encoded.pooled)[0] for rows in parts]
        return replace(noised, answer=torch.cat(said))
