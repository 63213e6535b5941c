"""`derived`: the embedding that brings a concept back, in closed form, as a curve over its norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.budget import Reach
from rece_lightning.core.derivation import Derivation
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import rounding_of
from rece_lightning.evaluation.derived import normed

SMALLEST_RIDGE = 1e-9
"""Share of ``tr(G)/d`` below which, as where the bound does not bind, float64 has no correct digit."""


@dataclass(frozen=True)
class DerivedPoint:
    """One point of the curve."""

    ridge: float
    """λ at which the derived embedding has this norm."""
    ratio: float
    """``‖c'‖/‖c‖`` that was reached; less than asked where the free optimum is shorter."""
    embedding: Tensor
    """``[positions, d]``."""
    residual: float
    """``Σ‖W_t c' − W_0 c‖² / Σ‖W_0 c‖²``."""


def derived_curve(gram: Gram, maps: AnyMap, embedding: Tensor, ratios: Sequence[float]) -> list[DerivedPoint]:
    """Solve ``min Σ_l ‖W_l M c' − W_l c‖²`` over ``‖c'‖ ≤ β‖c‖`` for several β > 0; a point for each, in their order.

    The minimiser is RECE's derived embedding for the ridge λ at which it has that norm, which is the multiplier of
    :mod:`rece_lightning.core.budget`. All positions of the prompt share one λ and one bound on their Frobenius norm.

    Args:
        gram: ``G``.
        maps: ``M``.
        embedding: ``c``, ``[positions, d]``.
        ratios: β.
    """
    edited, cross = maps.grams(gram)
    concept = embedding.to(edited.device, edited.dtype)
    attacks = Reach.of(gram, maps).prompts(concept)
    own = float(concept.square().sum())
    # Behind a map that enlarges what it maps rounding is larger; twice as much is told from it.
    least = max(SMALLEST_RIDGE * gram.scale, 2 * rounding_of(edited))
    points = []
    for ratio in ratios:
        ridge = max(float(attacks.multiplier(ratio)), least)
        found = Derivation(ridge)(gram, maps).apply(concept)
        reached = float((found.square().sum() / own).sqrt())
        points.append(DerivedPoint(ridge, reached, found.to(embedding), _missing(gram, edited, cross, concept, found)))
    return points


def derived_for(victim: Victim, attack: str, embedding: Tensor, ratios: Sequence[float]) -> list[DerivedPoint]:
    """The curve of an embedding as a prompt has it, ``[positions, d]``.

    Where the denoiser puts a norm before what reads it, the curve is that of the normed rows; the norm leaves a point's
    direction.

    Raises:
        ConfigurationError: if the map of the edit is not known, or is one behind something else.
    """
    gram, maps = victim.of_the_edit(attack)
    if victim.gain is None:
        return derived_curve(gram, maps, embedding, ratios)
    points = derived_curve(gram, maps, normed(embedding, victim.gain), ratios)
    return [replace(point, embedding=point.embedding / victim.gain.to(point.embedding)) for point in points]


def _missing(gram: Gram, edited: Tensor, cross: Tensor, concept: Tensor, given: Tensor) -> float:
    """``Σ‖W_t g − W_0 c‖² / Σ‖W_0 c‖²`` of an embedding ``g`` in a concept's place, from ``MᵀGM`` and ``MᵀG``."""
    answer = torch.trace(concept @ gram.total @ concept.mT)
    left = torch.trace(given @ edited @ given.mT) - 2 * torch.trace(given @ cross @ concept.mT) + answer
    return float(left / answer)


class Derived(Attack):
    """The closed form with the attacker's own ridge: what RECE itself erases with (arXiv 2407.12383).

    No picture and no search: the keys and values of the edited model under ``c'`` are as near to the original's under
    ``c`` as a norm of ``β‖c‖`` allows. Every β is a variant of the one restart; its loss is the relative residual.

    Args:
        ratios: β. Where the free optimum is shorter, larger ones give that one.
        seed: stands in the results; nothing is random.
    """

    name: ClassVar[str] = "derived"
    has: ClassVar[str] = "weights, embedding input"
    looks_at_weights: ClassVar[bool] = True
    is_curve: ClassVar[bool] = True

    def __init__(self, ratios: Sequence[float] = (0.25, 0.5, 1.0, 2.0), seed: int = 0) -> None:
        if not ratios:
            raise ConfigurationError("attacks: derived: ratios: empty; give norm ratios such as [0.5, 1].")
        for ratio in ratios:
            check_number("attacks: derived: ratios", ratio, positive=True)
        super().__init__(Budget(seed=seed))
        self.ratios = tuple(float(ratio) for ratio in ratios)

    def search(self, victim: Victim, goal: Goal, restarts: Sequence[int]) -> list[AdversarialPrompt]:
        """A point for each norm ratio."""
        gram, maps = victim.of_the_edit(self.name)
        concept, pooled = victim.encoded(goal.prompt)
        points = derived_for(victim, self.name, concept, self.ratios)
        edited, cross = maps.grams(gram)
        wide = (concept if victim.gain is None else normed(concept, victim.gain)).to(edited.device, edited.dtype)
        plain = AdversarialPrompt(
            self.name,
            goal.concept,
            restarts[0],
            goal.prompt,
            pooled=pooled,
            loss_before=_missing(gram, edited, cross, wide, wide),
            queries=1,
        )
        return [
            replace(plain, variant=f"ratio={ratio:g}", embedding=point.embedding, loss=point.residual)
            for ratio, point in zip(self.ratios, points, strict=True)
        ]
