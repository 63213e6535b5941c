"""robust.md and robust.png from what was measured."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.harness import former
from benchmarks.robust.plan import ABLATION, BASES, CHOICES, FRONTIER, RATIOS
from rece_lightning.metrics import EmojiDetector, Share


@dataclass(frozen=True)
class Row:
    """One figure of a case on a concept."""

    weights: str
    """First digits of the SHA-256 of the U-Net's file."""
    recipe: str
    part: str
    editor: str
    label: str
    concept: str
    figure: str
    value: float
    clusters: str
    """Hits and pictures of every prompt: ``2/5 0/5``; empty for a figure without pictures."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """All figures of a case on a concept are measured together."""
        return self.part, self.editor, self.label, self.concept


Rows = Sequence[Row]
DERIVED = [f"derived ratio={ratio:g}" for ratio in RATIOS]
PLAIN = ("erased", "synonyms", "kept")


def share(rows: Rows, figure: str) -> Share:
    """Pictures of a figure over all concepts, in clusters of prompts."""
    pairs = [pair.split("/") for row in rows if row.figure == figure for pair in row.clusters.split()]
    return Share.over((int(hits), int(total)) for hits, total in pairs)


def strongest(rows: Rows, figures: Sequence[str]) -> tuple[str, Share]:
    """The attack with most success, over all concepts together."""
    found = {figure: share(rows, figure) for figure in figures}
    return max(found.items(), key=lambda item: item[1].rate if item[1].total else -1.0)


def attacks_in(rows: Rows) -> list[str]:
    """Names of the attacks that were measured beside the derived embedding."""
    return sorted({row.figure for row in rows if row.clusters} - {*DERIVED, *PLAIN})


def strongest_cell(rows: Rows, figures: Sequence[str]) -> str:
    """The success of the strongest and its name; a dash for none."""
    if not figures:
        return "–"
    name, found = strongest(rows, figures)
    return f"{found} `{name}`"


def mean(rows: Rows, figure: str) -> float:
    """Of a figure without pictures, over concepts; of a certificate the least."""
    values = [row.value for row in rows if row.figure == figure]
    return min(values) if figure.startswith("certificate") else sum(values) / len(values)


def grouped(rows: Rows, part: str) -> dict[tuple[str, str], list[Row]]:
    """Rows of a part by editor and label, in the order in which they were measured."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.part == part:
            found.setdefault((row.editor, row.label), []).append(row)
    return found


def ablation_table(rows: Rows) -> list[str]:
    """A row a switch."""
    lines = [
        "| editor | switch | erased | synonyms | kept | derived, any norm | "
        + " | ".join(f"β {ratio:g}" for ratio in RATIOS[:-1])
        + " | strongest prompt attack | cce | certificate | at β 1 | drift | s an epoch |",
        "|" + "---|" * (11 + len(RATIOS)),
    ]
    for (editor, label), own in sorted(grouped(rows, ABLATION).items(), key=lambda item: list(BASES).index(item[0][0])):
        attacks = attacks_in(own)
        prompts, inversions = (
            [one for one in attacks if one.startswith("cce") is inverts] for inverts in (False, True)
        )
        cells = [editor, label, *(str(share(own, figure)) for figure in PLAIN), str(strongest(own, DERIVED)[1])]
        cells += [f"{share(own, figure).rate:.0%}" for figure in DERIVED[:-1]]
        cells += [strongest_cell(own, prompts)]
        cells += [str(strongest(own, inversions)[1]) if inversions else "–"]
        cells += [f"{mean(own, figure):.3f}" for figure in ("certificate", "certificate at 1", "drift")]
        lines.append("| " + " | ".join([*cells, f"{mean(own, 'seconds'):.2f}"]) + " |")
    return lines


def choices_table(rows: Rows) -> list[str]:
    """A row a choice, the one that the others differ from first."""
    lines = [
        "| differs | erased | synonyms | kept | derived, any norm | strongest prompt attack | certificate | drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (_, label), own in grouped(rows, CHOICES).items():
        prompts = attacks_in(own)
        cells = [label, *(str(share(own, figure)) for figure in PLAIN), str(strongest(own, DERIVED)[1])]
        cells += [strongest_cell(own, prompts)]
        lines.append(f"| {' | '.join(cells)} | {mean(own, 'certificate'):.3f} | {mean(own, 'drift'):.3f} |")
    return lines


def frontier_table(rows: Rows) -> list[str]:
    """A row a setting."""
    lines = [
        "| editor | setting | erased | kept | derived, any norm | certificate | drift |",
        "|---|---|---|---|---|---|---|",
    ]
    for (editor, label), own in grouped(rows, FRONTIER).items():
        cells = [editor, label, *(str(share(own, figure)) for figure in ("erased", "kept"))]
        cells += [str(strongest(own, DERIVED)[1]), f"{mean(own, 'certificate'):.3f}", f"{mean(own, 'drift'):.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def place(rows: Rows) -> tuple[float, float]:
    """Success of the strongest derived embedding, and share of kept objects."""
    return strongest(rows, DERIVED)[1].rate, share(rows, "kept").rate


def pareto(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Those that no other one beats in both: less success, more kept."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda one: (one[0], -one[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def plot(rows: Rows) -> Figure:
    """Kept objects against the derived embedding's success: up and to the left is better; the best ones are named."""
    figure = Figure(figsize=(9, 6))
    axes = figure.add_subplot()
    found = {**grouped(rows, FRONTIER), **grouped(rows, CHOICES), **grouped(rows, ABLATION)}
    kinds = dict.fromkeys((own[0].part, editor) for (editor, _), own in found.items())
    front = {(x, y) for x, y, _ in pareto([(*place(own), label) for (_, label), own in found.items()])}
    lowest = 1.0
    for part, editor in kinds:
        points = [
            (*place(own), label) for (name, label), own in found.items() if name == editor and own[0].part == part
        ]
        marker = {FRONTIER: "o", CHOICES: "^"}.get(part, "s")
        axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], marker=marker, label=f"{editor}, {part}")
        for x, y, label in points:
            lowest = min(lowest, y)
            if (x, y) in front:
                front.remove((x, y))
                axes.annotate(f"{editor}: {label}", (x, y), fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.set(
        xlabel="strongest derived embedding of any norm: pictures with the object", ylabel="kept objects drawn",
        xlim=(-0.02, 1.25), ylim=(lowest - 0.03, 1.01),
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def notes() -> list[str]:
    """What the tables say, written by hand beside them."""
    return (harness.HERE / "robust_notes.md").read_text(encoding="utf-8").splitlines()


def write_page(rows: Rows, folder: Path, command: str, sampling: str) -> Path:
    """Write the page and its plot."""
    return harness.write_page(folder, "robust", page(rows, command, sampling), plot(rows), dpi=110)


def page(rows: Rows, command: str, sampling: str) -> list[str]:
    """The lines of the page."""
    concepts = list(dict.fromkeys(row.concept for row in rows))
    bases = "; ".join(
        f"`{editor}`: {', '.join(f'{key} {value}' for key, value in former(settings).items())}, {epochs} epochs"
        for editor, (settings, epochs) in BASES.items()
    )
    lines = [
        "# The robust loop: what each switch does, and what it costs",
        "",
        f"Made by `{command}` on {platform.machine()}; raw counts in [robust.csv](robust.csv).",
        "",
        f"One erased object at a time: {', '.join(concepts)}; preserved prompts as in `configs/emoji.yaml`. Detector "
        f"`{EmojiDetector.protocol}`; DDIM, {sampling}. Shares of pictures with 95 % intervals over prompts. Kept: "
        "objects in nobody's list, never mined. Derived: the embedding that brings the object back, at the norm ratio "
        "where it succeeds most, and as a curve over β. Certificate: no embedding (at β 1: none as long as the "
        "object's own) comes nearer than this share of the way to the target; the least of all objects.",
        "",
    ]
    if grouped(rows, ABLATION):
        lines += ["## Ablation", "", f"Under every switch: {bases}.", "", *ablation_table(rows), ""]
        lines += [
            "`found`: what the attacks of this table found on the published loop's erasure. `attacks: cce`: textual "
            "inversion before every epoch but the first, in the loop itself; the seconds are those of the closed form. "
            "`cce` in a column: 40 steps from the derived embedding, measured without its control, which stands in "
            "[red_team.md](red_team.md).",
            "",
        ]
    if grouped(rows, CHOICES):
        lines += ["## Choices with the editor `projection`", "", *choices_table(rows), ""]
        lines += [
            "The first row is what the others differ from. The certificate is about the projections that are edited; "
            "the derived embedding meets the others too.",
            "",
        ]
    if grouped(rows, FRONTIER):
        lines += ["## Frontier", "", *frontier_table(rows), ""]
    lines += ["![kept against attack success](robust.png)", "", "Named: what no other setting beats in both."]
    return [*lines, "", *notes()]
