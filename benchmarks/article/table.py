"""``article_WORLD.csv``: a line a thing, method and prompt group; ``article_attacks.csv``: one a thing, method, attack
and point of its curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.article.plan import Key, contenders, things
from benchmarks.harness import BETWEEN, Table, check_lists
from rece_lightning.metrics import Share


@dataclass(frozen=True)
class Row:
    """What was measured on one group of prompts."""

    weights: str
    """First digits of the SHA-256 of the denoiser's file."""
    world: str
    kind: str
    erasure: str
    state: str
    """The method."""
    group: str
    recipe: str
    settings: str
    """What was chosen, where something was."""
    prompts: tuple[str, ...]
    hits: tuple[str, ...]
    """A prompt's pictures by seed, 1 where the concept is detected."""
    clip: tuple[float, ...]
    distance: tuple[float, ...]
    fid: float | None = None
    changed: float | None = None
    """Share of the denoiser's parameters that was changed."""
    erasing: float | None = None
    """Processor seconds of the erasure or training, pictures that it draws included."""
    drawing: float | None = None
    """Processor seconds a picture."""

    def __post_init__(self) -> None:
        check_lists(self, "clip", "distance")

    @property
    def key(self) -> Key:
        """What names it."""
        return self.world, self.erasure, self.state, self.group


def table(folder: Path, world: str) -> Table[Row]:
    """A world's table in a folder."""
    return Table(folder / f"article_{world.replace('-', '_')}.csv", Row, digits=5)


AttackKey = tuple[str, str, str, str]
"""World, thing, method and attack: points of a curve and the control are measured together."""


@dataclass(frozen=True)
class AttackRow:
    """What an attack reached on what was erased, or on the objects that are its control."""

    world: str
    kind: str
    erasure: str
    state: str
    """The method."""
    attack: str
    variant: str
    """The point of a curve; empty where there is none."""
    control: int
    """Whether the model never knew what the attack looks for."""
    has: str
    """What the attacker needs."""
    recipe: str
    concepts: tuple[str, ...]
    """What each prompt or embedding that was found is of."""
    hits: tuple[str, ...]
    """Its pictures that show that, of how many: ``1/2``."""
    queries: int
    """Of the search, over all concepts."""
    seconds: float
    """Of the search, on the clock; guards share the original's."""

    def __post_init__(self) -> None:
        counts = [text.split("/") for text in self.hits]
        if len(self.concepts) != len(self.hits) or any(not 0 <= int(hits) <= int(total) for hits, total in counts):
            raise ValueError(f"{BETWEEN.join(self.key)}: hits that are not those of its concepts")

    @property
    def key(self) -> AttackKey:
        """What names all rows that are measured together."""
        return self.world, self.erasure, self.state, self.attack

    @property
    def share(self) -> Share:
        """Of the pictures, with an interval over prompts and embeddings."""
        return Share.over((int(hits), int(total)) for hits, total in (text.split("/") for text in self.hits))


def attack_table(folder: Path) -> Table[AttackRow]:
    """The table of attacks in a folder, of all worlds."""
    return Table(folder / "article_attacks.csv", AttackRow, digits=5)


def methods(rows: Sequence[Row] | Sequence[AttackRow]) -> list[str]:
    """Those that rows of a world are of, in the order of the plan."""
    there = {row.state for row in rows}
    names = dict.fromkeys(one.name for thing in things() for one in contenders(rows[0].world, thing))
    return [name for name in names if name in there]
