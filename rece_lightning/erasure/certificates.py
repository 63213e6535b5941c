"""The certificates of a finished erasure, concept by concept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rece_lightning.core.budget import Reach
from rece_lightning.core.certificate import certify
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.method import Method
from rece_lightning.erasure.encoding import EncodedPair
from rece_lightning.erasure.erasure import Erasure

CERTIFICATE = "certificate"
"""Of every epoch's figures, where ``model.certificate`` asks for it."""
BUDGETS = (0.25, 0.5, 1.0, 2.0)
ANY = "any"
"""Norm of embeddings that a certificate is over."""


@dataclass(frozen=True)
class ConceptCertificate:
    """What no embedding brings back of one erased prompt in one text space."""

    prompt: str
    bounds: dict[float | None, float]
    """β → δ over the concept's own difference to its target, all rows of the prompt under one budget."""
    residuals: dict[float, float]
    """β → what an embedding reaches that was found: the truth lies between, and δ is the lower end."""
    holds_to: float
    """The budget up to which the bound without one was checked; infinite where that bound is 0."""
    error: float
    """The largest share that rounding may have in a bound; taken off already."""
    space: str = "text"


@torch.no_grad()
def certificates(
    erasure: Erasure,
    prompts: Sequence[str],
    pairs: Mapping[str, Sequence[EncodedPair]],
    budgets: Sequence[float] = BUDGETS,
) -> list[ConceptCertificate]:
    """Certificates of every erased prompt, about the weights as they are stored: in the base model's dtype.

    Args:
        erasure: whose maps they are about.
        prompts: that are erased.
        pairs: text space → the same, encoded with their targets.
        budgets: β, beside the one without.

    Raises:
        ConfigurationError: if a budget is negative.
    """
    results = []
    stored = next(erasure.original())[1].dtype
    for one in erasure.spaces:
        reach = Reach.of(one.gram, one.maps)
        for prompt, pair in zip(prompts, pairs[one.space.name], strict=True):
            device = one.gram.total.device
            concept, target = (rows.to(device).double()[None] for rows in (pair.concept, pair.target))
            difference = concept - target
            # A prompt that is its own target has no way back.
            size = float(((difference @ one.gram.total) * difference).sum()) or math.nan
            asked: list[float | None] = [*budgets, None]
            found = {b: certify(one.gram, one.maps, concept, target, b, stored=stored, reach=reach) for b in asked}
            results.append(
                ConceptCertificate(
                    prompt,
                    {budget: float(bound.relative) for budget, bound in found.items()},
                    {budget: float(found[budget].bound + found[budget].gap) / size for budget in budgets},
                    float(found[None].holds_to),
                    max(float(bound.error) / size for bound in found.values()),
                    one.space.name,
                )
            )
    return results


def smallest_certificate(
    erasure: Erasure, prompts: Sequence[str], pairs: Mapping[str, Sequence[EncodedPair]], budget: float | None
) -> float:
    """The least of all erased prompts' certificates in the first text space: no embedding brings any of them nearer.

    Relative to a prompt's own way to its target, about the weights as they are stored; 0 says nothing.

    Args:
        erasure: whose maps they are about.
        prompts: that are erased.
        pairs: text space → the same, encoded.
        budget: β; ``None``: over embeddings of any norm.
    """
    found = certificates(erasure, prompts, pairs, [] if budget is None else [budget])
    # A prompt that is its own target has nothing to come back to.
    bounds = [one.bounds[budget] for one in found if one.space == erasure.text.space.name]
    return min((bound for bound in bounds if not math.isnan(bound)), default=0.0)


def read_certificate(value: Any, method: Method) -> float | None:
    """β of ``model.certificate``; ``None`` for embeddings of any norm, and where none is asked for.

    Raises:
        ConfigurationError: for what is neither, and where over embeddings of any norm there is nothing to certify.
    """
    if value is None or value == ANY:
        if value == ANY and not method.singular:
            raise ConfigurationError(
                f"model.certificate: {ANY}: {type(method.editor).__name__} leaves a map that can be inverted, so that "
                "over embeddings of any norm there is nothing to certify; give a number such as 1, or take the editor "
                "ProjectedUCE or Projection."
            )
        return None
    check_number("model.certificate", value, positive=True)
    return float(value)
