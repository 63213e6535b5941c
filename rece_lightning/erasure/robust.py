"""``model.robust``: which switches of the robust loop are on, read and checked before any model is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rece_lightning.attacks.ladder import make_attacks
from rece_lightning.core.errors import ConfigurationError, check_count, check_number, nearest
from rece_lightning.core.robust import Robust, check_positive
from rece_lightning.data.concepts import check_templates
from rece_lightning.vocabulary.scan import WITHIN

FIELD = "model.robust"
SWITCHES = ("norms", "ridges", "templates", "synonyms", "neighbours", "found", "attacks", "certificate")
"""Each does something on its own; the other keys say how."""
KEYS = (*SWITCHES, "within", "weight", "budget")
SINGULAR = ("projection",)
"""Editors whose maps take something out of every embedding's reach."""


@dataclass(frozen=True)
class RobustPlan:
    """What ``model.robust`` asks for. Each switch is off unless it is named."""

    norms: Sequence[float] = ()
    """β of further derived embeddings with ``‖c'‖ ≤ β‖c‖``; see :class:`rece_lightning.core.robust.Robust`."""
    ridges: Sequence[float] = ()
    """λ of further ones."""
    weight: float = 1.0
    """Of each that joins, beside 1 of the concept's own."""
    templates: Sequence[str] = ()
    """Prompts that every concept is put into: further rows to erase and to derive towards."""
    synonyms: int = 0
    """Words for each concept, mined by the text encoder, that are erased and derived from with it."""
    neighbours: int = 0
    """Words near each concept that are kept beside ``data.preserve``."""
    within: float = WITHIN
    """Where words stop meaning the concept; see :func:`rece_lightning.vocabulary.neighbours.mine`."""
    found: str | None = None
    """Folder of adversarial prompts and embeddings that were found, such as another run's."""
    attacks: Sequence[str] = ()
    """Searches that ``RedTeam`` runs before every epoch but the first; what they find joins as if it had been there."""
    certificate: float | None = None
    """The loop stops once no embedding brings any concept back nearer than this share of its way to its target."""
    budget: float | None = None
    """β of the certificate; without it, embeddings of any norm."""

    @property
    def loop(self) -> Robust:
        """What later epochs derive beside the loop's own embedding."""
        return Robust(tuple(self.norms), tuple(self.ridges), self.weight)

    def plain(self) -> dict[str, Any]:
        """What differs from the defaults, as a checkpoint keeps it: plain types."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}

    @property
    def joins(self) -> bool:
        """Whether rows join what is erased or kept."""
        return bool(self.templates or self.synonyms or self.neighbours or self.found)


def read_robust(setting: Any, *, editor: str, technique: str) -> RobustPlan | None:
    """The plan; ``None`` without a setting.

    Args:
        setting: a mapping with keys of :data:`KEYS`, or ``None``: the published loop.
        editor: of the loop.
        technique: of the edit.

    Raises:
        ConfigurationError: naming the key.
    """
    if setting is None:
        return None
    if not isinstance(setting, Mapping):
        raise ConfigurationError(f"{FIELD}: {setting!r}; give a mapping such as {{norms: [0.5, 1], synonyms: 5}}.")
    for key in setting:
        if key not in KEYS:
            raise ConfigurationError(f"{FIELD}: unknown key {key!r}; {nearest(str(key), KEYS)}.")
    asked = {key: value for key, value in setting.items() if value is not None}
    if not any(key in asked for key in SWITCHES):
        raise ConfigurationError(f"{FIELD}: {dict(setting)!r} switches nothing on; name one of {', '.join(SWITCHES)}.")
    if technique != "replace":
        raise ConfigurationError(
            f"{FIELD}: the technique {technique!r} takes every prompt apart, and the robust loop works on sums; take "
            "model.technique replace."
        )
    plain = _checked(asked)
    if "certificate" in plain and "budget" not in plain and editor not in SINGULAR:
        raise ConfigurationError(
            f"{FIELD}.certificate: the editor {editor!r} leaves a map that can be inverted, so that over embeddings of "
            f"any norm there is nothing to certify; give {FIELD}.budget, such as 1, or take model.editor projection."
        )
    return RobustPlan(**plain)


def _checked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in plain types.

    Raises:
        ConfigurationError: for a value that makes no sense, or that nothing reads.
    """
    plain: dict[str, Any] = dict(asked)
    for key in ("norms", "ridges"):
        if key in plain:
            plain[key] = _numbers(f"{FIELD}.{key}", plain[key])
    if "templates" in plain:
        check_templates(f"{FIELD}.templates", plain["templates"])
        plain["templates"] = list(plain["templates"])
    for key in ("synonyms", "neighbours"):
        if key in plain:
            check_count(f"{FIELD}.{key}", plain[key])
    for key in ("within", "weight", "certificate", "budget"):
        if key in plain:
            check_number(f"{FIELD}.{key}", plain[key], positive=True)
            plain[key] = float(plain[key])
    if "attacks" in plain:
        plain["attacks"] = _attacks(plain["attacks"])
    if "found" in plain:
        if not isinstance(plain["found"], (str, Path)) or not str(plain["found"]).strip():
            raise ConfigurationError(f"{FIELD}.found: {plain['found']!r}; give the folder of a run that was attacked.")
        plain["found"] = str(plain["found"])
    readers = {
        "within": ("synonyms", "neighbours"),
        "weight": ("norms", "ridges", "templates", "synonyms", "found", "attacks"),
        "budget": ("certificate",),
    }
    for key, others in readers.items():
        if key in plain and not any(other in plain for other in others):
            raise ConfigurationError(f"{FIELD}.{key}: only {' and '.join(others)} would read it; leave it out.")
    return plain


def _attacks(names: Any) -> list[str]:
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"{FIELD}.attacks: {names!r}; give a list of names such as [cce]. One with a budget of its own stands in "
            "RedTeam.attacks and is named here."
        )
    return [attack.name for attack in make_attacks(names, f"{FIELD}.attacks")]


def _numbers(field: str, value: Any) -> list[float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConfigurationError(f"{field}: {value!r}; give a list of numbers such as [0.5, 1, 2].")
    check_positive(field, value)
    return [float(number) for number in value]
