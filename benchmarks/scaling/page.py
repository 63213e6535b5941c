"""The page of :mod:`benchmarks.scaling`: what was timed, the model of the cost, and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.scaling.parts import BATCH, MATRICES, PARTS, SHARED

DEVICES = (1, 2, 4, 8, 16, 32, 64)
PROMPTS = 10**6
EPOCHS = 4
WHAT = {
    "reading": ("prompts", "check a CSV, sum it up, go through it"),
    "encoding": ("prompts", "text encoder"),
    "moments": ("prompts", "rows into moments"),
    "generation": ("pictures", "sampler and autoencoder"),
    "attacks": ("attacks", "`mma` on one concept, and its pictures"),
    "sum": ("sums", "of the moments, over the processes"),
    "call": ("sums", "of one number"),
    "algebra": ("runs", "Gram matrix and two epochs"),
}


@dataclass(frozen=True)
class Timing:
    """One measurement."""

    part: str
    processes: int
    repeat: int
    units: int
    seconds: float
    recipe: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """What names it."""
        return self.part, self.processes, self.repeat


@dataclass(frozen=True)
class Constants:
    """Seconds, each from the measurements of one process but for what two say to each other."""

    read: float
    """A row of the CSV; every device reads all."""
    encode: float
    """A prompt with its target."""
    count: float
    """A prompt's rows into the moments."""
    algebra: float
    """Gram matrix and two epochs; every device does the same."""
    call: float
    """A message between two processes."""
    byte: float
    """Of a message, beyond that."""
    picture: float
    attack: float
    width: int
    """``d``."""

    def reduction(self, devices: int) -> float:
        """The sum over the devices and its way back: a tree of pairs each way."""
        steps = 2 * math.ceil(math.log2(devices))
        return steps * (self.call + self.byte * 8 * MATRICES * self.width**2)

    def erasure(self, prompts: int, devices: int) -> dict[str, float]:
        """Seconds of ``fit`` by what they are spent on."""
        batches = math.ceil(math.ceil(prompts / BATCH) / devices)
        mine = min(prompts, batches * BATCH)
        return {
            "reading": prompts * self.read,
            "encoding": mine * self.encode,
            "moments": mine * self.count,
            "sum": self.reduction(devices),
            "algebra": EPOCHS / 2 * self.algebra,
        }


def times(timings: Sequence[Timing], part: str, processes: int) -> list[float]:
    """Seconds of every repeat."""
    return [one.seconds for one in timings if (one.part, one.processes) == (part, processes)]


def constants(timings: Sequence[Timing], width: int) -> Constants:
    """What the model needs, from the medians."""
    units = {one.part: one.units for one in timings}

    def each(part: str, processes: int = 1) -> float:
        return median(times(timings, part, processes)) / units[part]

    # Two processes: one way there, one way back.
    call, whole = each("call", 2) / 2, each("sum", 2) / 2
    byte = max(whole - call, 0.0) / (8 * MATRICES * width**2)
    shared = (each(part) for part in ("encoding", "moments"))
    return Constants(each("reading"), *shared, each("algebra"), call, byte, each("generation"), each("attacks"), width)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    return [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *(f"| {' | '.join(row)} |" for row in rows)]


def seconds(value: float) -> str:
    """Seconds in the unit that reads best."""
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 100:
        return f"{value:,.0f} s"
    if not value:
        return "–"
    return f"{value:.3g} s" if value >= 0.1 else f"{1e3 * value:.3g} ms" if value >= 1e-4 else f"{1e6 * value:.3g} µs"


def measured(timings: Sequence[Timing]) -> list[str]:
    """A line a part: one process, two, and their ratio."""
    rows = []
    for part in PARTS:
        one, two = (times(timings, part, processes) for processes in (1, 2))
        units = next(timing.units for timing in timings if timing.part == part)
        ratio = f"{median(one) / median(two):.2f}" if part in SHARED else "–"
        spread = [
            f"{seconds(median(row))} ({seconds(min(row))}–{seconds(max(row))})" if row else "–" for row in (one, two)
        ]
        rows.append([f"{part}: {WHAT[part][1]}", f"{units:,} {WHAT[part][0]}", *spread, ratio])
    return table(["part", "work", "1 process", "2 processes", "ratio"], rows)


def predicted(found: Constants) -> list[str]:
    """A line a number of devices: what a million prompts cost."""
    alone, rows = sum(found.erasure(PROMPTS, 1).values()), []
    for devices in DEVICES:
        parts = found.erasure(PROMPTS, devices)
        whole = sum(parts.values())
        share = math.ceil(PROMPTS / devices)
        others = [seconds(share * each) for each in (found.picture, found.attack)]
        cells = [seconds(parts[name]) for name in ("reading", "encoding", "moments", "sum", "algebra")]
        rows.append([f"{devices}", *cells, seconds(whole), f"{alone / whole:.1f} ×", *others])
    head = ["devices", "reading", "encoding", "moments", "sum", "algebra", "erasure", "faster", "pictures", "attacks"]
    return table(head, rows)


def page(timings: Sequence[Timing], width: int, described: Mapping[str, str]) -> list[str]:
    """The whole page.

    Args:
        timings: all of them.
        width: ``d`` of the embedded world.
        described: ``command``, ``machine``, ``weights`` and ``sizes``, and a ``warning`` or nothing.
    """
    found = constants(timings, width)
    repeats = len(times(timings, "encoding", 1))
    one, two = (found.erasure(PROMPTS, devices) for devices in (1, 2))
    limit = sum(one.values()) / (one["reading"] + one["algebra"])
    named = [
        ("r, a row of the CSV, on every device", found.read),
        ("e, a prompt and its target encoded", found.encode),
        ("m, a prompt's rows counted", found.count),
        ("A, Gram matrix and two epochs, on every device", found.algebra),
        ("α, a message", found.call),
        ("β, a byte of one", found.byte),
        ("g, a picture", found.picture),
        ("a, an attack on a concept", found.attack),
    ]
    return [
        "# Scaling",
        "",
        "The parts of a run on one process and on two, one thread each, connected by gloo, on the embedded world; and "
        "what they cost on more devices, on paper.",
        "",
        f"    {described['command']}",
        "",
        f"{described['machine']} {described['sizes']} Weights `{described['weights']}` (SHA-256 of U-Net and text "
        f"encoder). Medians of {repeats} repeats, smallest and largest in brackets; every time is that of the slower "
        "process.",
        *(["", f"**{described['warning']}**"] if described["warning"] else []),
        "",
        *measured(timings),
        "",
        "*ratio*: one process's time by that of two; 2 is the most. Of reading and algebra every process does all.",
        "",
        "## The model",
        "",
        "    T(P, N) = P·r + B·⌈⌈P/B⌉/N⌉·(e + m) + 2·⌈log₂N⌉·(α + 64·d²·β) + (E/2)·A",
        "",
        f"for P prompts on N devices; batches of B = {BATCH} prompts are dealt out whole; eight d×d matrices of "
        f"float64, 64·d² bytes with d = {width}, are summed once, whatever P is; E = {EPOCHS} epochs. Pictures and "
        "attacks know nothing of each other: ⌈n/N⌉·g and ⌈n/N⌉·a. The constants, from the table above:",
        "",
        *table(
            ["constant", "value"], [[name, seconds(value) if value else "below the noise"] for name, value in named]
        ),
        "",
        f"## {PROMPTS:,} prompts, predicted",
        "",
        "A device is one core of this machine here. Pictures: one of every prompt; attacks: one on every prompt.",
        "",
        *predicted(found),
        "",
        "What does not shrink is the reading, since every rank goes through the whole CSV: the erasure becomes at "
        f"most {limit:.0f} times as fast. The sum over the ranks is {100 * two['sum'] / sum(two.values()):.2g} % of "
        "the time on two devices and does not grow with the prompts. Here α and β are those of two processes on one "
        "machine; a network's are larger: put them in.",
    ]
