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
from dataclasses import asdict, fields
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.scaling_page import Timing, page
from benchmarks.scaling_parts import PARTS, Sizes, measure_all
from benchmarks.tables import read_measured, write_table
from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.catalog import WEIGHTS
from rece_lightning.files import write_atomically
from rece_lightning.models.find import find_base

HERE = Path(__file__).parent
PROCESSES = (1, 2)
REPEATS = 5
QUICK = Sizes(prompts=128, pictures=2, steps=1, picture_batch=1, pieces=2, attack_steps=1, sums=2)
COLUMNS = [field.name for field in fields(Timing)] + ["recipe"]


def weights() -> str:
    """First digits of the hash of what is timed."""
    found = hashlib.sha256()
    for part in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        found.update((WEIGHTS / part).read_bytes())
    return found.hexdigest()[:12]


def recipe(sizes: Sizes) -> str:
    """Of weights and sizes: what makes timings comparable."""
    return hashlib.sha256(json.dumps([weights(), asdict(sizes)]).encode()).hexdigest()[:12]


def read(path: Path, wanted: str) -> list[Timing]:
    """The timings of a file; none where there is no file.

    Raises:
        ConfigurationError: if it is damaged, or of other weights or sizes.
    """
    lines = read_measured(
        path,
        lambda line: (
            line["recipe"],
            Timing(
                line["part"], int(line["processes"]), int(line["repeat"]), int(line["units"]), float(line["seconds"])
            ),
        ),
    )
    others = {named for named, _ in lines} - {wanted}
    if others:
        raise ConfigurationError(f"{path} was timed with other weights or sizes; move it away, or give --overwrite.")
    return [timing for _, timing in lines]


def write(path: Path, timings: Sequence[Timing], named: str) -> None:
    """The whole file, atomically."""
    write_table(path, COLUMNS, ({**asdict(one), "recipe": named} for one in timings))


def missing(timings: Sequence[Timing], processes: int, repeats: int) -> list[tuple[str, int]]:
    """Parts that so many processes have not timed, with the number of the repeat."""
    there = {(one.part, one.repeat) for one in timings if one.processes == processes}
    every = [(part, repeat) for repeat in range(repeats) for part in PARTS]
    return [item for item in every if item not in there and (processes > 1 or item[0] not in ("sum", "call"))]


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


def main() -> None:
    """Time what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of scaling.csv and scaling.md")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once")
    parser.add_argument("--page", action="store_true", help="write the page from the table alone")
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        sizes, todo = json.loads(options.work)
        measure_all(Sizes(**sizes), [(part, repeat) for part, repeat in todo])
        return
    sizes, repeats = (QUICK, 1) if options.quick else (Sizes(), options.repeats)
    try:
        run(sizes, repeats, options.output, only_page=options.page, overwrite=options.overwrite, quick=options.quick)
    except ConfigurationError as error:
        fail(str(error))


def run(sizes: Sizes, repeats: int, output: Path, *, only_page: bool, overwrite: bool, quick: bool) -> None:
    """Fill the table and write the page.

    Raises:
        ConfigurationError: for a table of something else, or one that lacks what the page needs.
    """
    place, named = output / "scaling.csv", recipe(sizes)
    timings = [] if overwrite and not only_page else read(place, named)
    told, warning = machine()
    left = {processes: missing(timings, processes, repeats) for processes in PROCESSES}
    if only_page and any(left.values()):
        raise ConfigurationError(f"{place} lacks timings; leave --page out.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("timing", total=sum(map(len, left.values())))
        for processes, todo in left.items():
            for one in measure(sizes, processes, todo) if todo else ():
                timings.append(one)
                write(place, timings, named)
                progress.update(bar, advance=1, description=f"{one.part}, {processes} processes")
    words = f"{sizes.prompts:,} prompts, {sizes.pictures} pictures of {sizes.steps} steps, {sizes.pieces} attacks."
    asked = " ".join(["python -m benchmarks.scaling", *(["--quick"] if quick else [])])
    if repeats != REPEATS and not quick:
        asked += f" --repeats {repeats}"
    described = {"command": asked, "machine": told, "warning": warning, "sizes": words, "weights": weights()}
    text = page(timings, find_base("emoji").width, described)
    write_atomically(output / "scaling.md", lambda path: path.write_text(text, encoding="utf-8"))
    print(output / "scaling.md")


if __name__ == "__main__":
    main()
