"""What it takes to round edited weights to the dtype that they are stored in."""

from __future__ import annotations

from torch import Tensor


class Rounding:
    """What rounding edited weights to their dtype takes: sums of squares over the columns that read text."""

    def __init__(self) -> None:
        self.lost = self.change = self.weight = 0.0
        """``‖W' − W M‖²`` for the rounded ``W'``, ``‖W M − W‖²`` and ``‖W M‖²``."""

    def add(self, weight: Tensor, exact: Tensor, rounded: Tensor) -> None:
        """Count one weight: as it was, ``W M`` in float64, and that rounded."""
        self.lost += float((rounded.double() - exact).square().sum())
        self.change += float((exact - weight.to(exact)).square().sum())
        self.weight += float(exact.square().sum())
