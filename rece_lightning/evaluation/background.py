"""Work beside the caller: a few threads, a bounded queue, and no error that is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore, Lock


class Background:
    """Runs work in threads. Whoever hands in more than ``waiting`` undone pieces waits, so memory stays flat.

    Example:
        >>> done = []
        >>> work = Background(threads=1)
        >>> work.submit(lambda: done.append(1))
        >>> work.close()
        >>> done
        [1]
    """

    def __init__(self, threads: int = 2, waiting: int = 32) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="background")
        self._places = BoundedSemaphore(waiting)
        self._lock = Lock()
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Hand in a piece; an error of an earlier one is raised here."""
        self._raise()
        self._places.acquire()
        self._pool.submit(work).add_done_callback(self._done)

    def _done(self, future: Future[object]) -> None:
        error = future.exception()
        with self._lock:
            self._error = self._error or error
        self._places.release()

    def close(self) -> None:
        """Wait for all pieces; an error of one is raised here."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """Wait for all pieces and keep their errors: another one is on its way."""
        self._pool.shutdown(wait=True)

    def _raise(self) -> None:
        with self._lock:
            error, self._error = self._error, None
        if error is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            raise error
