"""`inverted`: start from the noise that a picture of the concept comes from, with and without the concept's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.explained import check_explains, explained, size_drawn
from rece_lightning.attacks.pictures import ConceptPictures, fitted, pictures_of_another, source_for, told_source
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import check_count
from rece_lightning.models.inversion import noise_behind
from rece_lightning.models.sampling import use_scheduler

INVERTED, OTHER, ALIKE = "inverted", "other", "alike"
OWN, NONE = "own", "none"
VARIANTS = ((INVERTED, OWN), (INVERTED, NONE), (OTHER, OWN), (ALIKE, OWN))
"""What the starting noise is, and the text: the attack with and without text, and two controls of it."""


FIELD = "attacks: inverted"


class Inverted(Attack):
    """Begin at the noise that pictures of the concept come from, on the edited model (as TINA does without a text).

    A deterministic sampler is an equation, and run backwards it takes a picture to a noise that it comes from (DDIM
    inversion; of a flow model the flow itself). From there the edited model draws with the concept's own prompt, and
    with no text at all. That a picture comes back says that the model can draw it, not that it found it: so there are
    controls. On the same concept, the same with pictures of another thing (``noise=other``), and with random noise of
    the mean and deviation of the inverted one (``noise=alike``). Beside it, the whole attack on a concept that the
    model never knew (``RedTeam.control_concepts``), whose pictures come back just as well where the noise alone
    carries them.

    The noise is the whole of what it finds: every picture is drawn once, whatever the number of seeds. The sampler must
    be deterministic, as DDIM and Euler are.

    Args:
        steps: of the way back.
        source: of the pictures; the sprites of the embedded world where its detector decides, drawn by the
            original model elsewhere, unless given. Pictures of another size than the model draws are scaled to it.
        pictures: how many.
        seed: of the random noise.
    """

    name: ClassVar[str] = "inverted"
    has: ClassVar[str] = "weights, starting noise, pictures"
    looks_at_weights: ClassVar[bool] = True
    is_curve: ClassVar[bool] = True
    needs_control: ClassVar[bool] = True
    finds_noise: ClassVar[bool] = True

    def __init__(
        self, steps: int = 50, source: ConceptPictures | None = None, pictures: int = 6, seed: int = 0
    ) -> None:
        check_count("attacks: inverted: steps", steps)
        check_count("attacks: inverted: pictures", pictures)
        super().__init__(Budget(steps, seed=seed))
        self.pictures, self._source = pictures, source

    def describe(self) -> dict[str, Any]:
        """Settings, the pictures' source by its class and arguments."""
        return {**super().describe(), "source": told_source(self._source)}

    @torch.no_grad()
    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """A row for every picture of every variant."""
        check_explains(victim, FIELD)
        source, size = source_for(self._source, victim, goal, self.name), size_drawn(victim, goal.prompt, FIELD)
        given = {
            INVERTED: source.of(victim, goal, self.pictures),
            OTHER: pictures_of_another(source, victim, goal, self.pictures),
        }
        # The noise has the size of what the model draws from it.
        shown = {noise: fitted(pictures, size, source, self.name) for noise, pictures in given.items()}
        use_scheduler(victim.pipeline, victim.sampling.scheduler)
        found = []
        with victim.edited():
            for restart in restarts:
                behind: dict[tuple[str, str], Tensor] = {}
                for noise, text in VARIANTS:
                    prompt = goal.prompt if text == OWN else ""
                    if noise != ALIKE:
                        behind[noise, text] = self._invert(victim, prompt, shown[noise])
                    else:
                        behind[noise, text] = self._alike(behind[INVERTED, text], goal, restart)
                    queries = self.budget.steps * self.pictures
                    found += [
                        AdversarialPrompt(
                            self.name, goal.concept, restart, prompt, f"noise={noise} text={text}", latents=latents,
                            queries=queries,
                        )
                        for latents in behind[noise, text]
                    ]  # fmt: skip
        return found

    def _invert(self, victim: Victim, prompt: str, pictures: Tensor) -> Tensor:
        """The noise behind pictures ``[n, 3, h, w]`` under a text, ``[n, …]``."""
        (own,) = victim.requests([prompt])
        problem = explained(victim, prompt, pictures, FIELD)
        return noise_behind(
            victim.pipeline.scheduler,
            problem.latents,
            self.budget.steps,
            victim.sampling.steps,
            lambda noisy, timestep: problem.prediction(noisy, timestep.expand(len(noisy)), own),
            FIELD,
        )

    def _alike(self, inverted: Tensor, goal: Goal, restart: int) -> Tensor:
        """Random noise, each with the mean and the standard deviation of an inverted one."""
        drawn = torch.randn(inverted.shape, generator=self.generator(goal, restart)).to(inverted)
        each = tuple(range(1, inverted.ndim))
        return inverted.mean(each, keepdim=True) + inverted.std(each, keepdim=True) * drawn
