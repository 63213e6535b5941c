"""How long a fit has worked at the erasure itself, pictures and pages apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

ERASE_SECONDS = "erase_seconds"
"""Figure of every epoch: seconds from the start to its end that went into the erasure."""

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Seconds between start and stop, added up.

    Seconds of the wall: what else the machine does counts.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Begin to count; it may count already."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Count no longer."""
        now = time.perf_counter()
        self.seconds += now - (now if self._started is None else self._started)
        self._started = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count within the block."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def of(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What a call gives, its seconds counted."""
        with self.running():
            return work(*args, **kwargs)

    def lap(self) -> float:
        """Seconds since the last lap; it goes on counting if it does."""
        counting = self._started is not None
        self.stop()
        lap, self.seconds = self.seconds, 0.0
        if counting:
            self.start()
        return lap


class ToErase:
    """Seconds of an erasure up to every epoch, of the runs before this one too.

    Attributes:
        watch: runs while something is done for the erasure.
    """

    def __init__(self) -> None:
        self.watch, self._before = Stopwatch(), 0.0

    def after(self, history: Sequence[Mapping[str, float]]) -> float:
        """Seconds from the first epoch's preparation to the end of the epoch that is the last of ``history``.

        Args:
            history: figures of every epoch so far, with :data:`ERASE_SECONDS` where a former run told them.
        """
        told = [row.get(ERASE_SECONDS, 0.0) for row in history[:-1]]
        self._before = max([self._before, *told]) + self.watch.lap() if told else self.watch.lap()
        return self._before
