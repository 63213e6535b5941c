"""Which settings are measured with pictures, and which one is recommended: rules that the page states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rece_lightning.core.front import pareto_front
from rece_lightning.core.tuning import SPARE, balance, left_under_other_words
from rece_lightning.metrics import harmonic_mean
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.ranking import Figures

ERASED_BY = {
    "remaining": "answer that remains under the concept's own words",
    "regained": "answer that the derived embedding regains",
}
FRONT_RULE = "A setting is on the front if no other one has both a lower erased-side figure and a lower drift."
MEASURED_RULE = (
    "Measured with pictures: of the front the half with the higher harmonic mean of (1 − erased-side figure) and "
    "(1 − drift), and of these as many as asked, evenly along the front; and the configuration as it is."
)
RECOMMENDED_RULE = (
    "Recommended: the highest harmonic mean of (1 − erased concepts and synonyms detected above their floor) and "
    "preserved concepts detected among the measured settings; of equal ones that which changes the weights least."
)
UNMEASURED_RULE = (
    "Nothing was measured with pictures. Recommended: the highest harmonic mean of (1 − erased-side figure) and "
    f"(1 − drift) on the front, of which other words for a concept keep {SPARE:.0%} more than its own prompt; of equal "
    "ones that which changes the weights least. Measure it before you rely on it."
)


@dataclass(frozen=True)
class Choice:
    """The ranked settings, their front, and what of it is worth pictures."""

    ranked: tuple[tuple[Setting, Figures], ...]
    front: tuple[int, ...]
    """Places in ``ranked``, by the erased-side figure."""
    erased_by: str

    @classmethod
    def of(cls, ranked: Sequence[tuple[Setting, Figures]], erased_by: str) -> Choice:
        """Find the front."""
        points = [point(figures, erased_by) for _, figures in ranked]
        return cls(tuple(ranked), tuple(pareto_front(points)), erased_by)

    def expected(self, place: int) -> float:
        """Harmonic mean of what the figures promise, without a picture: tuning's own rule where it goes by these."""
        figures = self.ranked[place][1]
        if self.erased_by == "remaining":
            return balance(figures.remaining, figures.drift)
        erased, drift = point(figures, self.erased_by)
        return harmonic_mean(min(1.0, erased), 1.0 - min(1.0, drift))

    def worth_measuring(self, wanted: int) -> list[int]:
        """Places in ``ranked``; see :data:`MEASURED_RULE`."""
        better = sorted(self.front, key=lambda place: -self.expected(place))
        half = better[: max(wanted, -(-len(better) // 2))]
        along = [place for place in self.front if place in half]
        return [along[index] for index in spread(len(along), wanted)]

    def promising(self) -> int | None:
        """Place of the recommended setting where nothing was measured; see :data:`UNMEASURED_RULE`."""
        if not self.front:
            return None
        return max(self.front, key=lambda place: (self.expected(place), -self.ranked[place][1].weight_change))


def point(figures: Figures, erased_by: str) -> tuple[float, float]:
    """(erased-side figure, drift); an answer so far beyond the target that no other word keeps anything is at 0."""
    figure = getattr(figures, erased_by)
    return left_under_other_words(figure) if erased_by == "remaining" else max(0.0, figure), figures.drift


def spread(count: int, wanted: int) -> list[int]:
    """Places of ``wanted`` of ``count`` things in a row, as even as can be, both ends included.

    Example:
        >>> spread(9, 3), spread(2, 5), spread(5, 1)
        ([0, 4, 8], [0, 1], [2])
    """
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)] if wanted else []
