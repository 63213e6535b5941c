"""Ring-A-Bell: the concept's direction added to an innocent prompt's embedding, and prompts that lie where it leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.pipeline_tokens import tokens_of, vocabulary_of
from rece_lightning.attacks.tokens import EncodesTokens, Vocabulary, texts_found
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.token_inputs import read_rows


@torch.no_grad()
def concept_direction(encoder: EncodesPrompts, goal: Goal, source: str = TEXT) -> Tensor:
    """Mean difference of the embeddings of the goal's pairs, ``[positions, d]`` (Ring-A-Bell, arXiv 2310.10012).

    Where an encoder gives as many rows as there are tokens, the longest prompt has all of them, and what a shorter one
    lacks is zero.

    Raises:
        ConfigurationError: if the goal has no pair.
    """
    if not goal.pairs:
        raise ConfigurationError(f"attacks: {goal.concept!r} has no prompt pairs; give prompts with and without it.")
    difference = torch.zeros(0, 0)
    for first in range(0, len(goal.pairs), 64):
        part = goal.pairs[first : first + 64]
        sides = [read_rows(encoder, [pair[side] for pair in part], source).double() for side in (0, 1)]
        most = max(len(difference), *(side.shape[1] for side in sides))
        with_it, without = (of_length(side, most) for side in sides)
        former = of_length(difference, most) if len(difference) else torch.zeros(with_it.shape[1:])
        difference = former.to(with_it) + (with_it - without).sum(dim=0)
    return difference / len(goal.pairs)


def of_length(rows: Tensor, count: int) -> Tensor:
    """Rows ``[..., positions, d]`` cut to this many positions, or with zeros behind them."""
    return torch.nn.functional.pad(rows, (0, 0, 0, max(0, count - rows.shape[-2])))[..., :count, :]


def _check_carriers(attack: Attack, goal: Goal) -> None:
    if not goal.carriers:
        raise ConfigurationError(f"attacks: {attack.name}: {goal.concept!r} has no carrier prompts; give some.")


class RingABellEmbedding(Attack):
    """``E(p) + η v``, as RECE reproduces Ring-A-Bell (arXiv 2310.10012; RECE, arXiv 2407.12383).

    ``v`` is the mean difference of the embeddings of prompt pairs with and without the concept, ``p`` a prompt about
    something else: every carrier of the goal is a restart. There is no search and nothing is random.

    Args:
        strength: η; published: 3 for nudity, 0.9 for Van Gogh.
        seed: stands in the results.
    """

    name: ClassVar[str] = "ring-a-bell-embedding"
    has: ClassVar[str] = "text encoder, embedding input"

    def __init__(self, strength: float = 3.0, seed: int = 0) -> None:
        check_number("attacks: ring-a-bell-embedding: strength", strength, positive=True)
        super().__init__(Budget(seed=seed))
        self.strength = float(strength)

    def restarts(self, goal: Goal) -> int:
        """One for each carrier."""
        _check_carriers(self, goal)
        return len(goal.carriers)

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """The carriers' embeddings, moved."""
        carriers = [goal.carriers[restart] for restart in restarts]
        encoded = victim.encoder.encode(carriers)
        direction = concept_direction(victim.encoder, goal)
        moved = [
            own.double() + self.strength * of_length(direction, len(own)).to(own.device)
            for own in (encoded.embedding(row) for row in range(len(carriers)))
        ]
        return [
            AdversarialPrompt(
                self.name,
                goal.concept,
                restart,
                carrier,
                embedding=moved[row].to(encoded.embeddings.dtype),
                pooled=None if encoded.pooled is None else encoded.pooled[row],
                queries=2 * len(goal.pairs) + 1,
            )
            for row, (restart, carrier) in enumerate(zip(restarts, carriers, strict=True))
        ]


class RingABell(Attack):
    """Genetic search over tokens towards ``E(p) + η v`` (Ring-A-Bell, arXiv 2310.10012).

    The target is that of ``ring-a-bell-embedding``; restart ``r`` takes carrier ``r`` (round and round). A generation
    keeps the better half of its population; children of two of them take the first tokens of one and the others of
    the other (with probability ``crossover``) and get one random token (with probability ``mutation``, and where they
    would be copies of a parent). The loss is the mean squared distance to the target over all positions. The attacker
    never sees the U-Net.

    Args:
        strength: η.
        steps: generations.
        population: prompts of a generation, a restart.
        tokens: of the prompt.
        crossover: probability that a child has two parents.
        mutation: probability that a child gets a random token.
        restarts: independent searches.
        seed: of everything random.
    """

    name: ClassVar[str] = "ring-a-bell"
    has: ClassVar[str] = "text encoder"
    PUBLISHED: ClassVar[Mapping[str, Any]] = {"strength": 3.0, "steps": 3000, "population": 200, "tokens": 16}

    def __init__(
        self,
        strength: float = 3.0,
        steps: int = 40,
        population: int = 48,
        tokens: int = 3,
        crossover: float = 0.5,
        mutation: float = 0.25,
        restarts: int = 4,
        seed: int = 0,
    ) -> None:
        check_number("attacks: ring-a-bell: strength", strength, positive=True)
        for field, value in (("crossover", crossover), ("mutation", mutation)):
            if not 0 <= value <= 1:
                raise ConfigurationError(f"attacks: ring-a-bell: {field}: {value!r}; give a probability from 0 to 1.")
        if population < 4 or tokens < 1:
            raise ConfigurationError(
                f"attacks: ring-a-bell: population {population!r}, tokens {tokens!r}; give at least 4 and 1."
            )
        super().__init__(Budget(steps, tokens, restarts, seed))
        self.strength, self.population = float(strength), population
        self.crossover, self.mutation = crossover, mutation

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """All restarts side by side: their prompts are encoded together."""
        _check_carriers(self, goal)
        vocabulary = vocabulary_of(victim, goal.forbidden)
        encoder = tokens_of(victim, vocabulary, self.budget.tokens)
        carriers = [goal.carriers[restart % len(goal.carriers)] for restart in restarts]
        direction = concept_direction(victim.encoder, goal, victim.source)
        own = read_rows(victim.encoder, carriers, victim.source).double()
        most = max(len(direction), own.shape[1])
        target = of_length(own, most) + self.strength * of_length(direction, most)
        generators = [self.generator(goal, restart) for restart in restarts]
        size, free = self.population, self.budget.tokens
        people = torch.stack([vocabulary.draw(size * free, generator).view(size, free) for generator in generators])
        losses = self._losses(encoder, people, target)
        before = losses[:, 0].clone()
        for _ in range(self.budget.steps):
            order = losses.argsort(dim=1, stable=True)[:, : size // 2]
            parents = torch.gather(people, 1, order[:, :, None].expand(-1, -1, free))
            losses = torch.gather(losses, 1, order)
            pairs = zip(parents, generators, strict=True)
            children = torch.stack([self._children(rows, size - size // 2, vocabulary, one) for rows, one in pairs])
            people = torch.cat([parents, children], dim=1)
            losses = torch.cat([losses, self._losses(encoder, children, target)], dim=1)
        after, best = losses.min(dim=1)
        tokens = people[torch.arange(len(restarts)), best]
        queries = size + self.budget.steps * (size - size // 2)
        return texts_found(self.name, goal, restarts, tokens, vocabulary, before, after, queries)

    def _losses(self, encoder: EncodesTokens, people: Tensor, target: Tensor) -> Tensor:
        """Mean squared distance of every prompt ``[r, n, k]`` to its restart's target, ``[r, n]``."""
        embeddings = encoder.encode(people.flatten(0, 1)).embeddings
        most = max(embeddings.shape[1], target.shape[1])
        given = of_length(embeddings, most)
        distance = given.view(*people.shape[:2], *given.shape[1:]) - of_length(target, most)[:, None].to(given)
        return distance.square().mean(dim=(2, 3)).cpu()

    def _children(self, parents: Tensor, count: int, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """Children ``[count, k]`` of a restart's parents ``[m, k]``."""
        free = parents.shape[1]
        pairs = parents[torch.randint(len(parents), (2, count), generator=generator)]
        cuts = torch.randint(1, free + 1, (count, 1), generator=generator)
        mixed = torch.rand(count, 1, generator=generator) < self.crossover
        # A cut behind the last token leaves the first parent whole.
        children = torch.where(mixed & (torch.arange(free) >= cuts), pairs[1], pairs[0])
        changed = torch.rand(count, generator=generator) < self.mutation
        # A copy of a parent would cost a query and find nothing.
        changed |= (children[:, None] == parents).all(dim=2).any(dim=1)
        places = torch.randint(free, (count,), generator=generator)
        fresh = vocabulary.draw(count, generator)
        children[changed, places[changed]] = fresh[changed]
        return children
