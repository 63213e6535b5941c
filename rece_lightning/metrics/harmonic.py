"""One figure for what is erased, kept and generalised: harmonic means of the three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn, tensor
from torchmetrics.wrappers.abstract import WrapperMetric

from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.metrics.detection import ConceptDetector, DetectionRate
from rece_lightning.metrics.intervals import Share


def harmonic_mean(erased: float, kept: float, synonyms: float | None = None) -> float:
    """``H = n / (1/(1 − erased) + 1/kept [+ 1/(1 − synonyms)])`` (MACE, arXiv 2403.06135; SPEED's H_o has two terms).

    Args:
        erased: detection rate of erased concepts.
        kept: of kept ones.
        synonyms: of erased concepts asked for in other words (generality); two terms without it.

    Returns:
        0 to 1; 0 as soon as one term is.

    Example:
        >>> round(harmonic_mean(0.1, 0.8), 4), round(harmonic_mean(0.1, 0.8, 0.4), 4)
        (0.8471, 0.7448)
    """
    terms = [1 - erased, kept] + ([] if synonyms is None else [1 - synonyms])
    if any(term != term for term in terms):
        return float("nan")
    return 0.0 if min(terms) <= 0 else len(terms) / sum(1 / term for term in terms)


class HarmonicMean(WrapperMetric):
    """Harmonic mean of erased and kept accuracy, and of generality where ``terms`` is 3.

    Protocol ``harmonic-mean-2 DETECTOR`` or ``harmonic-mean-3 DETECTOR``. States are the detection rates' counts.

    Args:
        detector: that decides.
        terms: 2, or 3 with synonyms.
        prompts: how many there are, where several pictures share one.
    """

    higher_is_better = True

    def __init__(self, detector: ConceptDetector, terms: int = 2, prompts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if terms not in (2, 3):
            raise ConfigurationError(f"HarmonicMean.terms: {terms!r}; give 2, or 3 with synonyms.")
        self.protocol = f"harmonic-mean-{terms} {detector.protocol}"
        self.roles = ("erased", "kept", "synonym")[:terms]
        self.rates = nn.ModuleDict({role: DetectionRate(detector, prompts) for role in self.roles})

    def update(self, pictures: Tensor, concepts: Sequence[str], role: str, rows: Sequence[int] | None = None) -> None:
        """Count pictures ``[n, 3, h, w]`` of one role: ``erased``, ``kept`` or ``synonym``."""
        check_choice("role", role, self.roles)
        self.of(role).update(pictures, concepts, rows)

    def of(self, role: str) -> DetectionRate:
        """The detection rate of one role."""
        return cast(DetectionRate, self.rates[role])

    def compute(self) -> Tensor:
        """The mean, float64; NaN while a role has no pictures."""
        return tensor(harmonic_mean(*(float(self.of(role).compute()) for role in self.roles))).double()

    def shares(self) -> dict[str, Share]:
        """The terms' detection rates with their intervals."""
        return {role: self.of(role).share() for role in self.roles}

    def interval(self) -> tuple[float, float]:
        """At least 95 % likely to hold the mean: the worst and the best that the rates' intervals allow."""
        shares = list(self.shares().values())
        worst = [share.interval[0 if place == 1 else 1] for place, share in enumerate(shares)]
        best = [share.interval[1 if place == 1 else 0] for place, share in enumerate(shares)]
        return harmonic_mean(*worst), harmonic_mean(*best)

    def reset(self) -> None:
        for role in self.roles:
            self.of(role).reset()
