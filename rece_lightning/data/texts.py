"""Texts of users and of files: how one is shown, how a template is filled with it. Loads no framework."""

from __future__ import annotations

import re

# A terminal takes them for commands: ESC moves the cursor and sets the window's title, others turn the line round.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def filled(template: str, text: str) -> str:
    """A template with a text in the place of its ``{}``; nothing else in either has a meaning."""
    return template.replace("{}", text, 1)


def visible(text: str) -> str:
    """A text with its control characters written out, as in ``\\x1b``; line ends and tabs stay."""
    return CONTROLS.sub(lambda found: ascii(found.group())[1:-1], text)


def shortened(text: str, width: int) -> str:
    """A text on one line and of at most ``width`` characters, which a mark says where it is cut."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"


def fenced(text: str, language: str) -> str:
    """A text as a block of code in Markdown, between marks longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{text.rstrip(chr(10))}\n{mark}"
