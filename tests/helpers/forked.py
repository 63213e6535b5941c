"""Processes of one run, forked from a program that has imported everything: imports are most of a small test's time."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def fork(folder: Path, work: Callable[[], object]) -> int:
    """Start work in a process of its own; what it prints is added to ``printed.txt``."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        out = os.open(folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_ranks(folder: Path, ranks: int, work: Callable[[], object]) -> list[int]:
    """Let so many ranks of a run do their work, started as torchrun starts them.

    Args:
        folder: for what they print.
        ranks: how many; one is started as if it were alone.
        work: of each; its Trainer asks for ``devices=ranks``.

    Returns:
        Exit codes; −9 of one that was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def begin(rank: int) -> None:
        if ranks > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}
            os.environ.update({key: str(value) for key, value in place.items()})
        work()

    processes = [fork(folder, lambda rank=rank: begin(rank)) for rank in range(ranks)]  # type: ignore[misc]
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
