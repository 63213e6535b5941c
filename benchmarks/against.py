"""This checkout beside another one, such as the commit before a change: each in processes of its own, in turns.

``python -m benchmarks.speed --against FOLDER`` is the command. What is timed must be there in both: the class
``Problem`` of :mod:`benchmarks.speed`, and ``cli.py``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

EPOCHS = 3
LOOP = """
import sys
from benchmarks.full_size import projection_shapes
from benchmarks.speed import Problem, seconds
kind, device, concepts = sys.argv[1], sys.argv[2], int(sys.argv[3])
problem = Problem(projection_shapes(kind), device, concepts)
for line in sys.stdin:
    print("took", seconds(lambda: problem.ours(int(line)), device), flush=True)
"""
"""Waits for a number of epochs, and says how many seconds they took."""
LOOPS = {"loop-sd1": ("sd1", 1), "loop-sdxl": ("sdxl", 1), "loop-sd1-20": ("sd1", 20)}
SECTIONS = {
    "loop-sd1": f"{EPOCHS} epochs in Stable Diffusion 1.4's shapes, one prompt: rows",
    "loop-sdxl": f"{EPOCHS} epochs in SDXL's shapes, one prompt: rows",
    "loop-sd1-20": f"{EPOCHS} epochs in Stable Diffusion 1.4's shapes, twenty prompts: moments",
    "imports": "`rece fit --config emoji.yaml --print_config`: what the command imports",
    "demo": "`rece fit --config emoji.yaml`: `make demo`",
    "command": "`rece fit --config nudity.yaml` on a checkpoint of Stable Diffusion 1.4's size",
}
Child = Callable[..., tuple[float, float]]
"""Runs a process of its own; see :func:`benchmarks.speed.child`."""


@contextmanager
def loop(root: Path, kind: str, device: str, concepts: int) -> Iterator[Callable[[], float]]:
    """A process of a checkout that holds a problem; calling it gives the seconds of one run."""
    command = [sys.executable, "-c", LOOP, kind, device, str(concepts)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run() -> float:
            process.stdin.write(f"{EPOCHS}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            for line in process.stdout:  # type: ignore[union-attr]
                if line.startswith("took "):
                    return float(line.split()[1])
            raise SystemExit(f"{root}: the loop failed; what it says stands above.")

        yield run
        process.stdin.close()


def in_turns(
    works: Mapping[str, Callable[[], tuple[float, float]]], repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds and megabytes of every turn but the first; who begins changes with the turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            measured = works[name]()
            if turn:
                found[name].append(measured)
        told = {name: tuple(round(value, 3) for value in each[-1]) for name, each in found.items() if each}
        print(f"  {turn}/{repeats} {told}", flush=True)
    return found


def row(title: str, found: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line of the table: medians, their ratio, and the ratios in single turns; peaks where they are known."""
    before, after = found.values()
    seconds = [statistics.median(took for took, _ in each) for each in (before, after)]
    turns = [new[0] / old[0] for old, new in zip(before, after, strict=True)]
    cells = [title, *(f"{value:.3f}" for value in seconds), f"{seconds[1] / seconds[0]:.3f}"]
    cells.append(f"{min(turns):.2f}–{max(turns):.2f}")
    peaks = [statistics.median(peak for _, peak in each) for each in (before, after)]
    cells += [f"{value:.0f}" if value else "–" for value in peaks]
    return f"| {' | '.join(cells)} |"


def compare(
    other: Path, sections: Sequence[str], device: str, repeats: int, checkpoint: Path, child: Child
) -> list[str]:
    """The table.

    Args:
        other: root of the checkout to compare with.
        sections: of :data:`SECTIONS`.
        device: of the loops.
        repeats: turns, beside one that is not counted.
        checkpoint: of the section ``command``.
        child: starts a process.
    """
    roots = {"other": other.resolve(), "this": Path(__file__).resolve().parent.parent}
    commands = {
        "imports": ("--config", "emoji.yaml", "--print_config"),
        "demo": ("--config", "emoji.yaml"),
        "command": ("--config", "nudity.yaml", "--model.pretrained", str(checkpoint.resolve())),
    }
    lines = [
        f"| this checkout against {other} | other, s | this, s | ratio | in single turns | other, MB | this, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for section in sections:
        print(SECTIONS[section], flush=True)
        works: dict[str, Callable[[], tuple[float, float]]] = {}
        with ExitStack() as stack:
            for name, root in roots.items():
                if section in LOOPS:
                    kind, concepts = LOOPS[section]
                    run = stack.enter_context(loop(root, kind, device, concepts))
                    works[name] = lambda run=run: (run(), 0.0)  # type: ignore[misc]
                else:
                    given = (str(root / "cli.py"), "fit", *commands[section])

                    def once(given: tuple[str, ...] = given) -> tuple[float, float]:
                        with tempfile.TemporaryDirectory() as place:
                            return child(*given, folder=Path(place))

                    works[name] = once
            lines.append(row(SECTIONS[section], in_turns(works, repeats)))
    return lines
