"""Numbers along a logarithmic axis."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rece_lightning.reporting.plots import STYLE, plain_ticks


@pytest.mark.parametrize("scale", ["log", "symlog"])
def test_ticks_of_a_logarithmic_axis_are_numbers_and_no_tex(scale: str) -> None:
    """Texts of these figures are no mathematics: a power would stand there as its source."""
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        axes = figure.add_subplot()
        axes.plot([0, 1], [0.002, 20.0])
        axes.set_yscale(scale)
        plain_ticks(axes)
        FigureCanvasAgg(figure).draw()
        labels = [label.get_text() for label in axes.get_yticklabels()]
    assert {"0.01", "1"} <= set(labels) or scale == "symlog"
    assert labels
    assert not any(sign in label for label in labels for sign in "$\\^{")
