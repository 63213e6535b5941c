"""``evaluation.csv``: one line a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.states import Shot
from rece_lightning.evaluation.results.tables import reading_rows, write_rows

COLUMNS = ("column", "prompt", "concept", "role", "seed", "detected", "shown", "floor")
FLAGS = {"0": False, "1": True, "": None}


@dataclass(frozen=True)
class Count:
    """What was detected in one picture of a state."""

    column: str
    shot: Shot
    detected: bool | None
    """``None`` without a detector."""
    shown: str = ""
    """What the detector sees instead, where it can name that."""
    floor: bool | None = None
    """Whether the original model shows the concept where its target is asked for, with this seed; see
    :class:`rece_lightning.evaluation.floors.Floors`. ``None``: it was not measured."""


def counts_of(comparison: Comparison) -> list[Count]:
    """Of every picture, column by column."""
    counts = []
    for column in comparison.columns.values():
        for place, (row, seed) in enumerate(zip(column.rows, column.seeds, strict=True)):
            detected = None if column.hits is None else bool(column.hits[place])
            seen = column.shown[place] if column.shown else ""
            counts.append(
                Count(column.key, comparison.shot(row, seed), detected, seen, comparison.floors.get((row, seed)))
            )
    return counts


def write_counts(counts: Iterable[Count], path: Path) -> Path:
    """Write the table, atomically."""
    cells = ((one.column, *one.shot, _cell(one.detected), one.shown, _cell(one.floor)) for one in counts)
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
            flags = (FLAGS[row["detected"]], FLAGS[row.get("floor") or ""])
            counts.append(Count(row["column"], shot, flags[0], row.get("shown") or "", flags[1]))
    return counts


def _cell(flag: bool | None) -> str | int:
    return "" if flag is None else int(flag)


def by_column(counts: Sequence[Count]) -> dict[str, list[Count]]:
    """Column → its counts, both in the order of the file."""
    columns: dict[str, list[Count]] = {}
    for count in counts:
        columns.setdefault(count.column, []).append(count)
    return columns
