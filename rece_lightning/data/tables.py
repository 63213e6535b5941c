"""CSV and text files of users: read with every mistake named before any heavy work."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.data.csv_rows import TableError, typed_rows

LARGEST = 64 << 20
"""Bytes; a million prompts."""
TABLES, LINES = (".csv", ".tsv"), (".txt",)
FORMS = "a CSV with a column 'prompt', or a .txt with one prompt a line"


def names_file(setting: object) -> bool:
    """Whether a setting is the name of a prompt file, by its ending."""
    return isinstance(setting, str) and setting.strip().lower().endswith((*TABLES, *LINES))


def read_file(field: str, path: str | Path, *, one_line: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of its line and row of a prompt file, one at a time; a text file gives rows that hold a prompt alone.

    Args:
        field: the setting that named the file, for the messages.
        path: of the file: a CSV as :func:`read_rows` takes it, or a ``.txt`` with one prompt a line.
        one_line: refuse a cell of several lines; otherwise it is warned of (some captions of COCO and I2P have them).

    Raises:
        ConfigurationError: for whatever is wrong with the file.
    """
    if str(path).strip().lower().endswith(LINES):
        yield from read_lines(field, path)
        return
    longer: list[tuple[int, str]] = []
    for line, row in read_rows(field, path):
        long = next((cell for cell in row.values() if "\n" in cell or "\r" in cell), None)
        if long is not None and one_line:
            raise ConfigurationError(
                f"{field}: {path}, line {line}: {long!r} has several lines; a double quote takes them together: take "
                "it out, and write one prompt a row."
            )
        longer += [] if long is None else [(line, long)]
        yield line, row
    if longer:
        warnings.warn(
            f"{field}: {path}: {len(longer)} rows have several lines, such as {longer[0][1]!r} (line {longer[0][0]}); "
            "where these are several prompts, a double quote takes them together: take it out.",
            stacklevel=3,
        )


def read_table(field: str, path: str | Path, required: str = "prompt") -> list[dict[str, str]]:
    """All rows of a CSV file; see :func:`read_rows`."""
    return [row for _, row in read_rows(field, path, required)]


def read_rows(field: str, path: str | Path, required: str = "prompt") -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV file in UTF-8, with or without a byte-order mark, one at a time.

    Args:
        field: the setting that named the file, for the messages.
        path: of the file, with commas, semicolons or tabs between its cells.
        required: a column that must be there and hold text in every row.

    Raises:
        ConfigurationError: if the file is missing, empty, in another encoding, without the column, or has a
            blank cell in it; and for rows in which a CSV reader would merge or drop something
            (:func:`rece_lightning.data.csv_rows.typed_rows`).
    """
    with _opened(field, path, "a CSV") as (file, stream):
        rows = typed_rows(_text_lines(field, file, stream), required)
        _, columns = next(rows)
        if not columns:
            raise ConfigurationError(f"{field}: {file} is empty; it needs a column {required!r} and at least one row.")
        if required not in columns:
            has = nearest(required, columns, heading="It has")
            raise ConfigurationError(
                f"{field}: {file} has no column {required!r}; {has}. Its first line must name the columns; a file "
                "with a prompt a line and no more is a .txt."
            )
        empty = True
        for line, row in rows:
            empty = False
            if not row[required]:
                raise ConfigurationError(f"{field}: {file}, line {line}: blank {required}; fill or delete the row.")
            yield line, row
        if empty:
            raise ConfigurationError(f"{field}: {file} has a header and no row; add at least one.")


def read_lines(field: str, path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and prompt of a text file in UTF-8, one prompt a line; blank lines are left out.

    Raises:
        ConfigurationError: if the file is missing, holds no prompt, is in another encoding, or is a CSV.
    """
    with _opened(field, path, "a text file") as (file, stream):
        empty = True
        for line, text in enumerate(_text_lines(field, file, stream), start=1):
            prompt = text.strip()
            if empty and "prompt" in prompt.lower().replace(";", ",").replace("\t", ",").replace(" ", "").split(","):
                raise ConfigurationError(
                    f"{field}: {file}, line {line}: {prompt!r} is the header of a CSV; call the file .csv, or take the "
                    "line out: of a .txt every line is a prompt."
                )
            if prompt:
                empty = False
                yield line, {"prompt": prompt}
        if empty:
            raise ConfigurationError(f"{field}: {file} holds no prompt; write one a line.")


@contextmanager
def _opened(field: str, path: str | Path, what: str) -> Iterator[tuple[Path, TextIO]]:
    """The file and its text; what cannot be read of it within the block is said."""
    file = Path(str(path).strip()).expanduser()
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigurationError(f"{field}: {file} has {file.stat().st_size:,} bytes; give at most {LARGEST:,}.")
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield file, stream
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{field}: {file} is not UTF-8 (byte {_first_wrong_byte(file, error)}); save it as UTF-8 (in a "
            "spreadsheet: 'CSV UTF-8')."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{field}: {file} cannot be read ({error.strerror}); give a path to {what}, or a list of prompts in square "
            "brackets."
        ) from error
    except TableError as error:
        raise ConfigurationError(f"{field}: {file}, {error}.") from error


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


def number_in(field: str, value: str, where: str) -> float:
    """A number of a CSV cell."""
    try:
        return float(value)
    except ValueError as error:
        raise ConfigurationError(f"{field}: {value!r} is no number ({where}); give one such as 1.5.") from error
