"""Attacks on an erasure, a paper a file: model, concept and budget in, adversarial prompts or embeddings out."""

from __future__ import annotations

from collections.abc import Sequence

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal, key_of, make_goal
from rece_lightning.attacks.cce import Cce
from rece_lightning.attacks.derived import Derived, derived_curve
from rece_lightning.attacks.inverted import Inverted
from rece_lightning.attacks.mma import Mma
from rece_lightning.attacks.p4d import P4D
from rece_lightning.attacks.paraphrase import Paraphrase
from rece_lightning.attacks.ring_a_bell import RingABell, RingABellEmbedding
from rece_lightning.attacks.store import AttackStore, read_embeddings
from rece_lightning.attacks.unlearndiffatk import UnlearnDiffAtk
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError, nearest

__all__ = [
    "LADDER",
    "P4D",
    "AdversarialPrompt",
    "Attack",
    "AttackStore",
    "Budget",
    "Cce",
    "Derived",
    "Goal",
    "Inverted",
    "Mma",
    "Paraphrase",
    "RingABell",
    "RingABellEmbedding",
    "UnlearnDiffAtk",
    "Victim",
    "derived_curve",
    "key_of",
    "make_attacks",
    "make_goal",
    "read_embeddings",
]

LADDER: dict[str, type[Attack]] = {
    kind.name: kind
    for kind in (Paraphrase, RingABell, RingABellEmbedding, Mma, P4D, UnlearnDiffAtk, Derived, Cce, Inverted)
}
"""The attacks by name, from what the attacker has least to most."""


def make_attacks(given: Sequence[str | Attack], field: str = "attacks", *, published: bool = False) -> list[Attack]:
    """Attacks by name or as they are.

    Args:
        given: of them.
        field: the setting, for messages.
        published: those by name get the published budget in place of the small default one.

    Raises:
        ConfigurationError: for an unknown name, an attack that is given twice, or none at all.
    """
    attacks: list[Attack] = []
    for one in given:
        if isinstance(one, Attack):
            attacks.append(one)
            continue
        kind = LADDER.get(str(one).strip())
        if kind is None:
            raise ConfigurationError(f"{field}: unknown attack {one!r}; {nearest(str(one), LADDER)}.")
        attacks.append(kind(**(kind.PUBLISHED if published else {})))  # type: ignore[call-arg]
    names = [attack.name for attack in attacks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigurationError(f"{field}: {twice[0]!r} is listed twice; keep one of them.")
    if not attacks:
        raise ConfigurationError(f"{field}: empty; name at least one of {', '.join(LADDER)}.")
    return attacks
