"""Plots as inline SVG that reads on a light and on a dark page."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

matplotlib.use("Agg")

from rece_lightning.evaluation.results.states import UNWANTED, Best, State

# At least 3:1 against white and against the page's dark ground.
COLORS = ("#2f7fd1", "#c2630a", "#1f8f5a", "#b8479b", "#7a7a7a", "#b3453c", "#5d6bc9", "#857019")
MARKERS = "osD^vP*X"
LEGENDS = {
    "regeneration_residual": "of the derived embedding",
    "regeneration_residual_unedited": "of the unedited model",
    "mapped_residual": "of a concept mapped onto its target",
}
# What the page's own colour takes the place of.
INK = "#010203"
STYLE: Any = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "legend.facecolor": "none", "legend.framealpha": 0.0,
    "grid.color": "#888888", "grid.alpha": 0.3, "svg.hashsalt": "rece", "svg.fonttype": "path",
    "axes.prop_cycle": cycler(color=COLORS), "text.parse_math": False,
}  # fmt: skip


def svg(figure: Figure, finding: str) -> str:
    """A figure for a page: its text in the page's colour, named by what it shows."""
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(finding)}" ', 1)


def plain_ticks(axes: Any) -> None:
    """Numbers as they are along a logarithmic axis: texts of these figures are no mathematics, a power would be TeX."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def arms(share: Any) -> list[list[float]]:
    """Lengths of an interval's arms, in percent."""
    low, high = share.interval
    return [[100 * max(0.0, share.rate - low)], [100 * max(0.0, high - share.rate)]]


def epochs_svg(history: Sequence[dict[str, float]]) -> str:
    """Residual, drift and norm ratio over the epochs, side by side."""
    panels = [
        ("regeneration residual", ["regeneration_residual", "regeneration_residual_unedited", "mapped_residual"]),
        ("preservation drift", ["preservation_drift"]),
        ("‖c'‖/‖c‖ of the derived embedding", ["norm_ratio"]),
        ("‖M − I‖", ["map_change"]),
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.8))
        for place, (title, keys) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for key in keys:
                points = [(epoch, row[key]) for epoch, row in enumerate(history) if key in row]
                axes.plot(
                    [p[0] for p in points],
                    [p[1] for p in points],
                    marker="o",
                    label=LEGENDS.get(key, key.replace("_", " ")),
                )
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("epoch", fontsize=8)
            axes.set_xticks(range(len(history)))
            axes.tick_params(labelsize=7)
            axes.grid()
            if len(keys) > 1:
                # The unedited model's residual and a mapped concept's lie orders of magnitude apart.
                axes.set_yscale("log")
                plain_ticks(axes)
                axes.legend(fontsize=6)
        return svg(figure, epochs_finding(history))


def epochs_finding(history: Sequence[Mapping[str, float]]) -> str:
    """What the curves say, in a sentence."""
    if not history:
        return "No epoch was run."
    names = {"regeneration_residual": "the regeneration residual", "preservation_drift": "drift"}
    parts, several = [], len(history) > 1
    for key, name in names.items():
        if key in history[0] and key in history[-1]:
            first, last = history[0][key], history[-1][key]
            parts.append(f"{name} goes from {first:.3g} to {last:.3g}" if several else f"{name} is {first:.3g}")
    return f"Over {len(history)} epoch{'s' if several else ''} {' and '.join(parts)}."


def tradeoff_svg(states: Sequence[State], best: Best | None) -> str:
    """Preserved against erased, each with its 95 % interval; the numbers are those of the table."""
    measured = [(place, s.share(UNWANTED), s.share(("kept",))) for place, s in enumerate(states)]
    measured = [row for row in measured if row[1].total and row[2].total]
    if not measured:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.0))
        axes = figure.add_subplot()
        for place, gone, kept in measured:
            color = INK if not states[place].edited else COLORS[place % len(COLORS)]
            axes.errorbar(
                [100 * gone.rate], [100 * kept.rate], xerr=arms(gone), yerr=arms(kept), color=color, elinewidth=1,
                marker=MARKERS[place % len(MARKERS)], capsize=2, alpha=0.9,
            )  # fmt: skip
            point = (100 * gone.rate, 100 * kept.rate)
            axes.annotate(str(place + 1), point, xytext=(6, 6), textcoords="offset points", color=color)
        axes.set(xlabel="erased concepts and synonyms, detected (%): lower is better", xlim=(-3, 103), ylim=(-3, 103))
        axes.set_ylabel("preserved concepts, detected (%): higher is better")
        axes.grid()
        return svg(figure, tradeoff_finding(states, best))


def tradeoff_finding(states: Sequence[State], best: Best | None) -> str:
    """What the plot says, in a sentence."""
    if best is None:
        return "No edited model was measured on erased and on preserved concepts."
    state = states[best.place]
    note = "" if best.clear else ", which is not more than chance above the next"
    return (
        f"{state.name} has the highest harmonic mean, {state.balance:.2f}{note}: erased concepts detected in "
        f"{state.share(UNWANTED)}, preserved ones in {state.share(('kept',))} of the pictures."
    )


def front_svg(
    points: Sequence[tuple[float, float]], front: Sequence[int], measured: Mapping[int, int], x: str, finding: str
) -> str:
    """All settings by what was found without pictures, the front, and the numbers of those that were measured.

    ``points`` are (erased-side figure ``x``, drift), ``front`` the places of settings in order; ``measured`` maps a
    place to the number of its row in the table.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4))
        axes = figure.add_subplot()
        axes.scatter([p[0] for p in points], [p[1] for p in points], s=9, color=COLORS[4], alpha=0.6, label="settings")
        line: dict[str, Any] = {"color": COLORS[0], "marker": "o", "markersize": 4, "label": "front"}
        axes.plot([points[place][0] for place in front], [points[place][1] for place in front], **line)
        for place, number in measured.items():
            axes.scatter(*points[place], s=42, facecolors="none", edgecolors=COLORS[1], linewidths=1.6)
            axes.annotate(str(number), points[place], xytext=(5, 5), textcoords="offset points", color=COLORS[1])
        axes.set(xlabel=f"{x}: lower is better", ylabel="drift of preserved prompts: lower is better")
        if points and max(p[1] for p in points) > 0:
            axes.set_yscale("symlog", linthresh=max(1e-4, min((p[1] for p in points if p[1] > 0), default=1e-4)))
            plain_ticks(axes)
        axes.grid()
        axes.legend(fontsize=8)
        return svg(figure, finding)


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
        axes.set(xlabel="largest norm of the attacking embeddings, over the concepts' own")
        axes.set_ylim(0, budget_top(history))
        axes.set_ylabel("distance left (1: the target)")
        axes.grid()
        axes.legend(fontsize=7)
        return svg(figure, budget_finding(history))


def budget_top(history: Sequence[Mapping[str, float]]) -> float:
    """Where the axis ends: at the target, 1, and beyond it where an edit overshoots."""
    highest = max((height for row in history for _, height in budget_points(row)), default=0.0)
    return 1.05 * highest if highest > 1 else 1.0


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
