"""``evaluation.csv``: one line a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.states import Shot
from rece_lightning.evaluation.results.tables import reading_rows, write_rows

COLUMNS = ("column", "prompt", "concept", "role", "seed", "detected", "shown")


@dataclass(frozen=True)
class Count:
    """What was detected in one picture of a state."""

    column: str
    shot: Shot
    detected: bool | None
    """``None`` without a detector."""
    shown: str = ""
    """What the detector sees instead, where it can name that."""


def counts_of(comparison: Comparison) -> list[Count]:
    """Of every picture, column by column."""
    counts = []
    for column in comparison.columns.values():
        for place, (row, seed) in enumerate(zip(column.rows, column.seeds, strict=True)):
            prompt = comparison.prompts[row]
            shot = Shot(prompt.prompt, prompt.concept, comparison.role(row), seed)
            detected = None if column.hits is None else bool(column.hits[place])
            counts.append(Count(column.key, shot, detected, column.shown[place] if column.shown else ""))
    return counts


def write_counts(counts: Iterable[Count], path: Path) -> Path:
    """Write the table, atomically."""
    cells = ((one.column, *one.shot, "" if one.detected is None else int(one.detected), one.shown) for one in counts)
    return write_rows(path, COLUMNS, cells)


def read_counts(path: Path) -> list[Count]:
    """Read the table.

    Raises:
        ConfigurationError: if it is damaged.
    """
    counts = []
    with reading_rows(path) as rows:
        for row in rows:
            shot = Shot(row["prompt"], row["concept"], row["role"], int(row["seed"]))
            detected = {"0": False, "1": True, "": None}[row["detected"]]
            counts.append(Count(row["column"], shot, detected, row.get("shown") or ""))
    return counts


def by_column(counts: Sequence[Count]) -> dict[str, list[Count]]:
    """Column → its counts, both in the order of the file."""
    columns: dict[str, list[Count]] = {}
    for count in counts:
        columns.setdefault(count.column, []).append(count)
    return columns
