"""What is attacked: the erased concepts as goals, and concepts that the model never knew as their controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rece_lightning.attacks.base import Attack, Goal, make_goal
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.metrics.detection import ConceptDetector, EmojiDetector

FORBIDDEN = ("nothing", "own", "synonyms")


def goals_of(
    data: Any,
    detector: ConceptDetector,
    wanted: Sequence[str] | None,
    synonyms: Mapping[str, Sequence[str]] | None,
    forbid: str,
) -> list[Goal]:
    """The concepts as goals, each checked against the detector.

    Args:
        data: with the concepts, and with prompts that say what the detector looks for.
        detector: that decides.
        wanted: prompts of concepts; all of them unless given.
        synonyms: concept → other words for it; the embedded world's own unless given.
        forbid: words that searches may not use, one of :data:`FORBIDDEN`.

    Raises:
        ConfigurationError: for a concept that is not erased, or that the detector does not know.
    """
    named = {concept.prompt: concept.prompt for concept in getattr(data, "concepts", [])}
    for row in [*getattr(data, "test", []), *getattr(data, "validation", [])]:
        if row.kind == "erased" and row.prompt in named:
            named[row.prompt] = row.concept
    others = [prompt for prompt in getattr(data, "preserved", []) if prompt.strip()]
    goals = []
    for prompt in wanted if wanted is not None else list(named):
        concept = named.get(prompt, prompt)
        try:
            detector.check(concept)
        except ConfigurationError as error:
            raise ConfigurationError(f"RedTeam.concepts: {prompt!r}: {error}") from error
        words = _synonyms(concept, detector, synonyms)
        forbidden = {"nothing": [], "own": [prompt], "synonyms": [prompt, *words]}[forbid]
        goals.append(make_goal(concept, prompt, synonyms=words, others=others, forbid=forbidden))
    if not goals:
        raise ConfigurationError("RedTeam.concepts: none; name what to bring back.")
    return goals


def controls_of(
    attacks: Sequence[Attack], detector: ConceptDetector, names: Sequence[str] | None, count: int
) -> list[Goal]:
    """Concepts that the model never knew, where an attack needs them.

    Args:
        attacks: that are run.
        detector: that decides.
        names: of the concepts; held-out objects of the embedded world unless given.
        count: how many of those.

    Raises:
        ConfigurationError: where an attack needs one and none is known.
    """
    needy = [attack.name for attack in attacks if attack.needs_control]
    if not needy:
        return []
    if names is None:
        held_out = load_catalog().held_out if isinstance(detector, EmojiDetector) else ()
        names = [item.name for item in held_out[:count]]
    if not names:
        raise ConfigurationError(
            f"RedTeam.control_concepts: none; {needy[0]} means nothing without one: name concepts that the "
            "detector knows and the model does not."
        )
    for name in names:
        detector.check(name)
    return [make_goal(name, control=True) for name in names]


def _synonyms(concept: str, detector: ConceptDetector, synonyms: Mapping[str, Sequence[str]] | None) -> list[str]:
    if synonyms is not None:
        return list(synonyms.get(concept, []))
    if isinstance(detector, EmojiDetector):
        return [word for item in load_catalog().objects if item.name == concept for word in item.synonyms]
    return []
