"""``results.csv``: a line a state, erasure and prompt group, read and written whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.results_plan import Work
from benchmarks.tables import read_measured, write_table
from rece_lightning.core.errors import ConfigurationError

BETWEEN = "|"
Key = tuple[str, str, str, str]
LISTS = {"prompts": str, "hits": str, "clip": float, "distance": float}
DIGITS = 6


@dataclass(frozen=True)
class Row:
    """What was measured on one group of prompts of one state of one erasure."""

    weights: str
    """First digits of the SHA-256 of the U-Net's file."""
    kind: str
    erasure: str
    state: str
    group: str
    """``erased``, ``synonyms``, ``kept``."""
    recipe: str
    """Digest of edit, prompts, seeds and sampling."""
    settings: str
    prompts: tuple[str, ...]
    hits: tuple[str, ...]
    """A prompt's pictures by seed, 1 where the concept is detected: ``11011``."""
    clip: tuple[float, ...]
    """A prompt's mean CLIP score."""
    distance: tuple[float, ...]
    """A prompt's mean perceptual distance from the original model's pictures."""
    fid: float | None = None
    """Of the group's pictures against the original model's of other seeds; kept ones alone."""
    kid: float | None = None

    @property
    def key(self) -> Key:
        """What names it."""
        return self.kind, self.erasure, self.state, self.group


def read_rows(path: Path) -> list[Row]:
    """The measured rows; none where there is no file.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    return read_measured(path, _row)


def _row(line: dict[str, str]) -> Row:
    values: dict[str, Any] = {field.name: line[field.name] for field in fields(Row)}
    for name, kind in LISTS.items():
        values[name] = tuple(kind(part) for part in values[name].split(BETWEEN) if part)
    for name in ("fid", "kid"):
        values[name] = float(values[name]) if values[name] else None
    row = Row(**values)
    if any(len(getattr(row, name)) != len(row.prompts) for name in LISTS):
        raise ValueError(f"{BETWEEN.join(row.key)}: lists of different lengths")
    if any(set(hits) - {"0", "1"} for hits in row.hits):
        raise ValueError(f"{BETWEEN.join(row.key)}: hits that are neither 0 nor 1")
    return row


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    """Write the table, atomically."""
    lines = []
    for row in rows:
        values = asdict(row)
        for name in LISTS:
            values[name] = BETWEEN.join(_text(part) for part in values[name])
        for name in ("fid", "kid"):
            values[name] = "" if values[name] is None else _text(values[name])
        lines.append(values)
    return write_table(path, [field.name for field in fields(Row)], lines)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.{DIGITS}g}"


def recipes(work: Sequence[Work], seeds: Sequence[int]) -> dict[Key, str]:
    """The digests of all rows that work makes."""
    return {
        (erasure.kind, erasure.name, state.name, group): erasure.recipe(state, group, seeds)
        for erasure, state in work
        for group, prompts in erasure.groups.items()
        if prompts
    }


def left(work: Sequence[Work], rows: Sequence[Row]) -> list[Work]:
    """The work of which a row is missing."""
    done = {row.key for row in rows}
    return [one for one in work if not set(recipes([one], ())) <= done]


def check_same(rows: Sequence[Row], weights: str, wanted: dict[Key, str], path: Path) -> None:
    """Refuse a table that this measurement cannot go on with.

    Args:
        rows: that are there.
        weights: of the model at hand.
        wanted: the digests of all rows that are wanted.
        path: of the table, for messages.

    Raises:
        ConfigurationError: if rows are of other weights, of other settings, or of erasures nobody asks for.
    """
    remedy = "give --overwrite to measure anew, or --output for another folder"
    for row in rows:
        if row.weights != weights:
            raise ConfigurationError(f"{path}: measured on the U-Net {row.weights}, this one is {weights}; {remedy}.")
        if wanted.get(row.key) != row.recipe:
            raise ConfigurationError(
                f"{path}: {', '.join(row.key)} was measured with other settings, prompts or seeds; {remedy}."
            )
