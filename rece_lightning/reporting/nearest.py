"""What became of the concepts that are nearest to the erased ones: a curve over the rank of nearness."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rece_lightning.data.texts import shortened
from rece_lightning.evaluation.results.apart import kept_by_rank, of_the_nearest
from rece_lightning.evaluation.results.comparison import ORIGINAL, Comparison
from rece_lightning.metrics import Share
from rece_lightning.reporting.plots import COLORS, STYLE, svg

ORDERS = {"text": "by text", "name": "by name"}
MOST_NAMED = 25
"""Concepts that are still written along the axis."""


def nearest_svg(comparison: Comparison) -> str:
    """How often each of the nearest concepts is drawn, and the nearest 1, 2, 3, … together; empty without detections.

    A panel an order of nearness; points are single concepts, lines all up to there with their 95 % intervals, of the
    original and of the edited model.

    Args:
        comparison: with what is nearest, and columns.
    """
    orders = [order for order in ORDERS if _score(comparison, comparison.last, order).total]
    if not orders:
        return ""
    most = max(len(comparison.nearest[order]) for order in orders)
    with matplotlib.rc_context(STYLE):
        width = min(9.5, max(4.6, 1.6 + 0.3 * most))
        figure = Figure(figsize=(width * len(orders), 4.4))
        for place, order in enumerate(orders):
            axes = figure.add_subplot(1, len(orders), place + 1)
            draw_nearest(axes, comparison, order)
        return svg(figure, " ".join(nearest_findings(comparison)))


def nearest_findings(comparison: Comparison) -> list[str]:
    """What the curves say, a sentence an order of nearness.

    Args:
        comparison: with what is nearest, and columns.
    """
    says = []
    for order, name in ORDERS.items():
        ranks = kept_by_rank(comparison, comparison.last, order) if order in comparison.nearest else []
        whole = _score(comparison, comparison.last, order)
        if not whole.total:
            continue
        before = _score(comparison, ORIGINAL, order)
        beside = f", the original model {before}" if before.total else ""
        says.append(f"Of the {len(ranks)} concepts nearest {name} {whole} of the pictures show what was asked{beside}.")
        half = len(ranks) // 2
        if half:
            near, far = of_the_nearest(ranks[:half])[-1], of_the_nearest(ranks[half:])[-1]
            says.append(f"The nearer half of them is shown in {near}, the farther half in {far}.")
    return says


def _score(comparison: Comparison, key: str, order: str) -> Share:
    ranks = kept_by_rank(comparison, key, order) if order in comparison.nearest else []
    return of_the_nearest(ranks)[-1] if ranks else Share(0, 0)


def draw_nearest(axes: Axes, comparison: Comparison, order: str) -> None:
    """The original's and the edited model's curve into axes.

    Args:
        axes: of matplotlib.
        comparison: with what is nearest, and columns.
        order: of nearness, ``text`` or ``name``.
    """
    concepts = comparison.nearest[order]
    shown = (ORIGINAL, COLORS[4], "original model"), (comparison.last, COLORS[0], "edited model")
    for shift, (key, color, label) in zip((-0.12, 0.12), shown, strict=True):
        ranks = kept_by_rank(comparison, key, order)
        together = of_the_nearest(ranks)
        if not together[-1].total:
            continue
        places = [place + 1 for place, share in enumerate(ranks) if share.total]
        reached = [together[place - 1] for place in places]
        lines, bounds = [100 * share.rate for share in reached], [share.interval for share in reached]
        axes.plot(places, lines, color=color, marker="o", markersize=3, label=f"{label}, all up to here")
        lower, upper = ([100 * bound[side] for bound in bounds] for side in (0, 1))
        axes.fill_between(places, lower, upper, color=color, alpha=0.18, linewidth=0)
        alone = [100 * share.rate for share in ranks if share.total]
        axes.scatter(
            [place + shift for place in places],
            alone,
            color=color,
            marker="x",
            s=18,
            linewidths=1,
            label=f"{label}, each",
        )
    _name(axes, concepts)
    axes.set(xlabel=f"rank of nearness {ORDERS[order]} to what was erased")
    axes.set(ylabel="pictures that show what was asked (%)")
    axes.set(ylim=(-4, 104), xlim=(0.5, len(concepts) + 0.5))
    axes.grid()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)


def _name(axes: Axes, concepts: Sequence[str]) -> None:
    if len(concepts) > MOST_NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    names = [f"{place + 1} {shortened(concept, 24)}" for place, concept in enumerate(concepts)]
    axes.set_xticks(range(1, len(concepts) + 1), names, rotation=60, ha="right", fontsize=7)
