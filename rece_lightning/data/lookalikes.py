"""Prompts that look like something else: a list within one prompt, the name of a file. Warned of, never changed."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError

SEPARATORS = re.compile(r"\s*[,;|\n\r\t]\s*")
# A word of letters and digits after the last dot and no space before it: "prompts/artists.json", not "St. Petersburg".
FILE = re.compile(r"[^\s]+\.[a-z][a-z0-9]{1,4}", re.IGNORECASE)
LONGEST = 255
"""Characters of a file's name, on the usual file systems."""


def check_text(field: str, text: str) -> None:
    """Refuse what no tokenizer takes: halves of characters, which wrong bytes on a command line become.

    Raises:
        ConfigurationError: naming field and value.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{field}: {text!r} holds bytes that are no UTF-8 text; set the terminal to UTF-8, or put the prompt into "
            "a file."
        ) from error


def warn_of_lookalikes(field: str, texts: Iterable[str], *, remedy: str, lists: bool = True) -> None:
    """Warn once of prompts that hold a separator, and once of those that look like a file.

    Args:
        field: the setting, for the message.
        texts: prompts that were given as bare texts; what a mapping or a file says is meant as it is written.
        remedy: how to say that a text is meant as it is; the first part of a sentence.
        lists: whether a separator is told of; in captions commas are common.
    """
    given = [text for text in texts if text.strip()]
    several = [text for text in given if len([part for part in SEPARATORS.split(text) if part.strip()]) > 1]
    if several and lists:
        first = several[0]
        parts = ", ".join(part for part in SEPARATORS.split(first) if part.strip())
        warnings.warn(
            f"{field}: {first!r} is one prompt{_others(several)}. For several write a list, [{parts}], or a .txt with "
            f"one a line; {remedy}.",
            stacklevel=4,
        )
    files = [text for text in given if looks_like_file(text)]
    if files:
        warnings.warn(
            f"{field}: {files[0]!r} is taken for a prompt{_others(files)}, and looks like a file. A file is given "
            "alone, not in a list, and ends in .csv (with a column 'prompt') or .txt (one prompt a line); "
            f"{remedy}.",
            stacklevel=4,
        )


def warn_of_columns(field: str, given: Iterable[str], read: Iterable[str]) -> None:
    """Warn of a column that nobody reads and whose name is nearly that of one that is read."""
    known = list(read)
    for column in given:
        near = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.75) if column not in known else []
        if near:
            warnings.warn(
                f"{field}: its column {column!r} is not read; if it is {near[0]!r}, call it so.", stacklevel=4
            )


def looks_like_file(text: str) -> bool:
    """Whether a text has the form of a file's name, or is that of one that is there."""
    text = text.strip()
    if text.startswith(("./", "../", "~/", "/")) or FILE.fullmatch(text.replace("\\", "/")):
        return True
    return 0 < len(text) <= LONGEST and is_there(text) and not Path(text).is_dir()


def is_there(text: str) -> bool:
    """Whether a text names something on this machine."""
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long; with a zero byte; ~name of nobody
        return False


def _others(texts: list[str]) -> str:
    return f" (and {len(texts) - 1} more like it)" if len(texts) > 1 else ""
