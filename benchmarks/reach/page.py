"""reach.md from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.reach.plan import FIVE, MMDIT, ONE, ORIGINAL, STYLE, TEN
from rece_lightning.metrics import EmojiDetector, Share

BOUND = "least drift"
CERTIFICATES = (0.3, 0.5, 0.6)
TITLES = {
    ONE: "One object at a time",
    FIVE: "Five weapons at once",
    TEN: "Ten objects at once",
    MMDIT: "Five weapons at once, two text spaces",
    STYLE: "One style at a time",
}
GROUPS = ("erased", "synonyms", "preserved", "derived")


@dataclass(frozen=True)
class Row:
    """One erasure by one method."""

    recipe: str
    part: str
    name: str
    """What is erased."""
    state: str
    settings: str
    erased: str = ""
    """Hits and pictures of every prompt, ``2/5 0/5``, here and below."""
    synonyms: str = ""
    preserved: str = ""
    derived: str = ""
    floor: str = ""
    drift: float | None = None
    certificate: float | None = None
    """The least over concepts and spaces, over embeddings of any norm."""
    mean_certificate: float | None = None
    least: tuple[float, ...] = ()
    """Drift that no map of the kind gets below, for each of ``CERTIFICATES``."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What is measured once."""
        return self.part, self.name, self.state


Rows = Sequence[Row]


def share(rows: Rows, group: str) -> Share:
    """Over all erasures, in clusters of prompts."""
    pairs = [pair.split("/") for row in rows for pair in getattr(row, group).split()]
    return Share.over((int(hits), int(total)) for hits, total in pairs)


def said(rows: Rows, group: str) -> str:
    """A cell; a dash where nothing was drawn."""
    found = share(rows, group)
    return str(found) if found.total else "–"


def mean(rows: Rows, figure: str) -> str:
    """Over erasures; a dash for the original."""
    values = [value for row in rows if (value := getattr(row, figure)) is not None]
    return f"{sum(values) / len(values):.2f}" if values else "–"


def part_table(rows: Rows) -> list[str]:
    """A line a state."""
    lines = ["| | erased | synonyms | preserved | derived | certificate | drift |", "|---|---|---|---|---|---|---|"]
    for state in dict.fromkeys(row.state for row in rows):
        own = [row for row in rows if row.state == state]
        cells = [*(said(own, group) for group in GROUPS), mean(own, "certificate"), mean(own, "drift")]
        lines.append(f"| {state} | {' | '.join(cells)} |")
    return lines


def bound_table(rows: Rows) -> list[str]:
    """What no map gets below."""
    heads = [f"certificate {one:g}" for one in CERTIFICATES]
    lines = [f"| erased at once | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    return [*lines, *(f"| {row.name} | {' | '.join(f'{one:.3f}' for one in row.least)} |" for row in rows)]


def sentences(rows: Rows) -> list[str]:
    """What the table says, in sentences."""
    found = []
    for part in (ONE, FIVE, TEN, MMDIT):
        own = [row for row in rows if row.part == part]
        before = share([row for row in own if row.state == ORIGINAL], "preserved")
        states = dict.fromkeys(row.state for row in own if row.derived)
        held = []
        for state in states:
            mine = [row for row in own if row.state == state]
            if share(mine, "derived").rate <= 0.10:
                held.append((share(mine, "preserved").rate, state, mine))
        if not states or not before.total:
            continue
        if not held:
            found.append(f"- **{TITLES[part]}**: none of these holds the derived embedding at 10 % or below.")
            continue
        rate, state, mine = max(held, key=lambda one: one[0])
        lost = round(100 * (before.rate - rate))
        found.append(
            f"- **{TITLES[part]}**: of those that hold the derived embedding at 10 % or below, *{state}* preserves "
            f"most, {share(mine, 'preserved')} against {before} of the original: "
            f"{f'{lost} points' if lost > 0 else 'nothing'} lost."
        )
    own = [row for row in rows if row.part == STYLE]
    floor = share([row for row in own if row.state == ORIGINAL], "floor")
    if floor.total:
        found.append(f"- **{TITLES[STYLE]}**: the original shows the style in {floor} when nobody asks for one.")
    return found


def write_page(rows: Rows, folder: Path, said_command: str) -> Path:
    """``reach.md``."""
    lines = [
        "# Out of every embedding's reach: what it costs",
        "",
        f"Written by `{said_command}`; what was measured is in [reach.csv](reach.csv). 12 steps, guidance 4, detector "
        f"`{EmojiDetector().protocol}`; 95 % intervals over prompts. *Derived*: the embedding of any norm that comes "
        "nearest to the concept's own keys and values, in every text space at once, met by untouched readers too. "
        "*Certificate*: the least over concepts and spaces, over embeddings of any norm, as a share of a concept's way "
        "to its target. *Drift* is measured on prompts in nobody's list. Settings were chosen on other objects and "
        "styles than these.",
        "",
        *sentences(rows),
    ]
    for part, title in TITLES.items():
        own = [row for row in rows if row.part == part]
        if any(row.settings for row in own):
            settings = {row.state: row.settings for row in own if row.settings}
            lines += ["", f"## {title}", "", *part_table(own), ""]
            lines += [f"- {state}: {what}" for state, what in settings.items()]
    bounds = [row for row in rows if row.part == BOUND]
    if bounds:
        lines += [
            "",
            "## What no map gets below",
            "",
            "The least drift of preserved prompts (of objects in nobody's list; values alone, in the second world all "
            "that reads its rows) at which a mean certificate can be had by *any* map that leaves something out of "
            "every embedding's reach, whatever its directions, their number and the edit that follows: an eigenvalue "
            "bound, proved in "
            "`benchmarks/reach/bound.py`. What is preserved fills the space, so every further object costs directions "
            "that preserved ones use.",
            "",
            *bound_table(bounds),
        ]
    notes = folder / "reach_notes.md"
    if notes.exists():
        lines += ["", notes.read_text(encoding="utf-8").rstrip()]
    return harness.write_page(folder, "reach", lines)
