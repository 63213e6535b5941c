"""``results.md`` and ``results.png`` from the rows of ``results.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.results.claims import LITTLE, claims
from benchmarks.results.figures import UNWANTED, mean, of, over_erasures, share
from benchmarks.results.plan import ERASED, HELD, KINDS, ORIGINAL, SAMPLING, STATES, SYNONYMS
from benchmarks.results.table import Row
from rece_lightning.metrics import Mean, Share

HEADING = "| | erased | synonyms | kept | FID | KID | CLIP score, kept | distance, kept | distance, erased |"
NONE = "–"


def write_page(rows: Sequence[Row], folder: Path) -> Path:
    """Write the page and its plot."""
    return harness.write_page(folder, "results", page(rows), plot(rows))


def page(rows: Sequence[Row]) -> list[str]:
    """The lines of the page."""
    seeds = max(len(hits) for row in rows for hits in row.hits)
    lines = [
        "# What UCE and RECE remove and harm on the embedded world",
        "",
        "Written by `python -m benchmarks.results`; what was measured is in [results.csv](results.csv). U-Net "
        f"`{rows[0].weights}` (SHA-256). One thing is erased at a time; seeds a prompt: {seeds}; DDIM, {SAMPLING}; "
        "detector `emoji-top1`. The perceptual distance is from the original model's picture of the same prompt and "
        "seed; FID and KID (× 1,000) are between the kept pictures and the original model's of the same prompts and "
        "other seeds, so that the original's own are the least that can be reached. Their features, and those of the "
        "distance, are the detector's 192. CLIP score by the embedded CLIP.",
        "",
        "In parentheses 95 % intervals: of detections, CLIP score and distance over prompts, for these erasures; of "
        "FID and KID over erasures (one figure an erasure; Student's t with fewer than six). FID is biased upwards by "
        "few pictures: compare these with each other alone. Tests flip signs over prompts (of FID over erasures); "
        "each p-value is of one test.",
        "",
        "## RECE's claims",
        "",
        "Rule: *removes more* is confirmed where erased names and synonyms are detected less often than after UCE by "
        f"more than chance (p < 0.05), and contradicted where more often. *Harms little* means that {100 * LITTLE:.0f} "
        "of 100 pictures of kept concepts are lost against the original model at most: confirmed where the whole "
        "interval says so, contradicted where the whole interval says the opposite.",
        "",
        *claims(rows),
    ]
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind]
        if own:
            lines += [*section(own, kind), ""]
    return [*lines, "![Kept against erased, with intervals](results.png)"]


def section(rows: Sequence[Row], kind: str) -> list[str]:
    """The table of a kind, its settings, and detections an erasure."""
    names = list(dict.fromkeys(row.erasure for row in rows))
    states = states_of(rows, kind)
    lines = [f"## {kind.capitalize()}", "", f"{len(names)} erased one at a time: {', '.join(names)}.", "", HEADING]
    lines.append("|---" * HEADING.count(" |") + "|")
    lines += ["| " + " | ".join([state, *cells(rows, kind, state)]) + " |" for state in states]
    settings = {state: of(rows, kind, state, (ERASED,))[0].settings for state in states if state != ORIGINAL}
    lines += ["", *(f"- {state}: {text}" for state, text in settings.items())]
    lines += ["", "Detected, erased (with synonyms) / kept:", "", "| | " + " | ".join(states) + " |"]
    lines.append("|---" * (len(states) + 1) + "|")
    for name in names:
        own = [row for row in rows if row.erasure == name]
        found = [f"{rate(of(own, kind, s, UNWANTED))} / {rate(of(own, kind, s, (HELD,)))}" for s in states]
        lines.append("| " + " | ".join([name, *found]) + " |")
    return lines


def states_of(rows: Sequence[Row], kind: str) -> list[str]:
    """The states that were measured on a kind, in the order of the plan."""
    measured = {row.state for row in rows if row.kind == kind}
    return [state for state in STATES if state in measured]


def cells(rows: Sequence[Row], kind: str, state: str) -> list[str]:
    """A state's figures."""
    erased, synonyms, kept = (of(rows, kind, state, (group,)) for group in (ERASED, SYNONYMS, HELD))
    means = [over_erasures(kept, "fid"), over_erasures(kept, "kid"), mean(kept, "clip")]
    if state != ORIGINAL:
        means += [mean(kept, "distance"), mean(erased, "distance")]
    shares = [str(share(rows)) for rows in (erased, synonyms, kept)]
    return [*shares, *(told(one) for one in means), *([NONE, NONE] if state == ORIGINAL else [])]


def told(found: Mean) -> str:
    """A mean with its interval, in three digits."""
    if not found.total:
        return NONE
    value, low, high = (number(one) for one in (found.mean, *found.interval))
    return f"{value} ({low} to {high})" if found.interval[0] == found.interval[0] else value


def number(value: float) -> str:
    """Three digits, never an exponent."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def rate(rows: Sequence[Row]) -> str:
    """Detections as a percentage."""
    found = share(rows)
    return f"{100 * found.rate:.0f}" if found.total else NONE


def plot(rows: Sequence[Row]) -> Figure:
    """Kept against erased, with intervals: a panel a kind."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    figure = Figure(figsize=(5 * len(kinds), 4.6))
    for place, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), place + 1)
        for marker, state in zip("osD^v", states_of(rows, kind), strict=False):
            gone, kept = share(of(rows, kind, state, UNWANTED)), share(of(rows, kind, state, (HELD,)))
            if gone.total and kept.total:
                style: dict[str, Any] = {"marker": marker, "capsize": 2, "elinewidth": 1, "linestyle": "none"}
                x, y = 100 * gone.rate, 100 * kept.rate
                axes.errorbar([x], [y], xerr=bars(gone), yerr=bars(kept), label=state, **style)
        axes.set(
            title=kind, xlabel="erased and synonyms, detected (%): lower is better", xlim=(-3, 103), ylim=(-3, 103)
        )
        axes.set_ylabel("kept, detected (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    return figure


def bars(found: Share) -> list[list[float]]:
    """Lengths of an interval's arms, in percent."""
    low, high = found.interval
    return [[100 * max(0.0, found.rate - low)], [100 * max(0.0, high - found.rate)]]
