"""``results.md`` and ``results.png`` from the rows of ``results.csv``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.results.claims import LITTLE, UNSEEN, claims
from benchmarks.results.excess import balance, excess, floor, regained, strongest, strongest_each
from benchmarks.results.figures import UNWANTED, incomplete, mean, of, over_erasures, share
from benchmarks.results.groups import IN_CONTEXT, OF_A_NAME, OF_A_PROMPT, RIDGES
from benchmarks.results.plan import ERASED, HELD, KINDS, LOOKED_AT, ORIGINAL, SAMPLING, STATES, SYNONYMS, TUNED
from benchmarks.results.regret import regrets
from benchmarks.results.table import Row
from benchmarks.tuning.plan import CHOSEN_ON, JUDGED_ON
from rece_lightning.evaluation.results.comparison import above_floor
from rece_lightning.metrics import Mean, Share
from rece_lightning.metrics.difference import NEAR, points

REMOVED = "| | erased | synonyms | above the floor | kept | harmonic mean | derived, one ridge | derived, own ridge |"
DRAWN = "| | FID | KID | CLIP score, kept | distance, kept | distance, erased |"
NONE = "–"
MARKERS = "osD^v<>pP*XhdH8s^o"
COLOURS = colormaps["tab20"]
LEGEND = 3.3
"""Inches."""
REGAINED, LOST = 0.10, 0.03
"""Goals for styles, as shares: what a derived embedding may bring back above the floor, and what may be lost."""


def write_page(rows: Sequence[Row], folder: Path) -> Path:
    """Write the page and its plot."""
    return harness.write_page(folder, "results", page(rows), plot(rows))


def page(rows: Sequence[Row]) -> list[str]:
    """The lines of the page."""
    seeds = max(len(hits) for row in rows for hits in row.hits)
    ridges = ", ".join(f"{ridge:g}" for ridge in RIDGES)
    lines = [
        "# What UCE and RECE remove and harm on the embedded world",
        "",
        "Written by `python -m benchmarks.results`; what was measured is in [results.csv](results.csv). U-Net "
        f"`{rows[0].weights}` (SHA-256). One thing is erased at a time; seeds a prompt: {seeds}; DDIM, {SAMPLING}; "
        "detector `emoji-top1`.",
        "",
        "*Floor*: how often the original model shows what is erased where nobody asks for it (an object's target, a "
        "phrase without its style or background), with the same seeds. *Above the floor* is the difference, picture by "
        f"picture; an erasure is *complete* where its interval reaches the floor and it is at most {100 * NEAR:.0f} "
        "points above it. The harmonic mean is that of 1 − what is above the floor, and what is kept. *Derived*: "
        f"given the embedding that brings most back, whatever its norm: the strongest of {len(RIDGES)} ridges "
        f"({ridges} times tr(G)/d), one for all erasures of the row (*one ridge*), or each erasure its own (*own "
        f"ridge*: an attacker who looks at the pictures). It is derived of an object's name, {OF_A_NAME} pictures, or "
        f"of {IN_CONTEXT} prompts in context, {OF_A_PROMPT} pictures each; the keys that an edit of values leaves "
        "alone meet it too.",
        "",
        "*Tuned*: what is not named is chosen for each erasure without a picture, by the rule of `model.tune: "
        f"balanced` or `robust`. Of the objects the rule was chosen on every second one ({', '.join(CHOSEN_ON)}), and "
        f"it is judged on the others ({', '.join(JUDGED_ON)}), see [tuning.md](tuning.md); styles and backgrounds it "
        "never saw. *robust, emoji_robust.yaml* has the settings of that file, which were chosen on other objects "
        "([reach.md](reach.md)).",
        "",
        "The perceptual distance is from the original model's picture of the same prompt and seed; FID and KID (× "
        "1,000) are between the kept pictures and the original model's of the same prompts and other seeds, so that "
        "the original's own are the least that can be reached. Their features, and those of the distance, are the "
        "detector's 192. CLIP score by the embedded CLIP.",
        "",
        "In parentheses 95 % intervals: of detections, CLIP score and distance over prompts, for these erasures; of "
        "*own ridge*, FID and KID over erasures (one figure an erasure; Student's t with fewer than six). FID is "
        "biased upwards by few pictures: compare these with each other alone. Tests flip signs over prompts (of FID "
        "over erasures); each p-value is of one test.",
        "",
        "## RECE's claims",
        "",
        "Rule: *removes more* is confirmed where erased names and synonyms are detected less often than after UCE by "
        "more than chance (p < 0.05), and contradicted where more often; the floor is the same after both, so a test "
        "of the rates is one of what is above it. Where UCE is at its floor nothing is left to remove. *Harms little* "
        f"means that {100 * LITTLE:.0f} of 100 pictures of kept concepts are lost against the original model at most: "
        "confirmed where the whole interval says so, contradicted where the whole interval says the opposite.",
        "",
        *claims(rows),
    ]
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind]
        if own:
            lines += [*section(own, kind), ""]
    cost = regrets(rows)
    if cost:
        lines += [*cost, ""]
    return [*lines, "![Kept against erased, with intervals](results.png)"]


def section(rows: Sequence[Row], kind: str) -> list[str]:
    """The tables of a kind, its settings, and detections an erasure."""
    names = list(dict.fromkeys(row.erasure for row in rows))
    states = states_of(rows, kind)
    lines = [f"## {kind.capitalize()}", "", f"{len(names)} erased one at a time: {', '.join(names)}.", ""]
    lines += removed_table(rows, kind, states)
    short = incomplete(rows, kind, states, len(names))
    lines += ["", f"Not all were measured: {short}."] if short else []
    unseen = [row for row in rows if row.erasure in JUDGED_ON]
    if unseen and any(state in TUNED for state in states):
        lines += ["", f"Of these, {UNSEEN}:", "", *removed_table(unseen, kind, states)]
    if kind == "styles":
        lines += frontier(rows, kind, states)
    lines += ["", "What the pictures are like:", "", DRAWN, "|---" * (DRAWN.count("|") - 1) + "|"]
    lines += ["| " + " | ".join([state, *drawn(rows, kind, state)]) + " |" for state in states]
    lines += ["", *(f"- {state}: {settings_of(rows, kind, state)}" for state in states if state != ORIGINAL)]
    lines += ["", "Detected, erased (with synonyms) / kept:", "", "| | " + " | ".join(states) + " |"]
    lines.append("|---" * (len(states) + 1) + "|")
    for name in names:
        own = [row for row in rows if row.erasure == name]
        found = [f"{rate(of(own, kind, s, UNWANTED))} / {rate(of(own, kind, s, (HELD,)))}" for s in states]
        lines.append("| " + " | ".join([name, *found]) + " |")
    return lines


def frontier(rows: Sequence[Row], kind: str, states: Sequence[str]) -> list[str]:
    """Which states meet the goals that are set for styles, and what the others lack; the style looked at stays out."""
    own = [row for row in rows if row.erasure != LOOKED_AT]
    before, least = share(of(own, kind, ORIGINAL, (HELD,))), floor(own, kind)
    if not least.total or not before.total:
        return []
    lines = [
        "",
        "*Nearest point*: `ProjectedUCE`, which takes out of every embedding's reach the leading directions of what "
        f"all prompts of a style differ by, and edits like UCE behind it; first tried on {LOOKED_AT}. On the others "
        f"a style that is erased well has at most {100 * NEAR:.0f} points above its floor, at most "
        f"{100 * REGAINED:.0f} above it for the derived embedding of the strongest ridge, and keeps all but "
        f"{100 * LOST:.0f} points of what the original does:",
        "",
    ]
    for state in states:
        above, kept = excess(own, kind, state), share(of(own, kind, state, (HELD,)))
        back = regained(own, kind, state)
        if state == ORIGINAL or above is None or not kept.total or back is None:
            continue
        parts = [
            (above.value <= NEAR, f"{above}"),
            (back.value <= REGAINED, f"derived {back}"),
            (before.rate - kept.rate <= LOST, f"kept {points(kept.rate - before.rate)}"),
        ]
        lacks = [name for (met, _), name in zip(parts, ("removal", "embeddings", "kept"), strict=True) if not met]
        verdict = "**all three**" if not lacks else f"lacks {' and '.join(lacks)}"
        lines.append(f"- {state}: {verdict} ({'; '.join(said for _, said in parts)}).")
    return lines


def removed_table(rows: Sequence[Row], kind: str, states: Sequence[str]) -> list[str]:
    """What each state removes, keeps and leaves to embeddings, under the floor."""
    least, lines = floor(rows, kind), [REMOVED, "|---" * (REMOVED.count("|") - 1) + "|"]
    if least.total:
        lines.append("| " + " | ".join(["floor", str(least), *[NONE] * (REMOVED.count("|") - 3)]) + " |")
    return [*lines, *("| " + " | ".join([state, *removed(rows, kind, state)]) + " |" for state in states)]


def settings_of(rows: Sequence[Row], kind: str, state: str) -> str:
    """With what it was run: where a rule chose for each erasure, every choice with the number of erasures."""
    found = Counter(row.settings for row in of(rows, kind, state, (ERASED,)))
    if len(found) == 1:
        return next(iter(found))
    short: Counter[str] = Counter()
    for settings, count in found.items():
        short[", ".join(rounded(part) for part in settings.split(", "))] += count
    return "; ".join(f"{settings} ({count} of {sum(short.values())})" for settings, count in short.most_common())


def rounded(setting: str) -> str:
    """``lamb 0.06332`` as ``lamb 0.063``: what is laid out on the scale of a prompt differs in the third digit."""
    name, _, value = setting.rpartition(" ")
    try:
        return f"{name} {float(value):.2g}"
    except ValueError:
        return setting


def states_of(rows: Sequence[Row], kind: str) -> list[str]:
    """The states that were measured on a kind: in the order of the plan, then those of this kind alone."""
    measured = dict.fromkeys(row.state for row in rows if row.kind == kind)
    return [*(state for state in STATES if state in measured), *(state for state in measured if state not in STATES)]


def removed(rows: Sequence[Row], kind: str, state: str) -> list[str]:
    """What a state removes and keeps, and what derived embeddings bring back."""
    shares = [str(share(of(rows, kind, state, (group,)))) for group in (ERASED, SYNONYMS)]
    kept = str(share(of(rows, kind, state, (HELD,))))
    if state == ORIGINAL:
        return [*shares, NONE, kept, NONE, NONE, NONE]
    middle = balance(rows, kind, state)
    back = [str(one) if one.total else NONE for one in (f(rows, kind, state) for f in (strongest, strongest_each))]
    mean_of_both = f"{100 * middle:.0f} %" if middle == middle else NONE
    return [*shares, above_floor(excess(rows, kind, state)), kept, mean_of_both, *back]


def drawn(rows: Sequence[Row], kind: str, state: str) -> list[str]:
    """How far a state's pictures are from the original's."""
    erased, kept = (of(rows, kind, state, (group,)) for group in (ERASED, HELD))
    means = [over_erasures(kept, "fid"), over_erasures(kept, "kid"), mean(kept, "clip")]
    if state != ORIGINAL:
        means += [mean(kept, "distance"), mean(erased, "distance")]
    return [*(told(one) for one in means), *([NONE, NONE] if state == ORIGINAL else [])]


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
    figure, shown = Figure(figsize=(4.4 * len(kinds) + LEGEND, 4.6)), dict[str, Any]()
    for place, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), place + 1)
        # A state's colour and marker are those of its place among all: two of one colour have other markers.
        for state in states_of(rows, kind):
            number = STATES.index(state)
            gone, kept = share(of(rows, kind, state, UNWANTED)), share(of(rows, kind, state, (HELD,)))
            if gone.total and kept.total:
                style: dict[str, Any] = {"capsize": 2, "elinewidth": 1, "linestyle": "none", "alpha": 0.85}
                style |= {"marker": MARKERS[number], "color": COLOURS(number)}
                x, y = 100 * gone.rate, 100 * kept.rate
                axes.errorbar([x], [y], xerr=bars(gone), yerr=bars(kept), label=state, **style)
        axes.set(
            title=kind, xlabel="erased and synonyms, detected (%): lower is better", xlim=(-3, 103), ylim=(38, 103)
        )
        axes.set_ylabel("kept, detected (%)")
        axes.grid(alpha=0.3)
        shown |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.tight_layout(rect=(0, 0, 1 - LEGEND / figure.get_figwidth(), 1))
    figure.legend(list(shown.values()), list(shown), fontsize=8, loc="center right")
    return figure


def bars(found: Share) -> list[list[float]]:
    """Lengths of an interval's arms, in percent."""
    low, high = found.interval
    return [[100 * max(0.0, found.rate - low)], [100 * max(0.0, high - found.rate)]]
