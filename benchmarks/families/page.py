"""``families.md`` from ``families.csv``, the attacks' table and the record of what a fit takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.families.figures import certificates
from benchmarks.families.plan import (
    METHODS,
    NEAREST_KAPPA,
    PARTS,
    SAMPLING,
    SINGULAR,
    SPACES,
    TOKENS,
)
from benchmarks.families.sentences import answers
from benchmarks.families.table import Row
from benchmarks.results.excess import floor, strongest, strongest_each
from benchmarks.results.figures import incomplete, mean, of, share
from benchmarks.results.groups import IN_CONTEXT, RIDGES
from benchmarks.results.page import told
from benchmarks.results.plan import ERASED, HELD, KINDS, ORIGINAL, SYNONYMS
from benchmarks.results.table import Row as OtherRow
from rece_lightning.metrics import Share

NONE = "–"
TITLES = {
    METHODS: "Methods, both text spaces",
    SINGULAR: "Singular editors that certify more",
    SPACES: "One text space alone",
    TOKENS: "Other rows of the prompt",
}


def write_page(
    rows: Sequence[Row], other: Sequence[OtherRow], folder: Path, attacked: Sequence[str], sizes: Sequence[str]
) -> Path:
    """Write the page.

    Args:
        rows: of the MMDiT.
        other: of the U-Net, for comparison.
        folder: of the page.
        attacked: lines about attacks that learn.
        sizes: lines about what a fit takes.
    """
    return harness.write_page(folder, "families", [*page(rows, other), "", *attacked, "", *sizes])


def page(rows: Sequence[Row], other: Sequence[OtherRow]) -> list[str]:
    """The lines about erasures."""
    ridges = ", ".join(f"{ridge:g}" for ridge in RIDGES)
    lines = [
        "# Every way that text takes: an erasure through a choke point",
        "",
        "Written by `python -m benchmarks.families`; what was measured is in [families.csv](families.csv). The world "
        f"is `emoji-mmdit`, transformer `{rows[0].weights}` (SHA-256), in Stable Diffusion 3's layout: its text passes "
        "one map for the rows of a prompt (`context_embedder`) and one for its pooled embedding. Erasures, prompts and "
        "settings are those of [results.md](results.md), which has the U-Net; one thing is erased at a time, in both "
        f"spaces unless said otherwise. {SAMPLING}; detector `emoji-top1`; 5 pictures an erased prompt, 3 a kept one.",
        "",
        "*Floor*: how often the original model shows what is erased when nobody asks (an object's target, a phrase "
        "without its style or background; same seeds). No erasure can go lower but by harm. *Derived*: given the "
        "embedding that brings most back, in every edited space its own, whatever its norm: the strongest of "
        f"{len(RIDGES)} ridges ({ridges} times tr(G)/d of each space), one for all erasures of the row (*one ridge*), "
        "or each erasure its own (*own ridge*: an attacker who looks at the pictures; the most of several draws, so "
        "that where a floor is high it lies above the floor by chance alone). Derived of an object's name, 3 pictures, "
        f"or of {IN_CONTEXT} prompts in context, 2 pictures each. *Certificate*: no embedding of any norm comes nearer "
        "to the concept's own answers than this share of their way to the target's; the median over the erasures (and "
        "the least), rows / pooled.",
        "",
        "![Pictures of the original and of erased models, by name and given the derived embedding](families.png)",
        "",
        "A row is asked by its name on the model that it was erased from, the kept ones on that of the first row; "
        "*given the derived embedding*: in place of the prompt's, in both spaces. Nearest point: κ "
        f"{max(NEAREST_KAPPA):g}. `python -m benchmarks.families.pictures`.",
        "",
        "In parentheses 95 % intervals over prompts, of *own ridge* over erasures. Tests flip signs over prompts; each "
        "p-value is of one test.",
        "",
        "## What the table says",
        "",
        *answers(rows, other),
    ]
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind]
        if own:
            lines += ["", *section(own, kind)]
    return lines


def section(rows: Sequence[Row], kind: str) -> list[str]:
    """The tables of a kind, a part each."""
    names = list(dict.fromkeys(row.erasure for row in rows))
    lines = [f"## {kind.capitalize()}", "", f"{len(names)} erased one at a time: {', '.join(names)}.", ""]
    synonyms = any(row.group == SYNONYMS for row in rows)
    heading = ["", "erased", *(["synonyms"] if synonyms else []), "kept", "distance, kept", "derived, one ridge",
               "derived, own ridge", "certificate"]  # fmt: skip
    for part in PARTS:
        states = list(dict.fromkeys(row.state for row in rows if row.part == part))
        if not states:
            continue
        lines += [f"**{TITLES[part]}.**", "", "| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
        if part == METHODS:
            lines.append("| floor | " + " | ".join([str(floor(rows, kind)), *[NONE] * (len(heading) - 2)]) + " |")
        lines += ["| " + " | ".join([state, *cells(rows, kind, state, synonyms=synonyms)]) + " |" for state in states]
        short = incomplete(rows, kind, states, len(names))
        lines += ["", *([f"Not all were measured: {short}.", ""] if short else [])]
    settings = {row.state: row.settings for row in rows if row.part in (METHODS, SINGULAR) and row.settings}
    return [*lines, *(f"- {state}: {text}" for state, text in settings.items())]


def cells(rows: Sequence[Row], kind: str, state: str, *, synonyms: bool) -> list[str]:
    """A state's figures."""
    erased, others, kept = (of(rows, kind, state, (group,)) for group in (ERASED, SYNONYMS, HELD))
    found = [str(share(erased)), *([str(share(others))] if synonyms else []), str(share(kept))]
    if state == ORIGINAL:
        return [*found, NONE, NONE, NONE, NONE]
    bounds = certificates(rows, kind, state)
    certified = " / ".join(f"{middle:.2f} ({least:.2f})" for least, middle in bounds)
    certified = certified if any(middle for _, middle in bounds) else "0"
    back = [shown(strongest(rows, kind, state)), shown(strongest_each(rows, kind, state))]
    return [*found, told(mean(kept, "distance")), *back, certified]


def shown(found: Share) -> str:
    """A share, or a dash."""
    return str(found) if found.total else NONE
