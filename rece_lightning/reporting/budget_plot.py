"""What an attacker can regain with embeddings of a bounded norm, epoch by epoch, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from rece_lightning.reporting.plots import MARKERS, STYLE, svg

PREFIX = "regeneration_residual_at_"


def budget_points(row: Mapping[str, float]) -> list[tuple[float, float]]:
    """(β, residual relative to a concept mapped onto its target) of an epoch's figures, by β."""
    size = row.get("mapped_residual", 0.0)
    if not size > 0:
        return []
    points = [(float(key.removeprefix(PREFIX)), value / size) for key, value in row.items() if key.startswith(PREFIX)]
    return sorted(points)


def budget_svg(history: Sequence[Mapping[str, float]]) -> str:
    """The residual over the attacker's budget, one line an epoch; empty where no epoch has such figures."""
    curves = [(epoch, budget_points(row)) for epoch, row in enumerate(history)]
    curves = [(epoch, points) for epoch, points in curves if points]
    if not curves:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6))
        axes = figure.add_subplot()
        places = [budget for budget, _ in curves[0][1]]
        for epoch, points in curves:
            heights = [height for _, height in points]
            marker = MARKERS[epoch % len(MARKERS)]
            axes.plot(range(len(points)), heights, marker=marker, markersize=4, label=f"epoch {epoch}")
        axes.set_xticks(range(len(places)), ["any" if math.isinf(place) else f"{place:g}" for place in places])
        axes.set(
            xlabel="largest norm of the attacking embeddings, over the concepts' own",
            ylabel="distance left (1: the target)",
            ylim=(0, None),
        )
        axes.grid()
        axes.legend(fontsize=7)
        figure.tight_layout()
        return svg(figure, budget_finding(history))


def budget_finding(history: Sequence[Mapping[str, float]]) -> str:
    """What the curves say, in a sentence."""
    points = budget_points(history[-1]) if history else []
    if not points:
        return "No epoch has a residual within a budget."
    own = [height for budget, height in points if budget == 1]
    last = points[-1][1]
    parts = [f"an attacker with embeddings of the concepts' own norm stays {own[0]:.3g}"] if own else []
    parts.append(f"{'one' if own else 'an attacker'} without a limit {last:.3g}" + ("" if own else " away"))
    return f"After the last epoch {' and '.join(parts)} of the way to the target from their keys and values."
