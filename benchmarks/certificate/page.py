"""certificate.csv → certificate.md and certificate.png: how far a residual predicts what a detector sees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks import harness
from rece_lightning.metrics import EmojiDetector, Share

UNEDITED, TARGET = "no edit", "no edit, the target's prompt"
RESAMPLES = 2000
LOW = 0.10
"""Share of pictures up to which a concept counts as gone."""
MOST = 0.90
"""Share of the points that must be so low."""
FEWEST = 20
"""Points that a tail must have to count."""
BINS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, math.inf)
FLOOR = 1e-4
"""Where the plot puts what is smaller."""


@dataclass(frozen=True)
class Row:
    """A concept, an edit and a budget: a point of the plot."""

    recipe: str
    kind: str
    concept: str
    edit: str
    budget: float
    certificate: float
    """δ over the concept's difference to its target; without a budget 0 where the map can be inverted."""
    residual: float
    """What the derived embedding that was drawn reaches, over the same."""
    norm_ratio: float
    hits: int
    total: int

    @property
    def key(self) -> tuple[str, str, float]:
        """What is measured once."""
        return self.concept, self.edit, self.budget


Points = Sequence[Row]
Figure_ = Callable[[Row], float]


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, those of equal values averaged."""
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    found = np.empty(len(array))
    found[order] = np.arange(1, len(array) + 1)
    for value in np.unique(array):
        same = array == value
        found[same] = found[same].mean()
    return found


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; NaN where one of both does not vary."""
    x, y = ranks(one), ranks(other)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float((x @ x) * (y @ y)))
    return float(x @ y) / size if size else math.nan


def threshold(points: Points, figure: Figure_) -> float:
    """The smallest residual from which on detection is low for nearly all points; infinite if there is none.

    The rule: ``r`` is the least residual of a point such that of the points at ``r'`` or more at least 90 % show the
    concept in at most 10 % of pictures, for every ``r' ≥ r`` with 20 points or more above it.
    """
    ordered = sorted(points, key=figure, reverse=True)
    low = np.cumsum([point.hits <= LOW * point.total for point in ordered]) / np.arange(1, len(ordered) + 1)
    found = math.inf
    for place in range(FEWEST - 1, len(ordered)):
        if low[place] < MOST:
            break
        # Points with the same residual stand or fall together.
        if place + 1 == len(ordered) or figure(ordered[place + 1]) < figure(ordered[place]):
            found = figure(ordered[place])
    return found


def bootstrap(points: Points, statistic: Callable[[Points], float]) -> tuple[float, float, float]:
    """A statistic with its 95 % interval when whole concepts are drawn again, with all their points."""
    by_concept: dict[str, list[Row]] = {}
    for point in points:
        by_concept.setdefault(point.concept, []).append(point)
    groups, draws = list(by_concept.values()), np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        chosen = draws.integers(0, len(groups), len(groups))
        values.append(statistic([point for place in chosen for point in groups[place]]))
    # An infinite value is larger than all others; interpolating it would give NaN.
    known = np.array([value for value in values if not math.isnan(value)] or [math.nan])
    low, high = (float(np.quantile(known, share, method="nearest")) for share in (0.025, 0.975))
    return statistic(points), low, high


def detection(point: Row) -> float:
    """Share of pictures."""
    return point.hits / point.total


def correlation(points: Points, figure: Figure_) -> str:
    """For the table: Spearman's rank correlation of a figure and detection."""
    value, low, high = bootstrap(points, lambda p: spearman([figure(one) for one in p], [detection(one) for one in p]))
    return "–" if math.isnan(value) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def reached_at(points: Points, figure: Figure_) -> str:
    """For the table: the threshold with its interval, or that there is none."""
    value, low, high = bootstrap(points, lambda p: threshold(p, figure))
    says = ["none" if math.isinf(one) else f"{one:.3f}" for one in (value, low, high)]
    return f"{says[0]} ({says[1]} to {says[2]})"


def budget_name(budget: float) -> str:
    """As the page calls it."""
    return "any norm" if math.isinf(budget) else f"‖c'‖ ≤ {budget:g}‖c‖"


def relation_lines(points: Points) -> list[str]:
    """Correlations and thresholds of the residual that was given and of the certificate."""
    lines = [
        "| points | number | residual: rank correlation | low from residual | certificate: rank correlation | "
        "low from certificate |",
        "|---|---|---|---|---|---|",
    ]
    groups: list[tuple[str, Points]] = [("all", points)]
    groups += [(kind, [p for p in points if p.kind == kind]) for kind in dict.fromkeys(p.kind for p in points)]
    groups += [(budget_name(b), [p for p in points if p.budget == b]) for b in sorted({p.budget for p in points})]
    projected = [p for p in points if p.edit.startswith("projection")]
    groups += [("projection, any norm", [p for p in projected if math.isinf(p.budget)])]
    for name, own in groups:
        if own:
            cells = [f(own, figure) for figure in (residual, certificate) for f in (correlation, reached_at)]
            lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    return lines


def residual(point: Row) -> float:
    """What the embedding that was given reaches."""
    return point.residual


def certificate(point: Row) -> float:
    """What none within the budget can be below."""
    return point.certificate


def bin_lines(points: Points) -> list[str]:
    """Detection by residual: the scatter in figures."""
    lines = [
        "| residual | points | detected | least and most of a point | points with at most 10 % |",
        "|---|---|---|---|---|",
    ]
    for low, high in itertools.pairwise(BINS):
        own = [point for point in points if low <= point.residual < high]
        if not own:
            continue
        shares = [detection(point) for point in own]
        together = Share.over((p.hits, p.total) for p in own)
        gone = Share(sum(share <= LOW for share in shares), len(own))
        name = f"{low:g} and more" if math.isinf(high) else f"{low:g} to {high:g}"
        spread = f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"
        lines.append(f"| {name} | {len(own)} | {together} | {spread} | {gone} |")
    return lines


def edit_lines(points: Points) -> list[str]:
    """Every edit without a budget, over all concepts."""
    lines = ["| edit | median residual | median certificate | detected |", "|---|---|---|---|"]
    for edit in dict.fromkeys(point.edit for point in points):
        own = [point for point in points if point.edit == edit and math.isinf(point.budget)]
        if own:
            middle = [float(np.median([figure(p) for p in own])) for figure in (residual, certificate)]
            together = Share.over((p.hits, p.total) for p in own)
            lines.append(f"| {edit} | {middle[0]:.4f} | {middle[1]:.4f} | {together} |")
    return lines


FOLLOWS = """\
## What follows for images, and what does not

A certificate δ within β says: whatever embedding of norm at most β‖c‖ is given, keys and values of the edited
cross-attention, at its positions and over all layers together, stay δ away from what the original model read for the
concept. So a picture cannot come back because the text says the same as before. It is a statement about what attention
reads; no picture enters it.

It does not follow that no picture shows the concept. The U-Net may draw it from other keys and values: from a part of
them, from another word's, from what never was in the text. The table above is what is known about that, and only for
one attacker: the derived embedding, which is the nearest of its norm. An attacker who looks at pictures or at the
noise prediction (`cce`, `p4d`, `unlearndiffatk`) is not bound by the residual's *relation* to detection, only by the
bound itself. And the relation is that of this model, these edits and this detector: a residual that is enough here need
not be enough for Stable Diffusion."""


def write_page(points: Points, folder: Path, command: str) -> Path:
    """Write the page and its plot."""
    edited = [point for point in points if point.edit not in (UNEDITED, TARGET)]
    return harness.write_page(folder, "certificate", page(points, edited, command), plot(edited), dpi=100)


def page(points: Points, edited: Points, command: str) -> list[str]:
    """The lines of the page.

    Args:
        points: all of them.
        edited: those of an edited model.
        command: that measured them.
    """
    kinds = list(dict.fromkeys(point.kind for point in points))
    plain = [
        f"{kind} {share_of(points, kind, UNEDITED)} under the concept's prompt, {share_of(points, kind, TARGET)} under "
        "its target's"
        for kind in kinds
    ]
    concepts = list(dict.fromkeys(point.concept for point in points))
    pictures = sorted({point.total for point in points})
    return [
        "# What a residual says of pictures",
        "",
        f"Made by `{command}`; every point is in [certificate.csv](certificate.csv). One thing erased at a time: "
        f"{', '.join(concepts)}. {len({p.edit for p in edited})} edits each; the embedding that is given is the "
        f"derived one within a norm; {'/'.join(map(str, pictures))} pictures a point; detector "
        f"`{EmojiDetector.protocol}`. The unedited model: {'; '.join(plain)}. A picture has one of four styles "
        "whatever was asked for, so that what is seen of a style need not come from the text.",
        "",
        "The *residual* is the squared distance of the keys and values under that embedding from the original's under "
        "the concept, over the concept's own distance from its target: 0 is the concept, 1 as far as the target. The "
        "*certificate* is the proven lower end of it, for the weights as they are stored; without a budget it is 0 "
        "where the map can be inverted.",
        "",
        "## The relation",
        "",
        "Spearman's rank correlation with detection, and the residual from which on detection is low: the least one "
        f"such that of the points with as much or more at least {100 * MOST:.0f} % show the concept in at most "
        f"{100 * LOW:.0f} % of pictures, for every larger one too as long as {FEWEST} points are left; *none* where "
        "there is no such residual. 95 % intervals by a bootstrap over concepts.",
        "",
        *relation_lines(edited),
        "",
        "## The scatter",
        "",
        *bin_lines(edited),
        "",
        "![residual against detection](certificate.png)",
        "",
        "## The edits, for an embedding of any norm",
        "",
        *edit_lines(edited),
        "",
        *FOLLOWS.splitlines(),
    ]


def share_of(points: Points, kind: str, edit: str) -> Share:
    """Pictures of one kind of concepts under one edit, all points together."""
    return Share.over((p.hits, p.total) for p in points if p.kind == kind and p.edit == edit)


def plot(points: Points) -> Figure:
    """Every point, for residual and certificate."""
    figure, noise = Figure(figsize=(11, 4.5)), np.random.default_rng(0)
    for place, (name, value) in enumerate((("residual", residual), ("certificate", certificate))):
        axes = figure.add_subplot(1, 2, place + 1)
        for editor, color in (("UCE", "#888888"), ("RECE", "#c05020"), ("projection", "#2060c0")):
            for kind, marker in (("objects", "o"), ("styles", "^")):
                own = [p for p in points if p.edit.startswith(editor) and p.kind == kind]
                x = [max(value(point), FLOOR) for point in own]
                # Shares of few pictures lie on each other.
                y = [detection(point) + float(noise.uniform(-0.015, 0.015)) for point in own]
                axes.scatter(x, y, s=14, alpha=0.55, color=color, marker=marker, label=f"{editor}, {kind}")
        axes.axhline(LOW, color="black", linewidth=0.6, linestyle=":")
        axes.set(xscale="log", xlabel=f"{name} / the concept's difference", ylabel="detected", ylim=(-0.05, 1.05))
        axes.set_title(f"{name} (at {FLOOR:g}: that or less)", fontsize=10)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.tight_layout()
    return figure
