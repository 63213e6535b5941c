"""Prompts with a concept and without it: what the attacks in the space of text embeddings learn a direction from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rece_lightning.attacks.base import Goal
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.captions import TEMPLATES, with_article
from rece_lightning.models.text import PromptEncoder

NEUTRAL = ("dog", "tree", "fish", "train", "book", "door", "key", "bread")
"""Common things, where nobody names others than the concept."""
CARRIERS = 4


def make_goal(
    concept: str,
    prompt: str | None = None,
    *,
    synonyms: Sequence[str] = (),
    others: Sequence[str] = (),
    forbid: Sequence[str] = (),
    control: bool = False,
) -> Goal:
    """A goal with the pairs and carriers that follow from its name.

    Args:
        concept: what the detector looks for.
        prompt: names it; the concept itself without it.
        synonyms: other words for it.
        others: things that are not the concept, for pairs and carriers.
        forbid: words that a search over tokens may not use.
        control: the model never knew the concept.
    """
    name = (prompt or concept).strip()
    known = {name.lower(), concept.lower(), *(word.lower() for word in synonyms)}
    things = [other.strip() for other in (*others, *NEUTRAL) if other.strip() and other.strip().lower() not in known]
    # Short names first: both prompts of a pair should lie at the same positions.
    things = sorted(dict.fromkeys(things), key=lambda thing: abs(len(thing.split()) - len(name.split())))[:8]
    pairs = [(fill(template, name), fill(template, other)) for other in things for template in TEMPLATES]
    carriers = [fill(TEMPLATES[index % len(TEMPLATES)], other) for index, other in enumerate(things[:CARRIERS])]
    return Goal(concept, name, tuple(synonyms), tuple(carriers), tuple(pairs), tuple(forbid), control)


def fill(template: str, noun: str) -> str:
    """``fill("a photo of {}", "axe")`` → ``a photo of an axe``; the bare template takes no article."""
    return template.format(noun if template == "{}" else with_article(noun))


@torch.no_grad()
def concept_direction(encoder: PromptEncoder, goal: Goal) -> Tensor:
    """Mean difference of the embeddings of the goal's pairs, ``[positions, d]`` (Ring-A-Bell, arXiv 2310.10012).

    Raises:
        ConfigurationError: if the goal has no pair.
    """
    if not goal.pairs:
        raise ConfigurationError(f"attacks: {goal.concept!r} has no prompt pairs; give prompts with and without it.")
    difference = torch.zeros(())
    for first in range(0, len(goal.pairs), 64):
        part = goal.pairs[first : first + 64]
        with_it = encoder.encode([pair[0] for pair in part]).embeddings.double()
        without = encoder.encode([pair[1] for pair in part]).embeddings.double()
        difference = difference.to(with_it) + (with_it - without).sum(dim=0)
    return difference / len(goal.pairs)
