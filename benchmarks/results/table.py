"""``results.csv``: a line a state, erasure and prompt group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Table, check_lists
from benchmarks.results.plan import Key


@dataclass(frozen=True)
class Row:
    """What was measured on one group of prompts of one state of one erasure."""

    weights: str
    """First digits of the SHA-256 of the U-Net's file."""
    kind: str
    erasure: str
    state: str
    group: str
    """``erased``, ``synonyms``, ``kept``, ``floor``, ``derived`` with its ridge."""
    recipe: str
    """Digest of edit, prompts, seeds and sampling."""
    settings: str
    prompts: tuple[str, ...]
    hits: tuple[str, ...]
    """A prompt's pictures by seed, 1 where the concept is detected: ``11011``."""
    clip: tuple[float, ...] = ()
    """A prompt's mean CLIP score; empty for floors and embeddings."""
    distance: tuple[float, ...] = ()
    """A prompt's mean perceptual distance from the original model's pictures; the same."""
    fid: float | None = None
    """Of the group's pictures against the original model's of other seeds; kept ones alone."""
    kid: float | None = None

    def __post_init__(self) -> None:
        check_lists(self, *(name for name in ("clip", "distance") if getattr(self, name)))

    @property
    def key(self) -> Key:
        """What names it."""
        return self.kind, self.erasure, self.state, self.group


def table(folder: Path) -> Table[Row]:
    """The table in a folder."""
    return Table(folder / "results.csv", Row, digits=6)
