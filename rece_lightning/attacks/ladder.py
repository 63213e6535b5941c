"""The attacks by name, from what the attacker has least to most."""

from __future__ import annotations

from collections.abc import Sequence

from rece_lightning.attacks.base import Attack
from rece_lightning.attacks.cce import Cce
from rece_lightning.attacks.derived import Derived
from rece_lightning.attacks.mma import Mma
from rece_lightning.attacks.p4d import P4D
from rece_lightning.attacks.paraphrase import Paraphrase
from rece_lightning.attacks.ring_a_bell import RingABell
from rece_lightning.attacks.ring_a_bell_embedding import RingABellEmbedding
from rece_lightning.attacks.unlearndiffatk import UnlearnDiffAtk
from rece_lightning.core.errors import ConfigurationError, nearest

LADDER: dict[str, type[Attack]] = {
    kind.name: kind for kind in (Paraphrase, RingABell, RingABellEmbedding, Mma, P4D, UnlearnDiffAtk, Derived, Cce)
}
"""Name → class."""


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
