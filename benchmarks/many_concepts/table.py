"""``many_concepts.csv``: a line a way to erase, preserve list and number of concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Table
from rece_lightning.evaluation.results.states import Counts, balance_draws, central_interval
from rece_lightning.metrics import Share, harmonic_mean

FEWEST = 6
"""Prompts over which one can resample; with fewer the interval is about these prompts alone."""


@dataclass(frozen=True)
class Row:
    """What was measured."""

    weights: str
    """First digits of the SHA-256 of the U-Net's file."""
    count: int
    """Concepts erased at once."""
    method: str
    preserve: str
    """``all`` of the kept names, or ``auto``."""
    settings: str
    recipe: str
    """Digest of edit, prompts, seeds and sampling."""
    error: str = ""
    """Why the edit was refused; then the figures are missing."""
    seconds: float = float("nan")
    """Of the whole erasure but for loading the model: prompts encoded, kept prompts chosen, edits."""
    remaining: float = float("nan")
    """Of the erased concepts' answers, without a picture."""
    drift: float = float("nan")
    """Of all kept names together, without a picture."""
    erased: tuple[str, ...] = ()
    """A prompt's pictures by seed, 1 where the concept is detected: ``011``."""
    kept: tuple[str, ...] = ()
    kept_names: tuple[str, ...] = ()
    kept_drifts: tuple[float, ...] = ()
    """Of each kept name that is drawn."""
    worst: tuple[str, ...] = ()
    """The kept names that moved furthest, drawn or not."""
    moments: tuple[float, ...] = ()
    """Of the original's row alone: see ``MOMENTS``."""
    least: tuple[float, ...] = ()
    """Drift that no linear edit gets below, for each of ``LEFT``: of the bound's row alone."""

    def __post_init__(self) -> None:
        if any(set(hits) - {"0", "1"} for hits in (*self.erased, *self.kept)):
            raise ValueError(f"{self.key}: hits that are neither 0 nor 1")
        if not len(self.kept) == len(self.kept_names) or len(self.moments) not in (0, len(MOMENTS)):
            raise ValueError(f"{self.key}: lists of different lengths")

    @property
    def key(self) -> tuple[int, str, str]:
        """What names it."""
        return self.count, self.method, self.preserve

    def share(self, role: str) -> Share:
        """Detections of a role."""
        return Share.over([(hits.count("1"), len(hits)) for hits in getattr(self, role)])

    @property
    def harmonic(self) -> float:
        """Of what is gone and what is kept (SPEED's H_o)."""
        return harmonic_mean(self.share("erased").rate, self.share("kept").rate) if self.erased else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the harmonic mean: a bootstrap over prompts, over pictures where prompts are few."""
        return central_interval(balance_draws(_counts(self.erased), _counts(self.kept)))


MOMENTS = ("erased_directions", "kept_directions", "shared", "free_exact", "free", "condition")


def _counts(hits: Sequence[str]) -> Counts:
    if len(hits) < FEWEST:
        hits = [hit for line in hits for hit in line]
    return np.array([(line.count("1"), len(line)) for line in hits], dtype=float).reshape(-1, 2)


def table(folder: Path) -> Table[Row]:
    """The table in a folder."""
    return Table(folder / "many_concepts.csv", Row, digits=6)
