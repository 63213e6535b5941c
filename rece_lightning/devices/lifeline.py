"""Processes of one run watch each other: when one ends, the others end too, and say why it did."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

PERIOD = 2.0
"""Seconds between two signs of life."""
SILENCE = 40.0
"""Seconds without one after which a process counts as dead: a machine that is switched off says nothing."""
GRACE = 10.0
"""Seconds in which a process may end by itself, its files written, once another one has ended."""
_NUMBERS = itertools.count()


class Lifeline:
    """A thread that tells the others that this process lives, and ends the process when another one does not.

    The process group's own time limit cannot do this: ranks may wait for half an hour, and rightly, while another one
    makes pictures. NCCL waits for ever for a rank that is gone. Address and port are those where the processes meet.
    """

    def __init__(self, rank: int, world: int, address: str, port: int) -> None:
        self.rank, self.world = rank, world
        # Every rank counts its runs alike.
        self._prefix = f"lifeline/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_NUMBERS)}"
        self._store = dist.TCPStore(address, port, None, False, timedelta(seconds=20), wait_for_workers=False)
        self._stopped, self._said = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        try:
            if not self._store.check([f"{self._prefix}/failed"]):
                self._store.set(f"{self._prefix}/failed", f"rank {self.rank} ended: {text}")
            # What is told is kept by rank 0: it stays until the others have read it.
            told = [f"{self._prefix}/told/{other}" for other in range(1, self.world)]
            for _ in range(30 if self.rank == 0 else 0):
                if all(self._store.check([key]) for key in told):
                    break
                time.sleep(PERIOD / 10)
        except RuntimeError:
            pass  # rank 0 is gone already

    def reason(self) -> str | None:
        """Why another process ended, where one did."""
        try:
            if not self._store.check([f"{self._prefix}/failed"]):
                return None
            told = self._store.get(f"{self._prefix}/failed").decode()
            self._store.set(f"{self._prefix}/told/{self.rank}", "")
        except RuntimeError:
            return "rank 0 ended"
        return None if told.startswith(f"rank {self.rank} ") else told

    def say(self, reason: str) -> None:
        """Tell the user, once."""
        if not self._said:
            self._said = True
            print(f"{reason}; rank {self.rank} ends too.", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """This process has done its work."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._thread.join(2 * PERIOD)
        with suppress(RuntimeError):  # rank 0 was done before
            self._store.set(f"{self._prefix}/done/{self.rank}", "")

    def _watch(self) -> None:
        heard: dict[int, tuple[bytes, float]] = {}
        for beat in itertools.count():
            reason = self.reason() or self._silent(beat, heard)
            if self._stopped.wait(0 if reason else PERIOD):
                return
            if reason:
                break
        assert reason is not None
        self.say(reason)
        if not self._stopped.wait(GRACE):
            # The main thread waits for a process that will not answer.
            os._exit(1)

    def _silent(self, beat: int, heard: dict[int, tuple[bytes, float]]) -> str | None:
        """Give a sign of life and look for those of the others."""
        now = time.monotonic()
        try:
            self._store.set(f"{self._prefix}/alive/{self.rank}", str(beat))
            for other in range(self.world):
                if other == self.rank or self._store.check([f"{self._prefix}/done/{other}"]):
                    continue
                key = f"{self._prefix}/alive/{other}"
                sign = self._store.get(key) if self._store.check([key]) else b""
                if other not in heard or heard[other][0] != sign:
                    heard[other] = (sign, now)
                elif now - heard[other][1] > SILENCE:
                    return f"rank {other} gave no sign of life for {SILENCE:.0f} s"
        except RuntimeError:
            return "rank 0 ended"
        return None
