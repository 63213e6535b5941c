"""What is printed: texts of users and files stand there as they are, never as markup and never as commands."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rece_lightning.data.texts import visible


class PlainConsole(Console):
    """Rich's console for texts that nobody has looked at: no markup, no emoji codes, no control characters.

    Args:
        stderr: whether it prints there.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is, cells and titles of tables included."""
        return super().render_str(visible(text), **options)


def progress(console: Console, unit: str, **options: Any) -> Progress:
    """A bar with what is done, of how many, in which unit, and an estimate of the time that is left."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TextColumn(unit, markup=False), TimeRemainingColumn(), console=console, **options)
