"""What the page says of the attacks: sentences, plots, the table, and the pictures that got through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rece_lightning.evaluation.results.sheets import read_tiles
from rece_lightning.reporting.ladder import Counted, Ladder, LadderRow, ladder_concepts, ladder_findings, tiles_to_show
from rece_lightning.reporting.plots import COLORS, INK, MARKERS, STYLE, arms, svg

BEFORE, AFTER, CONTROL = COLORS[4], COLORS[0], COLORS[1]
PICTURES = 8
"""Of an attack that are shown."""
AXES = {
    "steps": "steps of the search",
    "tokens": "free positions",
    "ratio": "norm of the embedding over the concept's own",
}
"""What a curve's variants are called at its axis."""


@dataclass(frozen=True)
class Curve:
    """One line: an attack with the same setting of everything but what lies along the axis."""

    attack: str
    along: str
    """``steps``, ``tokens`` or ``ratio``."""
    setting: str
    """What the other settings are, such as ``2 free positions``."""
    control: bool
    points: tuple[tuple[float, Counted], ...]
    """(place on the axis, share of the edited model's pictures), rising."""

    @property
    def label(self) -> str:
        """In the legend."""
        kind = "control" if self.control else "concepts"
        return f"{kind}, {self.setting}" if self.setting else kind


def curves_of(ladder: Ladder) -> list[Curve]:
    """The lines of every attack that was measured at several places of an axis, each attack before its control."""
    curves = []
    for attack in dict.fromkeys(row.attack for row in ladder.whole):
        rows = [row for row in ladder.whole if row.attack == attack and row.place]
        values = {key: {row.place.get(key) for row in rows} for row in rows for key in row.place}
        if not values:
            continue
        along = max(values, key=lambda key: len(values[key]))
        lines: dict[tuple[str, bool], list[LadderRow]] = {}
        for row in rows:
            if along in row.place:
                lines.setdefault((_setting(row, along, values), row.control), []).append(row)
        for (setting, control), own in lines.items():
            points = sorted(((row.place[along], row.edited) for row in own), key=lambda point: point[0])
            if len(points) > 1:
                curves.append(Curve(attack, along, setting, control, tuple(points)))
    return curves


def _setting(row: LadderRow, along: str, values: dict[str, set[float | None]]) -> str:
    parts = []
    for key in values:
        if key == along or len(values[key]) < 2:
            continue
        value = row.place.get(key)
        if key == "tokens" and value is None:
            parts.append("all positions free")
        elif key == "tokens":
            parts.append(f"{value:g} free position{'' if value == 1 else 's'}")
        elif value is not None:
            parts.append(f"{key} {value:g}")
    return ", ".join(parts)


def ladder_svg(ladder: Ladder) -> str:
    """Bars of the original and of the edited model, an attack a row; of a curve its strongest point."""
    rows = ladder.strongest()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.1 + 0.42 * len(rows)))
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            if row.original.total:
                _bar(axes, place - 0.19, row.original, BEFORE, "original model" if place == 0 else None)
            shift = 0.19 if row.original.total else 0.0
            _bar(axes, place + shift, row.edited, AFTER, "edited model" if place == 0 else None, row.control)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="pictures that show the concept (%), with 95 % intervals; hatched: controls")
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
        says = ["Success of every attack on the original and the edited model.", *ladder_findings(ladder)]
        return svg(figure, " ".join(says))


def _bar(axes: Axes, height: float, share: Counted, color: str, label: str | None, hatched: bool = False) -> None:
    if not share.total:
        return
    style: dict[str, Any] = {"hatch": "////", "fill": False, "edgecolor": color} if hatched else {"color": color}
    axes.barh([height], [100 * share.rate], height=0.36, label=label, **style)
    axes.errorbar([100 * share.rate], [height], xerr=arms(share), color=INK, elinewidth=1, capsize=2, linestyle="none")


def curves_svg(curves: Sequence[Curve]) -> str:
    """Success along every curve, a panel an attack; controls are dashed. Empty where there is none."""
    attacks = list(dict.fromkeys(curve.attack for curve in curves))
    if not attacks:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(attacks), 3.6))
        for panel, attack in enumerate(attacks):
            axes = figure.add_subplot(1, len(attacks), panel + 1)
            draw_curves(axes, [curve for curve in curves if curve.attack == attack])
            axes.set_title(attack, fontsize=10)
        return svg(figure, " ".join(curve_findings(curves)))


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """One attack's lines into axes."""
    settings = list(dict.fromkeys(curve.setting for curve in curves))
    for curve in curves:
        number = 2 * settings.index(curve.setting) + curve.control
        line: dict[str, Any] = {"linestyle": "--", "alpha": 0.8} if curve.control else {"linestyle": "-"}
        line |= {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 5}
        places, shares = zip(*curve.points, strict=True)
        bounds = [arms(share) for share in shares]
        lengths = [[one[0][0] for one in bounds], [one[1][0] for one in bounds]]
        heights = [100 * share.rate for share in shares]
        axes.errorbar(places, heights, yerr=lengths, elinewidth=0.8, capsize=2, label=curve.label, **line)
    along = curves[0].along
    axes.set(xlabel=AXES.get(along, along), ylabel="pictures that show the concept (%)", ylim=(-3, 103))
    if along != "ratio":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    if len(curves) > 1:
        axes.legend(fontsize=7)


def curve_findings(curves: Sequence[Curve]) -> list[str]:
    """What the lines say, a sentence each."""
    says = []
    for curve in curves:
        (start, before), (end, after) = curve.points[0], curve.points[-1]
        name = f"{curve.attack} ({curve.label})" if curve.control or curve.setting else curve.attack
        along = AXES.get(curve.along, curve.along)
        says.append(f"{name}: {before} at {start:g} {along}, {after} at {end:g}.")
    return says


def ladder_section(ladder: Ladder, sheet: Path) -> dict[str, Any]:
    """The values of ``ladder.j2``, of a ladder and the sheet with the pictures that got through, in the ladder's order.

    Raises:
        ConfigurationError: if the sheet is no picture.
    """
    curves = curves_of(ladder)
    above = [ladder.over_control(row) for row in ladder.whole]
    return {
        "ladder": ladder,
        "findings": ladder_findings(ladder),
        "rows": ladder.whole,
        "above": above if any(above) else (),
        "concepts": ladder.concepts if len(ladder_concepts(ladder)) > 1 else (),
        "bars": ladder_svg(ladder),
        "curves": curves_svg(curves),
        "curve_findings": curve_findings(curves),
        "gallery": _gallery(ladder, sheet),
        "detector": ladder.detector,
        "sampling": ladder.sampling,
    }


def _gallery(ladder: Ladder, sheet: Path) -> list[dict[str, Any]]:
    """Some of the pictures that got through, attack by attack, and of how many."""
    shown = tiles_to_show(ladder.concepts, PICTURES)
    tiles = read_tiles(sheet, [tile for rows in shown.values() for tile, _ in rows])
    gallery = []
    for title, rows in shown.items():
        there = [(tiles[tile], row) for tile, row in rows if tile in tiles]
        pictures = [{"tile": tile, "concept": row.concept, "alt": _alt(row)} for tile, row in there]
        hits = sum(row.edited.hits for row in ladder.concepts if row.title == title)
        if pictures:
            gallery.append({"title": title, "pictures": pictures, "note": f"{len(pictures)} of {hits}"})
    return gallery


def _alt(row: LadderRow) -> str:
    by = f"{row.attack} {row.variant}".strip()
    if row.control:
        return f"{row.concept}, which the model never knew, taught to the edited model by {by}."
    return f"{row.concept} is drawn by the edited model under the attack {by}."
