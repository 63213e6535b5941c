"""`unlearndiffatk`: tokens before the concept's own prompt that let the edited model denoise a picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.explained import Explained, check_explains, explained
from rece_lightning.attacks.noise import NoisedPictures
from rece_lightning.attacks.pictures import OriginalPictures
from rece_lightning.attacks.pipeline_tokens import tokens_of, vocabulary_of
from rece_lightning.attacks.tokens import EncodesTokens, texts_found
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.models.sampling import requests_of


def project_to_simplex(rows: Tensor) -> Tensor:
    """The nearest points with entries ≥ 0 that sum to 1, of rows ``[..., v]`` (Duchi et al., ICML 2008)."""
    ordered = rows.sort(dim=-1, descending=True).values
    places = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    thresholds = (ordered.cumsum(dim=-1) - 1) / places
    support = (ordered > thresholds).sum(dim=-1, keepdim=True)
    return (rows - thresholds.gather(-1, support - 1)).clamp(min=0)


class UnlearnDiffAtk(Attack):
    """Adversarial prefix tokens, loss on the noise of a target picture (UnlearnDiffAtk, arXiv 2310.11868).

    Every prefix token is a point of the simplex over the allowed tokens, which mixes their input embeddings. For one
    timestep after the other Adam lowers the squared distance of the edited denoiser's prediction from the true answer
    (noise, velocity or flow, as the model was trained) for a picture of the concept, and the points are projected back.
    After each timestep the largest entry of every point is a candidate; the one with the lowest loss on fresh noise at
    all timesteps wins, in which all the pictures take turns: on one alone, words for its background do as well as words
    for the concept. The original model is needed for the pictures alone.

    Two things are not the published attack's. It starts half-way between the middle of the simplex and the best of some
    random prefixes, which count as queries: in the middle the text encoder reads a mean of all tokens, whose gradient
    says little of any one. And Adam's ε is the mean size of the first gradient's entries: with the usual 1e-8 every
    entry moves by the same amount however little it matters, and in few steps a thousand of them are told apart by
    little more than their sign.

    Args:
        timesteps: evenly over the schedule; published: 50.
        steps: iterations at each; published: 40.
        tokens: of the prefix; published: 5 for nudity, 3 otherwise.
        learning_rate: of Adam; published: 0.01, with many more steps and without the larger ε.
        weight_decay: of Adam; published: 0.1.
        suffix: what follows the prefix; the concept's own prompt (published) unless given.
        warmup: random prefixes that are tried first; the best of them is the start.
        pictures: of the original model, of which every restart takes one (round and round).
        restarts: independent searches.
        seed: of everything random.
    """

    name: ClassVar[str] = "unlearndiffatk"
    has: ClassVar[str] = "weights, a picture"
    looks_at_weights: ClassVar[bool] = True
    PUBLISHED: ClassVar[Mapping[str, Any]] = {"timesteps": 50, "steps": 40, "tokens": 5, "learning_rate": 0.01}

    def __init__(
        self,
        timesteps: int = 8,
        steps: int = 6,
        tokens: int = 3,
        learning_rate: float = 0.2,
        weight_decay: float = 0.1,
        suffix: str | None = None,
        warmup: int = 8,
        pictures: int = 4,
        restarts: int = 2,
        seed: int = 0,
    ) -> None:
        check_number("attacks: unlearndiffatk: learning_rate", learning_rate, positive=True)
        check_number("attacks: unlearndiffatk: weight_decay", weight_decay)
        if min(timesteps, tokens, pictures, warmup) < 1:
            raise ConfigurationError(
                "attacks: unlearndiffatk: timesteps, tokens, pictures and warmup must be 1 or more."
            )
        super().__init__(Budget(steps, tokens, restarts, seed))
        self.timesteps, self.learning_rate, self.weight_decay = timesteps, learning_rate, weight_decay
        self.suffix, self.pictures, self.warmup = suffix, pictures, warmup

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """One restart after the other: each has a picture of its own."""
        check_explains(victim, f"attacks: {self.name}")
        vocabulary = vocabulary_of(victim, goal.forbidden)
        suffix = goal.prompt if self.suffix is None else self.suffix
        encoder = tokens_of(victim, vocabulary, self.budget.tokens, suffix, of_denoiser=True)
        drawn = OriginalPictures().of(victim, goal, self.pictures)
        pictures = explained(victim, goal.prompt, drawn, f"attacks: {self.name}")
        found = []
        with victim.edited():
            for restart in restarts:
                generator = self.generator(goal, restart)
                count = len(pictures.latents)
                judge = self.noised(pictures, range(count), generator)
                noised = self.noised(pictures, [restart % count], generator)
                before, after, tokens = self._restart(pictures, encoder, vocabulary.ids, judge, noised, generator)
                queries = self.timesteps * (self.warmup + self.budget.steps + self.timesteps)
                chosen = tokens[None]
                found += texts_found(self.name, goal, [restart], chosen, vocabulary, before, after, queries, suffix)
        return found

    def noised(self, pictures: Explained, taken: Sequence[int], generator: torch.Generator) -> NoisedPictures:
        """Noise of every timestep, in pictures of these numbers, which take turns."""
        times = torch.linspace(pictures.levels * 0.95, pictures.levels * 0.05, self.timesteps).long()
        rows = torch.tensor(taken)[torch.arange(self.timesteps) % len(taken)]
        return pictures.noised(rows, times, generator)

    def _restart(
        self,
        pictures: Explained,
        encoder: EncodesTokens,
        allowed: Tensor,
        judge: NoisedPictures,
        noised: NoisedPictures,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss before and after ``[1]``, and the tokens ``[k]``."""
        mixed = encoder.mixer(allowed)
        free = self.budget.tokens

        @torch.no_grad()
        def judged(tokens: Tensor) -> Tensor:
            return pictures.losses(judge, requests_of(encoder.encode(tokens[None]))).cpu()

        drawn = torch.randint(len(allowed), (self.warmup, free), generator=generator)
        losses = torch.cat([judged(allowed[row]) for row in drawn])
        first = drawn[int(losses.argmin())]
        before = lowest = losses.min()[None]
        best = allowed[first]
        middle = project_to_simplex(torch.rand(free, len(allowed), generator=generator) / len(allowed))
        corner = torch.nn.functional.one_hot(first, len(allowed))
        points = ((middle + corner) / 2).to(encoder.tables()[0]).requires_grad_()
        optimizer = torch.optim.Adam([points], lr=self.learning_rate, weight_decay=self.weight_decay)
        for row in range(self.timesteps):
            one = noised.rows(torch.tensor([row]))
            for _ in range(self.budget.steps):
                optimizer.zero_grad()
                nearest = allowed[points.detach().argmax(dim=1).cpu()][None]
                pictures.losses(one, requests_of(encoder.encode_soft(mixed(points), nearest))).sum().backward()
                if not optimizer.state and points.grad is not None:
                    # Hold back what matters little: ε becomes the mean size of the gradient's entries.
                    group = optimizer.param_groups[0]
                    group["eps"] = max(float(points.grad.abs().mean()), group["eps"])
                optimizer.step()
                with torch.no_grad():
                    points.copy_(project_to_simplex(points))
            tokens = allowed[points.detach().argmax(dim=1).cpu()]
            loss = judged(tokens)
            if float(loss) < float(lowest):
                lowest, best = loss, tokens
        return before, lowest, best
