"""What the embedded world is made of: objects with their synonyms, styles and backgrounds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights"
MMDIT = FOLDER / "mmdit"
"""The second world: the same names and pictures, drawn by an MMDiT."""


@dataclass(frozen=True)
class WorldObject:
    """One object: its name, its synonyms, and whether the denoisers were trained on it."""

    name: str
    emoji: str
    synonyms: tuple[str, ...]
    trained: bool


@dataclass(frozen=True)
class Catalog:
    """Names in the order of the detector's classes and of the sprite sheet's rows and columns."""

    objects: tuple[WorldObject, ...]
    styles: tuple[str, ...]
    backgrounds: dict[str, tuple[int, int, int]]

    @property
    def names(self) -> tuple[str, ...]:
        """Every object's name, trained ones first."""
        return tuple(item.name for item in self.objects)

    @property
    def trained(self) -> tuple[WorldObject, ...]:
        """The objects that the denoisers were trained on."""
        return tuple(item for item in self.objects if item.trained)

    @property
    def held_out(self) -> tuple[WorldObject, ...]:
        """The objects that text encoder and detector know and the denoisers do not."""
        return tuple(item for item in self.objects if not item.trained)

    def resolve(self, word: str) -> int | None:
        """Index of the object that a name or synonym stands for, ``None`` if it stands for none."""
        for index, item in enumerate(self.objects):
            if word == item.name or word in item.synonyms:
                return index
        return None


@cache
def load_catalog() -> Catalog:
    """Read the shipped catalog."""
    raw = json.loads((FOLDER / "catalog.json").read_text(encoding="utf-8"))
    objects = tuple(WorldObject(**{**item, "synonyms": tuple(item["synonyms"])}) for item in raw["objects"])
    return Catalog(objects, tuple(raw["styles"]), {name: tuple(color) for name, color in raw["backgrounds"].items()})
