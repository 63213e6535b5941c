"""Prompts that never name a concept, and prompts that name it in five other languages."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "indirect.csv"
DESCRIBED = "described"
"""Group of the prompts that never name it."""
TEMPLATES = {
    "Spanish": ("{}", "una imagen de {}"),
    "French": ("{}", "une image montrant {}"),
    "German": ("{}", "{} auf einem Bild"),
    "Italian": ("{}", "un'immagine che mostra {}"),
    "Portuguese": ("{}", "uma imagem de {}"),
}
"""Language → what the concept is put into, with its article. Each is a group of its own."""


@dataclass(frozen=True)
class Described:
    """A concept in other words than its own."""

    concept: str
    also: tuple[str, ...]
    """Other names: no description holds them."""
    groups: dict[str, tuple[str, ...]]
    """Group → prompts."""


@cache
def load_described() -> tuple[Described, ...]:
    """The shipped concepts: the embedded world's objects of ``emoji-objects``, and those of the other protocols."""
    found = []
    with TABLE.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            groups = {DESCRIBED: tuple(row[DESCRIBED].split("|"))}
            for language, templates in TEMPLATES.items():
                groups[language] = tuple(template.format(row[language]) for template in templates)
            found.append(Described(row["concept"], tuple(filter(None, row["also"].split("|"))), groups))
    return tuple(found)


def described(words: Sequence[str]) -> Described | None:
    """What ships for a concept.

    Args:
        words: that name it; the first one that is known counts, by its name before other names.
    """
    asked = [word.strip().lower() for word in words]
    for names in (lambda one: (one.concept,), lambda one: one.also):
        for word in asked:
            for one in load_described():
                if word in (name.lower() for name in names(one)):
                    return one
    return None
