"""CSV files of users: read with every mistake named before any heavy work."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rece_lightning.core.errors import ConfigurationError, nearest

LARGEST = 64 << 20
"""Bytes; a million prompts."""


def read_table(field: str, path: str | Path, required: str = "prompt") -> list[dict[str, str]]:
    """All rows of a CSV file; see :func:`read_rows`."""
    return [row for _, row in read_rows(field, path, required)]


def read_rows(field: str, path: str | Path, required: str = "prompt") -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV file in UTF-8, with or without a byte-order mark, one at a time.

    Args:
        field: the setting that named the file, for the messages.
        path: of the file.
        required: a column that must be there and hold text in every row.

    Raises:
        ConfigurationError: if the file is missing, empty, in another encoding, without the column, or has a
            blank cell in it.
    """
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigurationError(f"{field}: {file} has {file.stat().st_size:,} bytes; give at most {LARGEST:,}.")
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from _rows(field, file, stream, required)
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{field}: {file} is not UTF-8 (byte {_first_wrong_byte(file, error)}); save it as UTF-8 (in a "
            "spreadsheet: 'CSV UTF-8')."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{field}: {file} cannot be read ({error.strerror}); give a path to a CSV.") from error
    except csv.Error as error:
        raise ConfigurationError(f"{field}: {file} is no CSV ({error}); save it anew from a spreadsheet.") from error


def _text_lines(field: str, file: Path, stream: TextIO) -> Iterator[str]:
    for line in stream:
        if "\x00" in line:
            raise ConfigurationError(f"{field}: {file} is not UTF-8 text (it holds zero bytes); save it as UTF-8.")
        yield line


def _first_wrong_byte(file: Path, error: UnicodeDecodeError) -> int:
    """Of the whole file: the error counts from the piece that was being read."""
    try:
        file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as whole:
        return whole.start
    return error.start


def _rows(field: str, file: Path, stream: TextIO, required: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(_text_lines(field, file, stream))
    columns = [column.strip() for column in reader.fieldnames or []]
    if not columns:
        raise ConfigurationError(f"{field}: {file} is empty; it needs a column {required!r} and at least one row.")
    if required not in columns:
        has = nearest(required, columns, heading="It has")
        raise ConfigurationError(f"{field}: {file} has no column {required!r}; {has}.")
    reader.fieldnames = columns
    empty = True
    for row in reader:
        empty = False
        values = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        if not values[required]:
            where = f"{file}, line {reader.line_num}"
            raise ConfigurationError(f"{field}: {where}: blank {required}; fill or delete the row.")
        yield reader.line_num, values
    if empty:
        raise ConfigurationError(f"{field}: {file} has a header and no row; add at least one.")


def number_in(field: str, value: str, where: str) -> float:
    """A number of a CSV cell."""
    try:
        return float(value)
    except ValueError as error:
        raise ConfigurationError(f"{field}: {value!r} is no number ({where}); give one such as 1.5.") from error
