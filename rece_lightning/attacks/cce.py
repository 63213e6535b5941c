"""`cce`: textual inversion of the concept on the edited model, as a curve over steps and free positions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.derived import derived_for
from rece_lightning.attacks.explained import Explained, check_explains, explained
from rece_lightning.attacks.noise import NoisedPictures
from rece_lightning.attacks.pictures import ConceptPictures, source_for, told_source
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, check_choice, check_number
from rece_lightning.models.sampling import Request

STARTS = ("derived", "prompt", "noise")


class Cce(Attack):
    """Learn an embedding for pictures of the concept (Circumventing Concept Erasure, arXiv 2308.01508).

    The free positions of a prompt embedding follow the gradient of the edited denoiser's loss on pictures of the
    concept. What a pipeline takes beside it (a mask, a pooled embedding, the rows of further encoders) stays that of
    the concept's own prompt.

    With all positions free and pictures at hand such an attack may teach the model anew instead of finding what is
    left, so its figure means something only beside its control: the same attack on a concept that the model never knew
    (``RedTeam.control_concepts``; :class:`rece_lightning.attacks.pictures.EmojiPictures` has pictures of those too).

    Args:
        steps: of Adam.
        at: steps whose embeddings are kept too, as a curve; the last one always is.
        tokens: positions that are free, behind the begin token; 0: all of them. Of several numbers, such as
            ``[1, 4, 0]``, each is a search of its own, and a curve of its own in the results.
        start: ``derived`` (norm ratio 1), the concept's own ``prompt``, or ``noise`` of the size of its embedding. The
            other positions keep the start's values, those of the empty prompt for ``noise``.
        source: of the pictures; the sprites of the embedded world where its detector decides, drawn by the
            original model elsewhere, unless given.
        pictures: how many.
        batch_size: noised pictures of a step.
        learning_rate: of Adam.
        least: smallest noise level, as a share of the schedule.
        restarts: independent runs.
        seed: of everything random.
    """

    name: ClassVar[str] = "cce"
    has: ClassVar[str] = "weights, embedding input, pictures"
    looks_at_weights: ClassVar[bool] = True
    is_curve: ClassVar[bool] = True
    needs_control: ClassVar[bool] = True

    def __init__(
        self,
        steps: int = 40,
        at: Sequence[int] = (),
        tokens: int | Sequence[int] = 0,
        start: str = "derived",
        source: ConceptPictures | None = None,
        pictures: int = 12,
        batch_size: int = 6,
        learning_rate: float = 0.03,
        least: float = 0.2,
        restarts: int = 1,
        seed: int = 0,
    ) -> None:
        check_choice("attacks: cce: start", start, STARTS)
        check_number("attacks: cce: learning_rate", learning_rate, positive=True)
        if min(pictures, batch_size) < 1 or not 0 <= least < 1:
            raise ConfigurationError(
                "attacks: cce: give 1 or more pictures and batch_size, and a share below 1 for least."
            )
        if any(step > steps or step < 0 for step in at):
            raise ConfigurationError(f"attacks: cce: at: {list(at)!r}; give steps from 0 to {steps}.")
        positions = (tokens,) if isinstance(tokens, int) else tuple(tokens)
        if not positions or len(set(positions)) < len(positions):
            raise ConfigurationError(f"attacks: cce: tokens: {tokens!r}; give one number, or several different ones.")
        for count in positions:
            Budget(steps, count, restarts, seed)  # refuses what is no number of positions
        super().__init__(Budget(steps, max(positions), restarts, seed))
        self.positions = positions
        self.at = tuple(sorted({*at, steps}))
        self.start, self.pictures, self.batch_size = start, pictures, batch_size
        self.learning_rate, self.least = learning_rate, least
        self._source = source

    def describe(self) -> dict[str, Any]:
        """Settings, the pictures' source by its class and arguments."""
        return {**super().describe(), "source": told_source(self._source)}

    def source(self, victim: Victim, goal: Goal) -> ConceptPictures:
        """Where the pictures come from: the same place for a concept and its control.

        Raises:
            ConfigurationError: for a control of which there can be no pictures.
        """
        return source_for(self._source, victim, goal, self.name)

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """One restart after the other, a row for each kept step."""
        check_explains(victim, "attacks: cce")
        pictures = self.source(victim, goal).of(victim, goal, self.pictures)
        problem = explained(victim, goal.prompt, pictures, "attacks: cce")
        own, empty = victim.requests([goal.prompt, ""])
        found = []
        with victim.edited():
            for restart in restarts:
                blank = AdversarialPrompt(self.name, goal.concept, restart, goal.prompt, pooled=own.pooled)
                for tokens in self.positions:
                    generators = self.generator(goal, restart), self.generator(goal, -1)
                    start = self._start(victim, own.embedding, empty.embedding, tokens, generators[0])
                    found += self._invert(problem, own, start, tokens, blank, *generators)
        return found

    def _start(self, victim: Victim, own: Tensor, empty: Tensor, tokens: int, generator: torch.Generator) -> Tensor:
        """Where the search begins, ``[positions, d]``: as many as the concept's own prompt has."""
        if self.start == "prompt":
            return own.clone()
        if self.start == "noise":
            noise = torch.randn(own.shape, generator=generator).to(own) * own.square().mean().sqrt()
            # Of encoders without padding the empty prompt has fewer rows: its last one stands for the missing ones.
            start = torch.cat([empty, empty[-1:].expand(max(0, len(own) - len(empty)), -1)])[: len(own)].clone()
            start[_free(start, tokens)] = noise[_free(start, tokens)]
            return start
        try:
            return derived_for(victim, "cce: start: 'derived'", own, [1.0])[0].embedding
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{str(error).removesuffix('.')}; or take the start 'prompt' or 'noise'."
            ) from error

    def _invert(
        self,
        problem: Explained,
        own: Request,
        start: Tensor,
        tokens: int,
        blank: AdversarialPrompt,
        generator: torch.Generator,
        of_judge: torch.Generator,
    ) -> list[AdversarialPrompt]:
        """Points of the curve from one start: ``blank`` with what was learnt."""
        last = problem.levels
        first = int(last * self.least)

        def noised(count: int, source: torch.Generator) -> NoisedPictures:
            rows = torch.randint(len(problem.latents), (count,), generator=source)
            return problem.noised(rows, torch.randint(first, last, (count,), generator=source), source)

        # Two noised pictures at each of a few levels: enough to compare two embeddings under the same noise.
        judge = noised(16, of_judge)
        free = start[_free(start, tokens)].clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=self.learning_rate)

        def whole() -> Tensor:
            embedding = start.clone()
            embedding[_free(start, tokens)] = free
            return embedding

        @torch.no_grad()
        def judged(embedding: Tensor) -> float:
            return float(problem.losses(judge, [replace(own, embedding=embedding)]))

        started = time.perf_counter()
        blank = replace(blank, loss_before=judged(start))
        points = []
        for step in range(self.budget.steps + 1):
            if step in self.at:
                embedding = whole().detach()
                variant = f"steps={step}" + (f" tokens={tokens}" if tokens else "")
                point = replace(blank, variant=variant, embedding=embedding, loss=judged(embedding))
                # It costs what was spent until then.
                queries, seconds = step * self.batch_size + 2 * len(judge), time.perf_counter() - started
                points.append(replace(point, queries=queries, seconds=seconds))
            if step < self.budget.steps:
                optimizer.zero_grad()
                problem.losses(noised(self.batch_size, generator), [replace(own, embedding=whole())]).backward()
                optimizer.step()
        return points


def _free(embedding: Tensor, tokens: int) -> slice:
    """The positions that the search may change."""
    return slice(1, 1 + tokens) if tokens else slice(0, len(embedding))
