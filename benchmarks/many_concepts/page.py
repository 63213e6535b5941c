"""``many_concepts.md`` and ``many_concepts.png`` from the rows of ``many_concepts.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.many_concepts.plan import (
    ALL,
    AUTO,
    AUTO_SHARE,
    BOUND,
    CHOSEN,
    LEFT,
    ORIGINAL,
    SAMPLING,
    of_values,
    tuned,
    ways,
)
from benchmarks.many_concepts.table import MOMENTS, Row
from rece_lightning.metrics import Share

NONE = "–"
PUBLISHED = {"RECE": (38.2, 11.0), "UCE": (34.6, 2.1), "SPEED": (89.6, 5.0)}
"""Harmonic mean in % and seconds, 100 celebrities of Stable Diffusion 1.4, as SPEED's authors measured them."""
VALUES = [way.name for way in of_values()]
TUNED = [way.name for way in tuned()]


def write_page(rows: Sequence[Row], folder: Path) -> Path:
    """Write the page and its plot."""
    return harness.write_page(folder, "many_concepts", page(rows), plot(rows))


def page(rows: Sequence[Row]) -> list[str]:
    """The lines of the page."""
    published = ", ".join(f"{name} {mean} % in {seconds:g} s" for name, (mean, seconds) in PUBLISHED.items())
    lines = [
        "# Many concepts at once",
        "",
        "Written by `python -m benchmarks.many_concepts`; what was measured is in [many_concepts.csv]"
        f"(many_concepts.csv). U-Net `{rows[0].weights}` (SHA-256). So many of the embedded world's trained objects "
        "are erased at once, each mapped to the empty prompt; every other trained object is kept: its name is in the "
        "preserve list, and with `data.preserve: auto` one of "
        f"{AUTO_SHARE}, those that the erasure harms most. DDIM, {SAMPLING}; detector `emoji-top1`. Kept are the same "
        "names at every count.",
        "",
        "In parentheses 95 % intervals: of the harmonic mean of *1 − erased* and *kept* a bootstrap over prompts, of "
        "one concept over its pictures. *Remaining* and *drift* need no picture: what of the erased concepts is still "
        "answered, and how far kept keys and values moved. Seconds are those of the whole erasure on one core, prompts "
        "encoded, but for loading the model.",
        "",
        f"Published for 100 celebrities of Stable Diffusion 1.4 (SPEED, arXiv 2503.07392): {published}. Another "
        "model, detector and width: to be read against each other, not against the figures below.",
        "",
        *(line for count in counts(rows) for line in section([row for row in rows if row.count == count], count)),
        *rule_beside_best(rows),
        *what_goes_wrong(rows),
        "",
        *bound(rows),
        "![Harmonic mean over the number of concepts](many_concepts.png)",
    ]
    return lines


def counts(rows: Sequence[Row]) -> list[int]:
    """The numbers of concepts that were measured."""
    return sorted({row.count for row in rows})


def section(rows: Sequence[Row], count: int) -> list[str]:
    """The table of one number of concepts."""
    lines = [
        f"## {count} concept{'s' if count > 1 else ''}",
        "",
        "| | kept by | erased | kept | harmonic mean | remaining | drift | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    best = max((row.harmonic for row in rows if row.method != ORIGINAL and row.harmonic == row.harmonic), default=None)
    for row in rows:
        if row.method == BOUND:
            continue
        name = f"**{row.method}**" if row.harmonic == best and row.method != ORIGINAL else row.method
        if row.error:
            lines.append(f"| {name} | {row.preserve} | refused: {row.error} | | | | | |")
            continue
        edited = row.method != ORIGINAL
        cells = [
            name,
            row.preserve or NONE,
            str(row.share("erased")),
            str(row.share("kept")),
            with_interval(row) if edited else NONE,
            number(row.remaining) if edited else NONE,
            number(row.drift) if edited else NONE,
            f"{row.seconds:.1f}" if edited else NONE,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    chosen = [row for row in rows if row.method in CHOSEN]
    if chosen:
        lines += ["", "Chosen without a picture:", "", *(f"- {row.method}: {row.settings}" for row in chosen)]
    ruled = [row for row in rows if row.method in TUNED]
    if ruled:
        lines += ["", "Chosen by `model.tune: balanced`:", ""]
        lines += [f"- {row.method}: {row.error or row.settings}" for row in ruled]
    values = [row for row in rows if row.method in VALUES]
    if values:
        lines += ["", "Of values alone, whose drift is about these:", ""]
        lines += [f"- {row.method}: {row.settings}" for row in values]
    return [*lines, ""]


def with_interval(row: Row) -> str:
    """The harmonic mean."""
    low, high = row.interval
    return f"{100 * row.harmonic:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def number(value: float) -> str:
    """Two decimals; a dash for what is missing."""
    return f"{value:.2f}" if value == value else NONE


def what_goes_wrong(rows: Sequence[Row]) -> list[str]:
    """The spectrum of the moments, which kept concepts suffer, the setting that trades best."""
    lines = [
        "## What goes wrong as the number grows",
        "",
        "Directions that hold 99 % of the erased differences `c − c*` and of the kept rows; the share of the "
        "differences that lies within the kept rows' directions, where an edit cannot tell them apart; directions that "
        "are free for an edit in the null space, exactly and with the threshold 0.1; condition of UCE's system.",
        "",
        "| concepts | directions of differences | of what is kept | shared | free, exactly | free, 0.1 | condition |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.moments:
            found = dict(zip(MOMENTS, row.moments, strict=True))
            cells = [str(row.count), f"{found['erased_directions']:.0f}", f"{found['kept_directions']:.0f}"]
            cells += [f"{100 * found['shared']:.0f} %", f"{found['free_exact']:.0f}", f"{found['free']:.0f}"]
            lines.append("| " + " | ".join([*cells, f"{found['condition']:.1e}"]) + " |")
    lines += [
        "",
        "Kept names that moved furthest, and detections in that third of the drawn ones against the third that moved "
        "least:",
        "",
        "| concepts | | furthest | detected there | detected where it moved least |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row.kept_drifts and row.method != ORIGINAL and row.preserve == ALL:
            most, least = thirds(row)
            lines.append(f"| {row.count} | {row.method} | {', '.join(row.worst)} | {most} | {least} |")
    lines += ["", "The setting that trades best:", ""]
    for count in counts(rows):
        own = [row for row in rows if row.count == count and row.method != ORIGINAL and row.erased]
        top = max(own, key=lambda row: row.harmonic, default=None)
        if top is not None:
            lines.append(f"- {count}: {top.method}, kept by {top.preserve}: {with_interval(top)} ({top.settings})")
    return lines


def rule_beside_best(rows: Sequence[Row]) -> list[str]:
    """What the rule chose beside the best of the settings that were set by hand, count by count."""
    lines = [
        "## Settings that choose themselves",
        "",
        "Harmonic means of what `model.tune: balanced` chose, beside the best of all others in the tables above; the "
        "regret is that best one, picked in hindsight by these very pictures, less the highest and less the lowest of "
        "the tuned ones, in points.",
        "",
        "| concepts | " + " | ".join(TUNED) + " | best of the others | regret |",
        "|---" * (len(TUNED) + 3) + "|",
    ]
    for count in counts(rows):
        own = {(row.method, row.preserve): row for row in rows if row.count == count and row.erased}
        ruled = {name: own[name, ALL] for name in TUNED if (name, ALL) in own}
        others = [row for (name, _), row in own.items() if name not in (ORIGINAL, *TUNED)]
        if not ruled or not others:
            continue
        best = max(others, key=lambda row: row.harmonic)
        cells = [with_interval(ruled[name]) if name in ruled else NONE for name in TUNED]
        highest, lowest = (f(row.harmonic for row in ruled.values()) for f in (max, min))
        regret = f"{100 * (best.harmonic - highest):.0f} to {100 * (best.harmonic - lowest):.0f}".replace("-", "−")
        lines.append(f"| {count} | {' | '.join(cells)} | {best.method}: {with_interval(best)} | {regret} |")
    return [*lines, ""] if len(lines) > 6 else []


def bound(rows: Sequence[Row]) -> list[str]:
    """What no edit gets below."""
    found = sorted((row for row in rows if row.least), key=lambda row: row.count)
    if not found:
        return []
    heads = " | ".join(f"{100 * left:.0f} % left" for left in LEFT)
    return [
        "## What no linear edit gets below",
        "",
        "What is left of the concepts' way to their targets and what is moved of the kept names are convex quadratic "
        "forms of the edit's map, and for each weight between them one map is best, the same for every layer: UCE's. "
        "So no editor has less of both than UCE's edits over λ₁ have, neither one that is singular or stays in a null "
        "space nor one with a map for each layer or group of layers; the proof stands in "
        "`benchmarks/many_concepts/bound.py`. The least drift of all kept names, of values, at which so much is left:",
        "",
        f"| concepts | {heads} |",
        "|---" * (len(LEFT) + 1) + "|",
        *(f"| {row.count} | {' | '.join(f'{one:.3f}' for one in row.least)} |" for row in found),
        "",
        "These are sums of squares: an edit may spend them on other prompts than UCE does, on what a detector does not "
        "see. RECE's epochs and the choice of keys or values do that, and cannot do more.",
        "",
    ]


def thirds(row: Row) -> tuple[Share, Share]:
    """Detections of the kept prompts that moved furthest and least."""
    order = sorted(range(len(row.kept)), key=lambda place: -row.kept_drifts[place])
    size = max(1, len(order) // 3)
    parts = (order[:size], order[-size:])
    most, least = (Share.over([(row.kept[k].count("1"), len(row.kept[k])) for k in part]) for part in parts)
    return most, least


def plot(rows: Sequence[Row]) -> Figure:
    """Harmonic mean over the number of concepts, with intervals, for both preserve lists; kept against erased."""
    figure = Figure(figsize=(15, 4.6))
    names = [*(way.name for way in ways()), *VALUES, *CHOSEN, *TUNED]
    axes = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    for place, preserve in enumerate((ALL, AUTO)):
        for index, name in enumerate(names):
            own = [row for row in rows if row.method == name and row.preserve == preserve and row.erased]
            own.sort(key=lambda row: row.count)
            if own:
                low = [max(0.0, row.harmonic - row.interval[0]) for row in own]
                high = [max(0.0, row.interval[1] - row.harmonic) for row in own]
                # Shifted a little, so that intervals do not cover each other.
                counted = [row.count * 1.03 ** (index - len(names) / 2) for row in own]
                style = "--" if name in CHOSEN else "-." if name in TUNED else ":" if name in VALUES else "-"
                axes[place].errorbar(
                    counted, [row.harmonic for row in own], [low, high], marker="o", ls=style, label=name, capsize=2
                )
        axes[place].set(
            xscale="log", xlabel="concepts erased at once", ylabel="harmonic mean", ylim=(-0.02, 1.02),
            title="all others kept" if preserve == ALL else "data.preserve: auto",
        )  # fmt: skip
        axes[place].set_xticks(counts(rows), [str(count) for count in counts(rows)])
        axes[place].grid(alpha=0.3)
    axes[0].legend(fontsize=6)
    for row in rows:
        if row.erased and row.count == max(counts(rows)):
            x, y = row.share("erased").rate, row.share("kept").rate
            axes[2].scatter([x], [y], marker="s" if row.preserve == AUTO else "o")
            axes[2].annotate(row.method, (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes[2].set(
        title=f"{max(counts(rows))} concepts (squares: auto)", xlabel="erased, detected (lower is better)",
        ylabel="kept, detected",
    )  # fmt: skip
    axes[2].grid(alpha=0.3)
    figure.tight_layout()
    return figure
