"""Encoding, moments, pictures and attacks on one process and on two; and a model of the cost on N devices.

    python -m benchmarks.scaling            # times what is missing in scaling.csv, then writes scaling.md
    python -m benchmarks.scaling --page     # writes scaling.md from scaling.csv alone
    python -m benchmarks.scaling --quick --output FOLDER    # the smallest sizes, once: to try it

Interrupted, it goes on where it stopped. It needs two idle cores: each process has one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from benchmarks import harness
from benchmarks.harness import WEIGHT_FILES, Piece, Table, command, digest_of, fill, table_parser
from benchmarks.scaling.page import Timing, page
from benchmarks.scaling.parts import PARTS, Sizes, measure_all
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.catalog import WEIGHTS
from rece_lightning.models.find import find_base

PROCESSES = (1, 2)
REPEATS = 5
BETWEEN_TWO = ("sum", "call")
"""Parts that one process has not."""
QUICK = Sizes(prompts=128, pictures=2, steps=1, picture_batch=1, pieces=2, attack_steps=1, sums=2)


def weights() -> str:
    """First digits of the hash of what is timed."""
    found = hashlib.sha256()
    for part in (WEIGHT_FILES["emoji"], WEIGHTS / "text_encoder" / "model.safetensors"):
        found.update(part.read_bytes())
    return found.hexdigest()[:12]


def recipe(sizes: Sizes) -> str:
    """Of weights and sizes: what makes timings comparable."""
    return digest_of(json.dumps([weights(), asdict(sizes)]))


def piece(sizes: Sizes, processes: int, repeats: int) -> Piece[Timing]:
    """The parts on so many processes, each timing written as it is made."""
    made = recipe(sizes)
    parts = [part for part in PARTS if processes > 1 or part not in BETWEEN_TWO]
    keys = {(part, processes, repeat): made for repeat in range(repeats) for part in parts}

    def measured(missing: list[tuple[str, int, int]]) -> Iterator[list[Timing]]:
        for timing in measure(sizes, processes, [(part, repeat) for part, _, repeat in missing]):
            yield [replace(timing, recipe=made)]

    return Piece(f"{processes} process{'es' * (processes > 1)}", keys, measured)


def measure(sizes: Sizes, processes: int, todo: Sequence[tuple[str, int]]) -> Iterator[Timing]:
    """Start the processes; timings come as they are made.

    Raises:
        ConfigurationError: if a process fails.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scaling", "--work", json.dumps([asdict(sizes), todo])]
    started = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    try:
        assert started[0].stdout is not None
        for line in started[0].stdout:
            if line.startswith("measured "):
                yield Timing(**json.loads(line.removeprefix("measured ")))
        if any(process.wait() for process in started):
            raise ConfigurationError("benchmarks.scaling: a process failed; what it says stands above.")
    finally:
        for process in started:
            process.kill()
            process.wait()


def machine() -> tuple[str, str]:
    """The machine in words, and a warning where its cores are too few or busy."""
    # Not every system tells which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0]
    told = f"{platform.machine()}, {cores} cores to use, Python {platform.python_version()}."
    few = cores < max(PROCESSES) or busy > cores + 1
    return told, f"{cores} cores and a load of {busy:.1f}: these times say nothing of scaling." if few else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Time what is missing, then write the page."""
    parser = table_parser("scaling", __doc__, "scaling.csv and scaling.md")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    with command(parser, argv, trials=["quick"]) as given:
        if given.work:
            sizes, todo = json.loads(given.work)
            measure_all(Sizes(**sizes), [(part, repeat) for part, repeat in todo])
            return
        sizes, repeats = (QUICK, 1) if given.quick else (Sizes(), given.repeats)
        table, (told, warning) = Table(given.output / "scaling.csv", Timing), machine()
        work = [piece(sizes, processes, repeats) for processes in PROCESSES]
        if given.page:
            timings = table.rows()
            if {key for one in work for key in one.recipes} - {timing.key for timing in timings}:
                raise ConfigurationError(f"{table.path} lacks timings; leave --page out.")
        else:
            timings = fill(table, work, overwrite=given.overwrite, whole=True)
        words = f"{sizes.prompts:,} prompts, {sizes.pictures} pictures of {sizes.steps} steps, {sizes.pieces} attacks."
        asked = harness.command_of(parser, given, ["quick"] if given.quick else ["repeats"])
        described = {"command": asked, "machine": told, "warning": warning, "sizes": words, "weights": weights()}
        print(harness.write_page(given.output, "scaling", page(timings, find_base("emoji").width, described)))


if __name__ == "__main__":
    main()
