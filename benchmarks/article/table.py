"""``article_WORLD.csv``: a line a thing, method and prompt group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.article.plan import Key
from benchmarks.harness import Table, check_lists


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
