"""The certificates of an edited model, concept by concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rece_lightning.core.budget import Reach
from rece_lightning.core.certificate import certify

if TYPE_CHECKING:
    from rece_lightning.module import RECE

BUDGETS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ConceptCertificate:
    """What no embedding brings back of one erased prompt."""

    prompt: str
    bounds: dict[float | None, float]
    """β → δ over the concept's own difference to its target, all rows of the prompt under one budget."""
    residuals: dict[float, float]
    """β → what an embedding reaches that was found: the truth lies between, and δ is the lower end."""
    holds_to: float
    """The budget up to which the bound without one was checked; infinite where that bound is 0."""
    error: float
    """The largest share that rounding may have in a bound; taken off already."""


@torch.no_grad()
def certify_module(module: RECE, budgets: Sequence[float] = BUDGETS) -> list[ConceptCertificate]:
    """Certificates of every erased prompt, about the weights as they are stored: in the base model's dtype.

    Args:
        module: that was fitted, or loaded from a checkpoint.
        budgets: β, beside the one without.

    Raises:
        ConfigurationError: if nothing was edited yet, or a budget is negative.
    """
    gram, maps = module.gram, module.maps
    device = gram.total.device
    stored = next(iter(module.base.read_projections(module.names[:1])))[1].dtype
    reach = Reach.of(gram, maps)
    results = []
    for prompt, pair in zip(module.erased_prompts, module.pairs, strict=True):
        concept, target = (rows.to(device).double()[None] for rows in (pair.concept, pair.target))
        difference = concept - target
        size = float(((difference @ gram.total) * difference).sum())
        asked: list[float | None] = [*budgets, None]
        found = {b: certify(gram, maps, concept, target, b, stored=stored, reach=reach) for b in asked}
        results.append(
            ConceptCertificate(
                prompt,
                {budget: float(one.relative) for budget, one in found.items()},
                {budget: float(found[budget].bound + found[budget].gap) / size for budget in budgets},
                float(found[None].holds_to),
                max(float(one.error) / size for one in found.values()),
            )
        )
    return results
