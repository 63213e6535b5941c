"""Texts in Markdown that mean nothing there: as plain words, and as code."""

from __future__ import annotations

import re

# What begins emphasis, code, links, tables, HTML, entities, formulas and references wherever it stands in a line; a
# colon only as part of an address or of an emoji's name.
SIGNS = re.compile(r"[\\`*_\[\]<>|$~&#@^]|:(?=\S)|(?<=\bwww)\.", re.IGNORECASE)


def plain(text: str) -> str:
    """Words for a line or a cell of a table, on one line."""
    return SIGNS.sub(lambda sign: f"\\{sign.group()}", " ".join(text.split()))


def code(text: str, *, in_table: bool = False) -> str:
    """Code within a line, or within a cell of a table, where a bar would end the cell."""
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    mark = "`" * (longest + 1)
    space = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{mark}{space}{line.replace('|', chr(92) + '|') if in_table else line}{space}{mark}"
