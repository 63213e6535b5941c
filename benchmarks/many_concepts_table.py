"""``many_concepts.csv``: a line a method, preserve list and number of concepts, read and written whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import read_measured, write_table
from rece_lightning.evaluation.results.balance import Counts, balance_draws, central_interval
from rece_lightning.metrics import Share, harmonic_mean

BETWEEN = "|"
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
LISTS: dict[str, type] = {
    "erased": str, "kept": str, "kept_names": str, "kept_drifts": float, "worst": str, "moments": float,
}  # fmt: skip
NUMBERS = ("seconds", "remaining", "drift")


def _counts(hits: Sequence[str]) -> Counts:
    if len(hits) < FEWEST:
        hits = [hit for line in hits for hit in line]
    return np.array([(line.count("1"), len(line)) for line in hits], dtype=float).reshape(-1, 2)


def read_rows(path: Path) -> list[Row]:
    """The measured rows; none where there is no file.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    return read_measured(path, _row)


def _row(line: dict[str, str]) -> Row:
    values: dict[str, Any] = {field.name: line[field.name] for field in fields(Row)}
    values["count"] = int(values["count"])
    for name in NUMBERS:
        values[name] = float(values[name])
    for name, kind in LISTS.items():
        values[name] = tuple(kind(part) for part in values[name].split(BETWEEN) if part)
    row = Row(**values)
    if any(set(hits) - {"0", "1"} for hits in (*row.erased, *row.kept)):
        raise ValueError(f"{row.key}: hits that are neither 0 nor 1")
    if not len(row.kept) == len(row.kept_names) or len(row.moments) not in (0, len(MOMENTS)):
        raise ValueError(f"{row.key}: lists of different lengths")
    return row


def write_rows(rows: Sequence[Row], path: Path) -> Path:
    """Write the table, atomically."""
    lines = []
    for row in rows:
        values = asdict(row)
        for name in LISTS:
            values[name] = BETWEEN.join(one if isinstance(one, str) else f"{one:.5g}" for one in values[name])
        for name in NUMBERS:
            values[name] = f"{values[name]:.6g}"
        lines.append(values)
    return write_table(path, [field.name for field in fields(Row)], lines)
