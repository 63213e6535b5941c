"""`unlearndiffatk`: tokens before the concept's own prompt that let the edited model denoise a picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.found import texts_found
from rece_lightning.attacks.noise import NoisedPictures, add_noise, latents_of, noise_loss
from rece_lightning.attacks.pictures import OriginalPictures
from rece_lightning.attacks.tokens import Template, TokenEncoder
from rece_lightning.attacks.victim import Victim
from rece_lightning.attacks.vocabulary import Vocabulary
from rece_lightning.core.errors import ConfigurationError, check_number


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
    timestep after the other Adam lowers the squared distance of the edited U-Net's prediction from the true noise of a
    picture of the concept, and the points are projected back. After each timestep the largest entry of every point is a
    candidate; the one with the lowest loss on fresh noise at all timesteps wins. The original model is needed for the
    picture alone.

    Args:
        timesteps: evenly over the schedule; published: 50.
        steps: iterations at each; published: 40.
        tokens: of the prefix; published: 5 for nudity, 3 otherwise.
        learning_rate: of Adam; published: 0.01, with many more steps.
        weight_decay: of Adam; published: 0.1.
        suffix: what follows the prefix; the concept's own prompt (published) unless given.
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
        learning_rate: float = 0.05,
        weight_decay: float = 0.1,
        suffix: str | None = None,
        pictures: int = 4,
        restarts: int = 2,
        seed: int = 0,
    ) -> None:
        check_number("attacks: unlearndiffatk: learning_rate", learning_rate, positive=True)
        check_number("attacks: unlearndiffatk: weight_decay", weight_decay)
        if min(timesteps, tokens, pictures) < 1:
            raise ConfigurationError("attacks: unlearndiffatk: timesteps, tokens and pictures must be 1 or more.")
        super().__init__(Budget(steps, tokens, restarts, seed))
        self.timesteps, self.learning_rate, self.weight_decay = timesteps, learning_rate, weight_decay
        self.suffix, self.pictures = suffix, pictures

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """One restart after the other: each has a picture of its own."""
        latents = latents_of(victim.pipeline, OriginalPictures().of(victim, goal, self.pictures))
        vocabulary = Vocabulary(victim.encoder.tokenizer, goal.forbidden)
        suffix = goal.prompt if self.suffix is None else self.suffix
        own = victim.encoder.tokenizer(suffix, add_special_tokens=False)["input_ids"]
        template = Template.prefixed(self.budget.tokens, own)
        encoder = TokenEncoder(victim.encoder, template)
        found = []
        with victim.edited() as unet:
            for restart in restarts:
                generator = self.generator(goal, restart)
                before, after, tokens = self._restart(
                    victim.pipeline, unet, encoder, vocabulary, latents[restart % len(latents)], generator
                )
                queries = self.timesteps * (self.budget.steps + self.timesteps + 1)
                found += texts_found(
                    self.name, goal, [restart], tokens[None], vocabulary, before, after, queries, template
                )
        return found

    def noised(self, pipeline: Any, latent: Tensor, generator: torch.Generator) -> NoisedPictures:
        """A picture's latent ``[c, h, w]`` with noise of every timestep."""
        last = pipeline.scheduler.config.num_train_timesteps
        times = torch.linspace(last * 0.95, last * 0.05, self.timesteps).long()
        return add_noise(pipeline, latent[None].expand(self.timesteps, -1, -1, -1), times, generator)

    def _restart(
        self,
        pipeline: Any,
        unet: Any,
        encoder: TokenEncoder,
        vocabulary: Vocabulary,
        latent: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss before and after ``[1]``, and the tokens ``[k]``."""
        allowed = vocabulary.ids
        tables = [table.detach()[allowed.to(table.device)] for table in encoder.tables()]
        judge, noised = (self.noised(pipeline, latent, generator) for _ in range(2))
        free = self.budget.tokens
        # Near the middle of the simplex, so that no token is ruled out at the start.
        points = project_to_simplex(torch.rand(free, len(allowed), generator=generator) / len(allowed))
        points = points.to(tables[0]).requires_grad_()
        optimizer = torch.optim.Adam([points], lr=self.learning_rate, weight_decay=self.weight_decay)

        def judged() -> tuple[Tensor, Tensor]:
            tokens = allowed[points.detach().argmax(dim=1).cpu()]
            with torch.no_grad():
                embeddings, pooled = encoder.encode(tokens[None])
                return noise_loss(unet, judge, embeddings, pooled).cpu(), tokens

        before, best = judged()
        lowest = before
        for row in range(self.timesteps):
            one = noised.rows(torch.tensor([row]))
            for _ in range(self.budget.steps):
                optimizer.zero_grad()
                mixed = [(points.to(table) @ table)[None] for table in tables]
                noise_loss(unet, one, *encoder.encode_soft(mixed)).sum().backward()
                optimizer.step()
                with torch.no_grad():
                    points.copy_(project_to_simplex(points))
            loss, tokens = judged()
            if float(loss) < float(lowest):
                lowest, best = loss, tokens
        return before, lowest, best
