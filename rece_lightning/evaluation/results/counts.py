"""``evaluation.csv``: one line a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.states import Shot
from rece_lightning.files import write_atomically

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
            counts.append(
                Count(
                    column.key,
                    Shot(prompt.prompt, prompt.concept, comparison.role(row), seed),
                    None if column.hits is None else bool(column.hits[place]),
                    column.shown[place] if column.shown else "",
                )
            )
    return counts


def write_counts(counts: Iterable[Count], path: Path) -> Path:
    """Write the table, atomically."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for count in counts:
        detected = "" if count.detected is None else int(count.detected)
        writer.writerow([count.column, *count.shot, detected, count.shown])
    return write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def read_counts(path: Path) -> list[Count]:
    """Read the table.

    Raises:
        ConfigurationError: if it is damaged.
    """
    counts = []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                shot = Shot(row["prompt"], row["concept"], row["role"], int(row["seed"]))
                detected = {"0": False, "1": True, "": None}[row["detected"]]
                counts.append(Count(row["column"], shot, detected, row.get("shown") or ""))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({type(error).__name__}: {error}); move it away, or measure anew with rece validate."
        ) from error
    return counts


def by_column(counts: Sequence[Count]) -> dict[str, list[Count]]:
    """Column → its counts, both in the order of the file."""
    columns: dict[str, list[Count]] = {}
    for count in counts:
        columns.setdefault(count.column, []).append(count)
    return columns
