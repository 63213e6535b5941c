"""``quality.csv``: one line a figure that is measured on pictures beside the detections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from rece_lightning.evaluation.results.tables import reading_rows, write_rows
from rece_lightning.metrics.figure import NAN, Figure

FILE = "quality.csv"
COLUMNS = (
    "column", "metric", "part", "value", "low", "high", "deviation", "pictures", "reference", "protocol", "method",
)  # fmt: skip
PARTS = {"difference": "erased − kept"}


@dataclass(frozen=True)
class QualityLine:
    """A figure of one column."""

    column: str
    metric: str
    """Of the class: ``perceptual_distance``; a second one of the same class ends in ``_2``."""
    protocol: str
    reference: str
    """What the pictures are compared with; empty where that is nothing."""
    figure: Figure

    @property
    def name(self) -> str:
        """What loggers call it: ``perceptual_distance_erased``."""
        return f"{self.metric}_{self.figure.part}"

    @property
    def heading(self) -> str:
        """What tables call it: ``perceptual distance, erased``."""
        part = PARTS.get(self.figure.part, self.figure.part.replace("_", " "))
        return f"{self.metric.replace('_', ' ')}, {part}"

    @property
    def rule(self) -> str:
        """By what, and against what, it is measured: figures of other rules say nothing of each other."""
        return f"{self.protocol} against {self.reference}" if self.reference else self.protocol


def scalars(lines: Iterable[QualityLine], column: str) -> dict[str, float]:
    """A column's figures by name."""
    return {line.name: line.figure.value for line in lines if line.column == column}


def write_quality(lines: Iterable[QualityLine], path: Path) -> Path:
    """Write the table, atomically. What a metric does not give is an empty cell."""
    rows = []
    for line in lines:
        figure = line.figure
        numbers = (figure.value, *figure.interval, figure.deviation)
        cells = ["" if number != number else repr(number) for number in numbers]
        rule = (line.reference, line.protocol, figure.method)
        rows.append((line.column, line.metric, figure.part, *cells, figure.total, *rule))
    return write_rows(path, COLUMNS, rows)


def read_quality(path: Path) -> list[QualityLine]:
    """Read the table; no line where there is none.

    Raises:
        ConfigurationError: if it is damaged.
    """
    if not path.is_file():
        return []
    with reading_rows(path) as rows:
        return [_line(row) for row in rows]


def _line(row: Mapping[str, str]) -> QualityLine:
    numbers = ("value", "low", "high", "deviation")
    value, low, high, deviation = (float(row[key]) if row[key] else NAN for key in numbers)
    figure = Figure(row["part"], value, int(row["pictures"]), row["method"], (low, high), deviation)
    return QualityLine(row["column"], row["metric"], row["protocol"], row["reference"], figure)


@dataclass(frozen=True)
class QualityRow:
    """One figure in every column."""

    heading: str
    rule: str
    method: str
    texts: tuple[str, ...]
    """``–`` where a column has none."""


def quality_rows(lines: Sequence[QualityLine], columns: Sequence[str]) -> list[QualityRow]:
    """The figures side by side, those of one rule in a row."""
    by_rule: dict[tuple[str, str], dict[str, Figure]] = {}
    for line in lines:
        if line.column in columns:
            by_rule.setdefault((line.heading, line.rule), {})[line.column] = line.figure
    rows = []
    for (heading, rule), figures in by_rule.items():
        texts = tuple(str(figures.get(column, "–")) for column in columns)
        rows.append(QualityRow(heading, rule, next(reversed(figures.values())).method, texts))
    return rows


def quality_table(lines: Sequence[QualityLine], titles: Mapping[str, str]) -> Table:
    """The rows as a table for the terminal, of the columns that have a title."""
    shown = [column for column in titles if any(line.column == column for line in lines)]
    headings = ["figure", "protocol", *(titles[column] for column in shown)]
    table = Table(*headings, title="Quality (95 % interval, or ± standard deviation over seeds)")
    for row in quality_rows(lines, shown):
        table.add_row(row.heading, row.rule, *row.texts)
    return table
