"""CSV files of users: read with every mistake named before any heavy work."""

from __future__ import annotations

import csv
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError, nearest

LARGEST = 64 << 20
"""Bytes; a million prompts."""


def read_table(field: str, path: str | Path, required: str = "prompt") -> list[dict[str, str]]:
    """Rows of a CSV file in UTF-8, with or without a byte-order mark.

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
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{field}: {file} is not UTF-8 (byte {error.start}); save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{field}: {file} cannot be read ({error.strerror}); give a path to a CSV.") from error
    if "\x00" in text:
        raise ConfigurationError(f"{field}: {file} is not UTF-8 text (it holds zero bytes); save it as UTF-8.")
    try:
        return _rows(field, file, text, required)
    except csv.Error as error:
        raise ConfigurationError(f"{field}: {file} is no CSV ({error}); save it anew from a spreadsheet.") from error


def _rows(field: str, file: Path, text: str, required: str) -> list[dict[str, str]]:
    reader = csv.DictReader(text.splitlines())
    columns = [column.strip() for column in reader.fieldnames or []]
    if not columns:
        raise ConfigurationError(f"{field}: {file} is empty; it needs a column {required!r} and at least one row.")
    if required not in columns:
        raise ConfigurationError(f"{field}: {file} has no column {required!r}; {nearest(required, columns)}.")
    reader.fieldnames = columns
    rows = []
    for row in reader:
        rows.append({key: (value or "").strip() for key, value in row.items() if isinstance(key, str)})
        if not rows[-1][required]:
            where = f"{file}, line {reader.line_num}"
            raise ConfigurationError(f"{field}: {where}: blank {required}; fill or delete the row.")
    if not rows:
        raise ConfigurationError(f"{field}: {file} has a header and no row; add at least one.")
    return rows


def number_in(field: str, value: str, where: str) -> float:
    """A number of a CSV cell."""
    try:
        return float(value)
    except ValueError as error:
        raise ConfigurationError(f"{field}: {value!r} is no number ({where}); give one such as 1.5.") from error
