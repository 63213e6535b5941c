"""CSV files of what was measured: written whole, read with a word for one that is damaged."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import write_atomically

Row = TypeVar("Row")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """The whole CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def read_measured(path: Path, row_of: Callable[[dict[str, str]], Row]) -> list[Row]:
    """The measured rows; none where there is no file.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [row_of(line) for line in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({type(error).__name__}: {error}); move it away, or give --overwrite."
        ) from error


def of_plain_columns(kind: type[Row]) -> Callable[[dict[str, str]], Row]:
    """Lines as instances of a dataclass whose fields are text, whole numbers and numbers."""
    read: dict[Any, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    columns = {column.name: read[column.type] for column in fields(kind)}  # type: ignore[arg-type]
    return lambda line: kind(**{name: convert(line[name]) for name, convert in columns.items()})
