"""``article.md`` and ``article.png`` from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.article import attack_page, published
from benchmarks.article.plan import (
    DERIVED,
    FLOOR,
    ORIGINAL,
    RECE,
    RECE_TUNED,
    ROBUST,
    SEEDS,
    UCE,
    WORDS,
)
from benchmarks.article.table import AttackRow, Row, methods
from benchmarks.results.claims import p, points
from benchmarks.results.figures import (
    UNWANTED,
    detection_change,
    detection_test,
    mean,
    of,
    over_erasures,
    pairs,
    share,
)
from benchmarks.results.groups import RIDGES
from benchmarks.results.page import NONE, bars, number
from benchmarks.results.plan import ERASED, HELD, SAMPLING, SYNONYMS

TITLES = {"unsafe": "An unsafe class: five weapons at once", "objects": "Objects, one at a time",
          "styles": "A style"}  # fmt: skip
LITTLE = 0.05
"""Share of kept pictures that may be lost for "little"."""
FAMILIES = {
    "guards": ("negative prompt", "SLD weak", "SLD medium", "SLD strong", "SLD max", "SAFREE", "output filter"),
    "trained": ("CA, model-based", "CA, noise-based", "SA", "ESD-x", "ESD-u", "ESD-strict"),
}


def write_page(rows: Sequence[Row], folder: Path, attacked: Sequence[AttackRow] = ()) -> Path:
    """Write both."""
    return harness.write_page(folder, "article", page(rows, attacked), plot(rows))


def page(rows: Sequence[Row], attacked: Sequence[AttackRow] = ()) -> list[str]:
    """The lines, from the methods' own pictures and from what attacks reached."""
    worlds = list(dict.fromkeys(row.world for row in rows))
    named = ", ".join(f"`{world}` ({next(row.weights for row in rows if row.world == world)})" for world in worlds)
    lines = [
        "# The article's other systems beside the closed forms",
        "",
        f"Written by `python -m benchmarks.article`; what was measured is in `article_WORLD.csv`. Worlds: {named}, by "
        f"the SHA-256 of their denoisers. {SAMPLING.steps} steps, guidance {SAMPLING.guidance_scale:g}, detector "
        f"`emoji-top1`; {SEEDS[ERASED]} pictures an erased prompt and synonym, {SEEDS[HELD]} a kept one. Concepts, "
        "targets, templates and preserve list are the same for all methods that take them. What each method is: "
        "[docs/baselines.md](../docs/baselines.md).",
        "",
        "*Floor*: how often the original shows what is erased when asked for its target. *Other words*: names and "
        "synonyms in templates. *Derived*: given the embedding, of any norm and in every text space, that the weights "
        f"as they are answer most like the original answers the concept (the strongest of {len(RIDGES)} ridges): for a "
        "method that leaves these weights alone it is the concept's own. *Changed*: share of the denoiser's "
        "parameters. *Erasing*: processor seconds, pictures that a method draws included; *a picture*: processor "
        "seconds of one picture. Guards, CA, ESD and SA have the published settings where these do not depend on the "
        "model's size: SLD's warm-up is scaled to the steps, SAFREE's most (10 of 50 published) is not, learning rates "
        "and batches are those of "
        "`configs/*_emoji.yaml`. The output filter looks with the embedded CLIP, not with the detector that measures. "
        "*Tuned*: scales chosen by `model.tune: balanced` (`robust`) without a picture; RECE's first epoch is UCE's "
        "edit, and where one epoch is chosen, as below each table, there is no other.",
        "",
        "In parentheses 95 % intervals over prompts; tests flip signs over prompts, each p-value is of one test.",
        "",
        "![Kept against erased and against the derived embedding](article.png)",
        "",
        "## What the article claims, and what is seen here",
        "",
    ]
    for world in worlds:
        lines += [f"**`{world}`**", "", *claims([row for row in rows if row.world == world]), ""]
    for world in worlds:
        own = [row for row in rows if row.world == world]
        for kind, title in TITLES.items():
            part = [row for row in own if row.kind == kind]
            if part:
                lines += [f"## {title}: `{world}`", "", *table(part, kind), ""]
    return [*lines, *attack_page.sections(attacked, rows), *published.lines()]


def table(rows: Sequence[Row], kind: str) -> list[str]:
    """What was measured of one kind of things."""
    names = list(dict.fromkeys(row.erasure for row in rows))
    floor = share(of(rows, kind, ORIGINAL, (FLOOR,)))
    columns = ["erased", "synonyms", "other words", "derived", "kept", "FID", "CLIP score, kept", "distance, kept",
               "changed", "erasing, s", "a picture, s"]  # fmt: skip
    said = [f"{len(names)} erased: {', '.join(names)}. Floor: {floor}.", ""]
    said += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in methods(rows):
        cells = []
        for group in (ERASED, SYNONYMS, WORDS, DERIVED, HELD):
            found = share(of(rows, kind, name, (group,)))
            cells.append(str(found) if found.total else NONE)
        kept, own = of(rows, kind, name, (HELD,)), of(rows, kind, name, (ERASED,))
        cells += [number(over_erasures(kept, "fid").mean), number(mean(kept, "clip").mean)]
        cells.append(NONE if name == ORIGINAL else number(round(mean(kept, "distance").mean, 6)))
        for field, scale in (("changed", 100), ("erasing", 1), ("drawing", 1)):
            values = [getattr(row, field) for row in own if getattr(row, field) is not None]
            text = number(scale * sum(values) / len(values)) if values else NONE
            cells.append(f"{text} %" if values and field == "changed" else text)
        said.append(f"| {name} | " + " | ".join(cells) + " |")
    chosen = {(row.state, row.erasure): row.settings for row in rows if row.settings}
    if chosen:
        said += ["", *(f"- {name} ({erased}): {text}" for (name, erased), text in chosen.items())]
    return said


def claims(rows: Sequence[Row]) -> list[str]:
    """Of each other method beside RECE, over everything that was erased."""
    joined = [row for row in rows if row.kind in TITLES]
    kinds = list(dict.fromkeys(row.kind for row in joined))
    said = []
    for rece in (RECE, RECE_TUNED):
        more: dict[str, list[str]] = {"removes more": [], "removes less": [], "no clear difference": []}
        for name in methods(rows):
            if name in (ORIGINAL, rece):
                continue
            found = [pair for kind in kinds for pair in pairs(joined, kind, name, rece, UNWANTED)]
            if not found:
                continue
            test = detection_test(found)
            place = "no clear difference" if not test.clear else "removes more" if test.change < 0 else "removes less"
            more[place].append(f"{name} ({points(detection_change(found))}, {p(test)})")
        said.append(f"- *{rece} removes more* than {'; '.join(more['removes more']) or 'none'}.")
        said.append(f"  It removes less than {'; '.join(more['removes less']) or 'none of them'}.")
        said.append(f"  No clear difference from {'; '.join(more['no clear difference']) or 'none'}.")
    harm = []
    for name in methods(rows):
        found = [pair for kind in kinds for pair in pairs(joined, kind, ORIGINAL, name, (HELD,))]
        if name == ORIGINAL or not found:
            continue
        change = detection_change(found)
        verdict = "little" if change.interval[0] >= -LITTLE else "more" if change.interval[1] < -LITTLE else ""
        if verdict:
            harm.append((verdict, f"{name} ({points(change)})"))
    little, much = ([text for verdict, text in harm if verdict == word] for word in ("little", "more"))
    said.append(
        f"- *Harms little else* (5 of 100 kept pictures at most, by the whole interval): {'; '.join(little) or 'none'}."
    )
    said.append(f"  More than that, by the whole interval: {'; '.join(much) or 'none'}.")
    attacked = []
    for name in (UCE, RECE, RECE_TUNED, ROBUST, *FAMILIES["trained"]):
        found_share = share(row for row in joined if row.state == name and row.group == DERIVED)
        if found_share.total:
            attacked.append(f"{name} {found_share}")
    said.append(f"- *Robust*: the derived embedding brings back, after {'; '.join(attacked)}.")
    return said


def plot(rows: Sequence[Row]) -> Figure:
    """Kept against erased, and against what the derived embedding brings back: a row a world."""
    worlds = list(dict.fromkeys(row.world for row in rows))
    figure = Figure(figsize=(13, 4.9 * len(worlds)))
    titles = {
        (ERASED, SYNONYMS): "erased and synonyms, detected (%)",
        (DERIVED,): "given the derived embedding, detected (%)",
    }
    # A method has one colour in every panel.
    colours = {name: f"C{place % 10}" for place, name in enumerate(dict.fromkeys(row.state for row in rows))}
    for line, world in enumerate(worlds):
        own = [row for row in rows if row.world == world]
        for column, (groups, title) in enumerate(titles.items()):
            axes = figure.add_subplot(len(worlds), 2, 2 * line + column + 1)
            for name in methods(own):
                family = next((key for key, names in FAMILIES.items() if name in names), "edits")
                style: dict[str, Any] = {"marker": {"guards": "s", "trained": "^", "edits": "o"}[family], "capsize": 2,
                                         "elinewidth": 0.7, "linestyle": "none", "color": colours[name]}  # fmt: skip
                if name == ORIGINAL:
                    style |= {"marker": "*", "color": "black"}
                gone = share(row for row in own if row.state == name and row.group in groups)
                kept = share(row for row in own if row.state == name and row.group == HELD)
                if gone.total and kept.total:
                    x, y = 100 * gone.rate, 100 * kept.rate
                    axes.errorbar([x], [y], xerr=bars(gone), yerr=bars(kept), label=name, **style)
            axes.set(xlabel=f"{title}: lower is better", xlim=(-3, 103), ylim=(-3, 103), title=world)
            axes.set_ylabel("kept, detected (%)")
            axes.grid(alpha=0.3)
        axes.legend(fontsize=6.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    return figure
