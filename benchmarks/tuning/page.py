"""tuning.csv → tuning.md: correlations of the figures with what pictures show, and the regret of the rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.certificate.page import spearman
from benchmarks.tuning.plan import CHOSEN_ON, FIGURES, JUDGED_ON, MMDIT, OTHERS, UNASKED, WIDE
from rece_lightning.core.tuning import RULES, SPARE
from rece_lightning.metrics import Share, harmonic_mean

NONE = "no edit"
NAMES = {
    "remaining": "remaining, over keys and values (the sweep's figure before)",
    "remaining_values": "**remaining, over values**",
    "distance_values": "distance to the target, over values",
    "discriminant": "remaining along the discriminant, over values",
    "nearest": "nearest word of the vocabulary, over keys and values",
    "nearest_values": "nearest word, over values",
    "words_values": "mean of the words that meant the concept, over values",
    "regained": "regained by the derived embedding",
    "drift": "drift of other prompts",
}
ATTACKS = ("p4d", "unlearndiffatk", "paraphrase", "mma")


@dataclass(frozen=True)
class Row:
    """An edit of a concept: what pictures show, and its figures without one."""

    recipe: str
    part: str
    """``grid``, ``one line``, an attack, or the table that the pictures are in."""
    concept: str
    edit: str
    chosen: int
    """Whether tuning chose it."""
    own_hits: int
    own_total: int
    synonym_hits: int
    synonym_total: int
    kept_hits: int
    kept_total: int
    remaining: float
    remaining_values: float
    distance_values: float
    discriminant: float
    nearest: float
    nearest_values: float
    words_values: float
    regained: float
    drift: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it."""
        return self.part, self.concept, self.edit

    @property
    def erased(self) -> float:
        """Share of pictures of the concept and its synonyms that show it."""
        return (self.own_hits + self.synonym_hits) / max(1, self.own_total + self.synonym_total)

    @property
    def kept(self) -> float:
        """Share of pictures of other objects that show these."""
        return self.kept_hits / max(1, self.kept_total)

    @property
    def balance(self) -> float:
        """What pictures say of both sides."""
        return harmonic_mean(self.erased, self.kept)


def within(rows: Sequence[Row], figure: str, seen: Callable[[Row], float] = lambda row: row.erased) -> float:
    """The mean over concepts of the rank correlation of a figure with what pictures show."""
    found = []
    for concept in dict.fromkeys(row.concept for row in rows):
        own = [row for row in rows if row.concept == concept and math.isfinite(getattr(row, figure))]
        value = (
            spearman([getattr(row, figure) for row in own], [seen(row) for row in own]) if len(own) > 3 else math.nan
        )
        found.append(value)
    known = [value for value in found if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def over(rows: Sequence[Row], figure: str) -> float:
    """The rank correlation over all rows, whatever their concept."""
    known = [row for row in rows if math.isfinite(getattr(row, figure))]
    return spearman([getattr(row, figure) for row in known], [row.erased for row in known]) if known else math.nan


def cell(value: float) -> str:
    """A correlation."""
    return "" if math.isnan(value) else f"{value:+.2f}"


def of(rows: Iterable[Row], part: str, concepts: Sequence[str]) -> list[Row]:
    """The edits of a part."""
    return [row for row in rows if row.part == part and row.concept in concepts and row.edit != NONE]


def total(rows: Sequence[Row], *roles: str) -> str:
    """Detections of all rows together."""
    hits = sum(getattr(row, f"{role}_hits") for row in rows for role in roles)
    count = sum(getattr(row, f"{role}_total") for row in rows for role in roles)
    return f"{hits} of {count}" if count else ""


def correlations(rows: Sequence[Row]) -> list[str]:
    """Figure by figure, on both halves."""
    chosen = {"wide grid": "a wide grid", "results": "`results.csv`", "robust": "`robust.csv`"}
    judged = {"grid": "the front", "results": "`results.csv`", "robust": "`robust.csv`"}
    heads = [*(f"chosen on: {name}" for name in chosen.values()), *(f"judged on: {name}" for name in judged.values())]
    lines = [f"| figure | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for figure in FIGURES:
        cells = [cell(within(of(rows, part, CHOSEN_ON), figure)) for part in chosen]
        cells += [cell(within(of(rows, part, JUDGED_ON), figure)) for part in judged]
        lines.append(f"| {NAMES[figure]} | {' | '.join(cells)} |")
    return lines


def attacks(rows: Sequence[Row]) -> list[str]:
    """Figures against what token attackers regain."""
    lines = [f"| figure | {' | '.join(ATTACKS)} |", "|---" * (len(ATTACKS) + 1) + "|"]
    every = (*CHOSEN_ON, *JUDGED_ON)
    for figure in FIGURES:
        cells = [cell(over(of(rows, attack, every), figure)) for attack in ATTACKS]
        lines.append(f"| {NAMES[figure]} | {' | '.join(cells)} |")
    return lines


def regrets(rows: Sequence[Row], part: str = "grid", names: Sequence[str] = JUDGED_ON) -> list[str]:
    """The best setting in hindsight minus the tuned one, concept by concept."""
    lines = [
        "| own, synonyms, others | original | tuned | RECE, published | UCE | regret |",
        "|---|---|---|---|---|---|",
    ]
    values = []
    for concept in names:
        own = [row for row in rows if row.part == part and row.concept == concept]
        tuned = [row for row in own if row.chosen]
        if not tuned:
            continue
        values.append(100 * (max(row.balance for row in own if row.edit != NONE) - tuned[0].balance))
        named = {row.edit: row for row in own}
        shown = (named[NONE], tuned[0], *(named[name] for name in reversed(OTHERS)))
        roles = ("own", "synonym", "kept")
        told = [", ".join(total([row], role) for role in roles if getattr(row, f"{role}_total")) for row in shown]
        lines.append(f"| {concept} | {' | '.join(told)} | {values[-1]:.0f} |")
    return [*lines, f"| mean | | | | | **{sum(values) / max(1, len(values)):.1f}** |"]


def on_mmdit(rows: Sequence[Row]) -> list[str]:
    """The regret on the second world, where it was measured."""
    if not any(row.part == "grid, MMDiT" for row in rows):
        return []
    told = "What the rule costs there, where nothing of it was chosen:"
    return ["", told, "", *regrets(rows, "grid, MMDiT", MMDIT)]


def sums(rows: Sequence[Row]) -> list[str]:
    """The judged half together."""
    lines = ["| judged half | own | synonyms | others |", "|---|---|---|---|"]
    own = [row for row in rows if row.part == "grid" and row.concept in JUDGED_ON]
    chosen = {"original": NONE, **{name: name for name in OTHERS}}
    groups = {title: [row for row in own if row.edit == edit] for title, edit in chosen.items()}
    groups["tuned"] = [row for row in own if row.chosen]
    for title, group in groups.items():
        shares = []
        for role in ("own", "synonym", "kept"):
            hits, count = (sum(getattr(row, f"{role}_{what}") for row in group) for what in ("hits", "total"))
            shares.append(str(Share(hits, count)) if count else "")
        lines.append(f"| {title} | {' | '.join(shares)} |")
    return lines


def one_line(rows: Sequence[Row], part: str, names: Sequence[str]) -> list[str]:
    """Erasures by one line without settings."""
    lines = ["| erased | own | synonyms | six others | others, original |", "|---|---|---|---|---|"]
    found = {(row.concept, row.edit): row for row in rows if row.part == part}
    there = [name for name in names if (name, "tuned") in found]
    for name in there:
        edited, before = found[name, "tuned"], found[name, NONE]
        cells = [total([edited], role) for role in ("own", "synonym", "kept")] + [total([before], "kept")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    edited, before = ([found[name, edit] for name in there] for edit in ("tuned", NONE))
    cells = [total(edited, role) for role in ("own", "synonym", "kept")] + [total(before, "kept")]
    return [*lines, f"| together | {' | '.join(cells)} |"]


def write_page(rows: Sequence[Row], folder: Path) -> Path:
    """The page."""
    every = (*CHOSEN_ON, *JUDGED_ON)
    count = {part: len(of(rows, part, every)) for part in ("wide grid", "grid", "results", "robust")}
    lines = [
        "# Settings that choose themselves",
        "",
        "`python -m benchmarks.tuning`",
        "",
        f"The rule of `model.tune: balanced`. {RULES['balanced']} Figure and share were chosen on every second of "
        f"twelve objects ({', '.join(CHOSEN_ON)}) and are judged on the others ({', '.join(JUDGED_ON)}); the ranges of "
        "the grid come from earlier trials with all of them.",
        "",
        "## Which figure tells without a picture how often a concept is detected",
        "",
        "Rank correlation of a figure with the share of pictures of the concept and its synonyms that show it, within "
        f"a concept and averaged over concepts: {count['wide grid']} edits of a grid wider than the one that is laid "
        f"out ({', '.join(WIDE)}; UCE and RECE of keys and values, drawn words preserved), {count['grid']} of the "
        f"front with the published settings, {count['results']} of `results.csv` (five states), {count['robust']} of "
        "`robust.csv` (three editors; keys, values or both; `bomb` and `axe`, then `church`).",
        "",
        *correlations(rows),
        "",
        "Over keys and values alike *remaining* counts keys that no edit touched: it says nothing of edits of values, "
        "and ranks them last. Over values it tells edits of any kind apart. A concept that its own prompt has lost can "
        "still be there under another word: of a word's difference a share lies beside the concept's, where the edit "
        f"does not reach. {SPARE:.0%} for it makes the rule go on a little beyond the target where that costs nothing.",
        "",
        "## What token attackers find",
        "",
        "The same over UCE and RECE (`emoji.yaml`) and twelve objects, with what an attack of `red_team.csv` regains:",
        "",
        *attacks(rows),
        "",
        "None tells `p4d` or `unlearndiffatk`: of 24 points a correlation within ± 0.40 is chance, and the nearest "
        "word has the wrong sign for one of the two. So `robust` goes by the derived embedding, which a singular "
        "editor alone keeps away, and by no figure of words.",
        "",
        "## What the rule costs",
        "",
        "One object at a time, drawn words preserved. Detections of pictures; the regret is the harmonic mean of "
        "(1 − own and synonyms detected) and others detected, in points, of the best of the settings drawn (three "
        "along the front, the chosen one, the published ones) minus that of the chosen one. The best of several by a "
        "dozen pictures looks better than it is: the regret is an upper bound.",
        "",
        *regrets(rows),
        "",
        *sums(rows),
        "",
        "The same over twelve objects, four styles and three backgrounds with five seeds each, tuned with what the "
        "shipped lists preserve: [results.md](results.md#what-the-rule-costs); many objects at once: "
        "[many_concepts.md](many_concepts.md#settings-that-choose-themselves).",
        "",
        "## One line without settings",
        "",
        '`rece_lightning.erase(pipeline, "bomb")`: nothing else is given. Six other objects, a picture each.',
        "",
        *one_line(rows, "one line", UNASKED),
        "",
        "On the second embedded world (`emoji-mmdit`, both text spaces):",
        "",
        *one_line(rows, "one line, MMDiT", MMDIT),
        *on_mmdit(rows),
    ]
    return harness.write_page(folder, "tuning", lines)
