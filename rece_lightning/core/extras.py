"""What a run can do without never costs it: where it fails, one warning says what is missing, and the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rece_lightning.core.errors import ReceError

LOGGED_BY = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
"""Methods of a Lightning logger by which it is told something, or asked to finish."""
LONGEST = 400


@dataclass
class Outcome:
    """Whether an extra was made."""

    failure: str | None = None
    """Why it was not."""


@contextmanager
def extra(what: str, *, together: bool = False, refusals: bool = False) -> Iterator[Outcome]:
    """Make an extra. An error inside becomes one warning; what interrupts or ends the process goes through.

    Args:
        what: is missing then, such as ``report.html``.
        together: whether other processes would wait for this one: then the error goes through, and ends them too.
        refusals: whether a :class:`ReceError` goes through: before anything was done a mistake is better told at once.

    Yields:
        An outcome, which says afterwards whether it failed.
    """
    outcome = Outcome()
    try:
        yield outcome
    except Exception as error:  # whatever it is: the erasure is done, or can be
        if together or (refusals and isinstance(error, ReceError)):
            raise
        outcome.failure = reason_of(error)
        print(f"Warning: {what} is missing: {outcome.failure}", file=sys.stderr)


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = "".join(letter for letter in " ".join(str(error).split()) if letter.isprintable())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    return text if isinstance(error, ReceError) else f"{type(error).__name__}: {text}".removesuffix(": ")


class SoftCall:
    """A method of a logger that may fail: the first time a warning says so, later times nothing."""

    def __init__(self, method: Callable[..., Any], what: str, failed: list[str]) -> None:
        self._method, self._what, self._failed = method, what, failed

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As the method; ``None`` where it fails."""
        try:
            return self._method(*arguments, **named)
        except Exception as error:  # of a server or a library of somebody else's
            if not self._failed:
                self._failed.append(reason_of(error))
                print(f"Warning: {self._what} is missing from now on: {self._failed[0]}", file=sys.stderr)
            return None


def guard(loggers: Iterable[Any]) -> None:
    """From now on an error of a logger costs its log alone. A logger that is guarded stays as it is.

    Args:
        loggers: of Lightning's kind.
    """
    for logger in loggers:
        failed: list[str] = []
        for name in LOGGED_BY:
            method = getattr(logger, name, None)
            if callable(method) and not isinstance(method, SoftCall):
                setattr(logger, name, SoftCall(method, f"what {type(logger).__name__} logs", failed))
