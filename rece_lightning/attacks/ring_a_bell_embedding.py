"""`ring-a-bell-embedding`: the concept's mean direction added to the embedding of an innocent prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.pairs import concept_direction
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, check_number


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
    gives: ClassVar[str] = "embedding"

    def __init__(self, strength: float = 3.0, seed: int = 0) -> None:
        check_number("attacks: ring-a-bell-embedding: strength", strength, positive=True)
        super().__init__(Budget(seed=seed))
        self.strength = float(strength)

    def restarts(self, goal: Goal) -> int:
        """One for each carrier."""
        if not goal.carriers:
            raise ConfigurationError(f"attacks: {self.name}: {goal.concept!r} has no carrier prompts; give some.")
        return len(goal.carriers)

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """The carriers' embeddings, moved."""
        carriers = [goal.carriers[restart] for restart in restarts]
        encoded = victim.encoder.encode(carriers)
        moved = encoded.embeddings.double() + self.strength * concept_direction(victim.encoder, goal)
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
