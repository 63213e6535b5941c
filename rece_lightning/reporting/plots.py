"""Curves of the epochs as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure


def epochs_svg(history: Sequence[dict[str, float]]) -> str:
    """Residual, drift and norm ratio over the epochs, side by side."""
    panels = [
        ("regeneration residual", ["regeneration_residual", "regeneration_residual_unedited", "mapped_residual"]),
        ("preservation drift", ["preservation_drift"]),
        ("‖c'‖/‖c‖ of the derived embedding", ["norm_ratio"]),
        ("‖M − I‖", ["map_change"]),
    ]
    figure = Figure(figsize=(11, 2.8))
    for place, (title, keys) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for key in keys:
            points = [(epoch, row[key]) for epoch, row in enumerate(history) if key in row]
            axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=key.replace("_", " "))
        if len(keys) > 1:
            # The unedited model's residual and a mapped concept's lie orders of magnitude apart.
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_xticks(range(len(history)))
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend(fontsize=6)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
