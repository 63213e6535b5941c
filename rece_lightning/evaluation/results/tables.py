"""CSV tables of a run: written atomically, read with whatever damages them named."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.csv_rows import rows_of
from rece_lightning.files import write_atomically


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a table, atomically."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    return write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8", newline=""))


@contextmanager
def reading_rows(path: Path, remedy: str = "measure anew with rece validate") -> Iterator[Iterable[dict[str, str]]]:
    """The rows of a table, to be understood within the block.

    Raises:
        ConfigurationError: if the file cannot be read, or a row is not what the block takes it for.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            yield (row for _, row in rows_of(stream))
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({type(error).__name__}: {error}); move it away, or {remedy}."
        ) from error
