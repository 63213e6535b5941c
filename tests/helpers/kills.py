"""Runs that are killed and resumed, as a program of its own: it imports once and forks every run.

    python -m tests.helpers.kills MODEL FOLDER

It prints one JSON object a kill: where it fell, and what the resumed run leaves differently from an uninterrupted one.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rece_lightning.__main__ import main
from tests.helpers.command import write_config
from tests.helpers.forked import fork

EPOCHS = 5
RANDOM_KILLS = 20
AIMED_KILLS = 10
SYNCS = 36
"""A run of so many epochs brings at least so many files and folders to the disk."""
PHASES = (0, 1, 1, 2)
"""Of the random kills: two of four fall among the epochs, which are the shortest part of such a small run."""
RUN = Path("runs/run/version_0")
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {},
    "accumulated": {
        "model": {"method": {"accumulate": True, "derivation": {"scale": 0.01}}},
        "data": {"concepts": ["bomb", "a water pistol"], "validation": ["bomb"]},
        "trainer": {
            "callbacks": [{"class_path": "Evaluation", "init_args": {"steps": 1, "pictures_per_prompt": 1}}],
        },
    },
}


def fit(folder: Path, *arguments: str) -> Callable[[], object]:
    """The work of a process that runs ``fit`` in a folder."""

    def work() -> None:
        os.chdir(folder)
        main(["fit", "--config", str(folder / "run.yaml"), *arguments])

    return work


def finish(process: int) -> int:
    """Exit code of a process; −9 when it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def fit_until_killed(folder: Path, phase: int, delay: float, *arguments: str) -> bool:
    """Kill a run a while after it began a phase: its start, its epochs, or its end.

    Returns:
        Whether the kill came before the process ended.
    """
    process = fork(folder, fit(folder, *arguments))
    begun = [None, *(folder / RUN / f"checkpoints/epoch={epoch}.ckpt" for epoch in (0, EPOCHS - 1))][phase]
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while begun is not None and not begun.exists() and os.waitid(os.P_PID, process, ended) is None:
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    return finish(process) == -signal.SIGKILL


def fit_until_sync(folder: Path, number: int) -> bool:
    """Die at the n-th moment at which something was to reach the disk: within the writing of a file."""

    def work() -> None:
        sync, calls = os.fsync, [0]

        def dying(descriptor: int) -> None:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(descriptor)

        os.fsync = dying
        fit(folder)()

    return finish(fork(folder, work)) == -signal.SIGKILL


def where(folder: Path) -> str:
    """What a killed run left."""
    run = folder / RUN
    if not (run / "config.yaml").exists():
        return "before its folder"
    if not list(run.glob("checkpoints/*.ckpt")):
        return "before the first checkpoint"
    if not (run / f"checkpoints/epoch={EPOCHS - 1}.ckpt").exists():
        return "between epochs"
    return "after everything was written" if (run / "report.html").exists() else "after the last epoch"


def phases(folder: Path, started: float, ended: float) -> list[float]:
    """Seconds that a whole run took before its first checkpoint, from there to its last, and after that."""
    times = [(folder / RUN / f"checkpoints/epoch={epoch}.ckpt").stat().st_mtime for epoch in (0, EPOCHS - 1)]
    return [end - start for start, end in itertools.pairwise([started, *times, ended])]


def result(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was stopped."""
    run = folder / RUN
    with (run / "metrics.csv").open(newline="") as stream:
        rows = [
            {key: value for key, value in row.items() if not key.endswith("_seconds") and not key.startswith("memory/")}
            for row in csv.DictReader(stream)
        ]
    counts = run / "evaluation.csv"
    edited = load_file(run / "edited.safetensors")
    return {
        "edited.safetensors": {name: weight.numpy().tobytes() for name, weight in edited.items()},
        "map": torch.load(run / "checkpoints/last.ckpt", weights_only=True)["rece"]["erasers"]["text"]["map"]
        .numpy()
        .tobytes(),
        "metrics.csv": rows,
        "evaluation.csv": counts.read_bytes() if counts.exists() else None,
        "report.html": (run / "report.html").exists(),
        "runs": sorted(path.name for path in run.parent.iterdir()),
        "files": sorted(path.name for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name),
    }


def resume(folder: Path, whole: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Go on after a kill and compare."""
    fell = where(folder)
    code = finish(fork(folder, fit(folder, "--ckpt_path", "last")))
    row = {"kill": kind, "settings": name, "fell": fell, "code": code}
    # A run that lacks nothing is refused, and is compared as it is.
    if code != (2 if fell == "after everything was written" else 0):
        return {**row, "differs": ["it did not resume"], "printed": (folder / "printed.txt").read_text()[-2000:]}
    found = result(folder)
    return {**row, "differs": [key for key in whole if found[key] != whole[key]]}


def prepare(folder: Path, model: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    settings = SETTINGS[name]
    trainer = {"max_epochs": EPOCHS, **settings.get("trainer", {})}
    write_config(folder, model, model=settings.get("model"), data=settings.get("data"), trainer=trainer)
    return folder


def kills(model: Path, place: Path) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    draw = random.Random(0)
    # Everything is imported before the first fork.
    os.chdir(prepare(place / "warm", model, "accumulated"))
    fit(place / "warm")()
    for name in SETTINGS:
        folder = prepare(place / name / "whole", model, name)
        started = time.time()
        assert finish(fork(folder, fit(folder))) == 0, (folder / "printed.txt").read_text()
        parts = phases(folder, started, time.time())
        whole = result(folder)
        for number in range(RANDOM_KILLS // len(SETTINGS)):
            phase, tries = PHASES[number % len(PHASES)], 0
            delay = draw.uniform(0, parts[phase])
            while True:
                folder = prepare(place / name / f"random-{number}-{tries}", model, name)
                if fit_until_killed(folder, phase, delay):
                    break
                # It was faster than the whole one.
                delay, tries = 0.8 * delay, tries + 1
            if number % 3 == 0:
                # And once more while it goes on.
                fit_until_killed(folder, 0, draw.uniform(0, sum(parts)), "--ckpt_path", "last")
            yield resume(folder, whole, "random", name)
        syncs = sorted(draw.sample(range(1, SYNCS), AIMED_KILLS // len(SETTINGS)))
        for number in syncs:
            folder = prepare(place / name / f"aimed-{number}", model, name)
            if fit_until_sync(folder, number):
                yield resume(folder, whole, f"sync {number}", name)


if __name__ == "__main__":
    for row in kills(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()):
        print("kill", json.dumps(row), flush=True)
