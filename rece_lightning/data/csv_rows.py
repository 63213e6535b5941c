"""Rows of a CSV in which nothing is merged or dropped: what the csv module would do so in silence is an error."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

DELIMITERS = ",;\t"
"""Spreadsheets write a semicolon where the comma stands in numbers, and tabs as plain text."""
QUOTES = 'put double quotes around a text that holds the separator: "a bomb, lit"'


class TableError(ValueError):
    """What is wrong with a table, in which line, and what to do about it."""


def rows_of(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of its first line and cells of every row, exactly as a program wrote them.

    Args:
        lines: with their ends, from a file that was opened with ``newline=""``.

    Raises:
        TableError: for a row with more or fewer cells than the header, a column that is there twice, and quotes that
            do not match.
    """
    reader = csv.reader(lines, strict=True)
    rows = _numbered(reader)
    _, columns = next(rows, (0, []))
    _check_columns(columns)
    for line, cells in rows:
        if len(cells) != len(columns):
            raise TableError(f"line {line}: {len(cells)} cells under {len(columns)} columns")
        yield line, dict(zip(columns, cells, strict=True))


def typed_rows(lines: Iterable[str], column: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The same of a table that a person or a spreadsheet wrote; cells without the spaces around them.

    The separator is the one of :data:`DELIMITERS` with which the header has ``column``. Cells that are missing at a
    row's end are empty (spreadsheets leave them out), and so may be cells beyond the header. The first row that comes
    is the header's, with every column's name as key and value.

    Args:
        lines: with their ends, from a file that was opened with ``newline=""``.
        column: that tells the separator.

    Raises:
        TableError: for text beyond the header's columns or under a column without a name, a column that is there
            twice, and quotes that do not match. The column without a name that pandas writes first is left out.
    """
    source = iter(lines)
    first = list(_up_to_text(source))
    reader = csv.reader(
        chain(first, source), delimiter=_delimiter(first, column), strict=True, skipinitialspace=True
    )  # fmt: skip
    rows = _numbered(reader)
    header_line, header = next(rows, (0, []))
    columns = [name.strip().removeprefix("\ufeff") for name in header]
    _check_columns([name for name in columns if name])
    yield header_line, {name: name for name in columns if name}
    for line, cells in rows:
        for place, cell in enumerate(cells):
            if not cell.strip() or (place < len(columns) and (columns[place] or place == 0)):
                continue
            where = "under no column's name" if place < len(columns) else f"beyond the {len(columns)} columns"
            raise TableError(f"line {line}: {cell.strip()!r} stands {where} of the header; {QUOTES}")
        cells += [""] * (len(columns) - len(cells))
        yield line, {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name}


def _up_to_text(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line.strip():
            return


def _delimiter(lines: list[str], column: str) -> str:
    for delimiter in DELIMITERS if lines else "":
        try:
            names = next(csv.reader(lines[-1:], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:  # said of the whole header, when it is read
            continue
        if column in (name.strip().removeprefix("\ufeff") for name in names):
            return delimiter
    return ","


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the number of the line where each begins."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise TableError(f"line {line}: {_said(error)}") from error
        if cells:
            yield line, cells


def _said(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return "a double quote opens a text here and nothing closes it; close it, or take it out"
    if "expected after" in text:
        return "text goes on after a closing double quote; write a double quote within a text twice, or take it out"
    return f"{text}; {QUOTES}"


def _check_columns(columns: list[str]) -> None:
    twice = [name for place, name in enumerate(columns) if name in columns[:place]]
    if twice:
        raise TableError(f"the header has the column {twice[0]!r} twice; rename one, or take it out")
