"""Settings that choose themselves: those of :mod:`rece_lightning.core.grid`, ranked without a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rece_lightning.core import diagnostics
from rece_lightning.core.editors import UCE, ProjectedUCE
from rece_lightning.core.embedding_map import unedited as unedited_map
from rece_lightning.core.eraser import Eraser, Evidence
from rece_lightning.core.errors import ConfigurationError, check_choice, check_number
from rece_lightning.core.front import pareto_front
from rece_lightning.core.gram import Gram
from rece_lightning.core.grid import Scales, differing, grid
from rece_lightning.core.method import Method

BALANCED, ROBUST, OFF = "balanced", "robust", "off"
TUNES = (BALANCED, ROBUST, OFF)
SPARE = 0.1
"""Share of a difference that other words for a concept have outside what an edit of the concept itself reaches."""
HARMFUL = 0.1
"""A drift that pictures of other prompts show."""
RULES = {
    BALANCED: (
        "The setting with the highest harmonic mean of (1 − remaining) and (1 − drift), in which other words for a "
        f"concept count as keeping {SPARE:.0%} that an edit of its own prompt does not reach."
    ),
    ROBUST: (
        "The setting of a singular editor with the highest harmonic mean of (1 − remaining²), (1 − drift) and "
        f"(1 − regained²) of the derived embedding, in which other words for a concept count as keeping {SPARE:.0%}: "
        "pictures show little of a concept of which less than half is left."
    ),
}


@dataclass(frozen=True)
class Tuning:
    """How settings are chosen before an erasure.

    Args:
        aim: ``balanced`` weighs what remains of the concepts against drift; ``robust`` also what the derived embedding
            regains, which takes a singular editor.
        drift_budget: the most that held-out prompts may move; no bound unless given.
        epochs: 1 + the number of RECE epochs, where it is fixed.

    Raises:
        ConfigurationError: for a value that makes no sense.
    """

    aim: str = BALANCED
    drift_budget: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        check_choice("model.tune", self.aim, (BALANCED, ROBUST))
        if self.drift_budget is not None:
            check_number("model.drift_budget", self.drift_budget, positive=True)

    @classmethod
    def of(
        cls, tune: str | bool | None, drift_budget: float | None, *, given: bool, where: str = "model"
    ) -> Tuning | None:
        """What a user asks for; ``None`` where nothing is to be chosen.

        Args:
            tune: ``balanced``, ``robust``, ``off``, or ``None``: off where a method is given, else balanced.
            drift_budget: see above.
            given: whether a method is given, which is then meant as it stands.
            where: the settings belong, for messages.

        Raises:
            ConfigurationError: for another word, or a budget that nothing reads.
        """
        asked: Any = OFF if tune is False else tune  # YAML reads a bare off as that
        if asked is None:
            asked = OFF if given else BALANCED
        check_choice(f"{where}.tune", asked, TUNES)
        if asked != OFF:
            return cls(asked, drift_budget)
        if drift_budget is not None:
            raise ConfigurationError(
                f"{where}.drift_budget: {drift_budget!r}: only tuning reads it; give {where}.tune: {BALANCED}, or "
                "leave it out."
            )
        return None

    def start(self, method: Method, *, values: bool = True) -> Method:
        """What the grid is laid around: ``robust`` takes a singular editor, of values alone unless somebody chose.

        Keys decide where a word acts, values what it draws: preserved prompts pay about half as much without keys.

        Args:
            method: as it was asked for.
            values: whether it edits values at all: the first map of an MMDiT is neither key nor value.

        Raises:
            ConfigurationError: for an editor of the user's whose maps can be inverted.
        """
        if self.aim != ROBUST or method.editor.singular:
            return method
        if method.editor != UCE():
            raise ConfigurationError(
                f"model.tune: {ROBUST}: a map of {type(method.editor).__name__} can be inverted, and the derived "
                "embedding brings the concept back; leave model.method.editor out, or give ProjectedUCE."
            )
        kinds = "v" if values and method.projections == Method().projections else method.projections
        return replace(method, editor=ProjectedUCE(), first_editor=None, projections=kinds)

    def plain(self) -> dict[str, Any]:
        """In plain types."""
        return {"aim": self.aim, "drift_budget": self.drift_budget, "epochs": self.epochs}


@dataclass(frozen=True)
class Tried:
    """A setting of the grid with what is said of it without a picture; the worst text space counts."""

    method: Method
    epochs: int
    settings: Mapping[str, Any]
    """What the grid set, by its key below ``model.method``; an edit of one epoch has no derivation."""
    remaining: float
    """Of the concepts under their own prompts; see :func:`rece_lightning.core.diagnostics.remaining_answer`."""
    drift: float
    """Of the held-out prompts."""
    regained: float | None = None
    """By the derived embedding: 1 as of the unedited model, 0 as of a concept mapped onto its target; ``robust``."""

    @property
    def expected(self) -> float:
        """What the rule maximises."""
        figures = self.remaining, self.drift
        return balance(*figures) if self.regained is None else robust_balance(*figures, self.regained)

    @property
    def point(self) -> tuple[float, float]:
        """(what is left of the concepts, drift)."""
        return max(left_under_other_words(self.remaining), self.regained or 0.0), self.drift

    def plain(self) -> dict[str, Any]:
        """In plain types."""
        figures = {"remaining": self.remaining, "drift": self.drift, "regained": self.regained}
        known = {key: value for key, value in figures.items() if value is not None}
        return {"settings": dict(self.settings), "epochs": self.epochs, **known, "expected": self.expected}

    def __str__(self) -> str:
        return ", ".join([*(f"{key} {_word(value)}" for key, value in self.settings.items()), f"epochs {self.epochs}"])


@dataclass(frozen=True)
class Choice:
    """What was chosen, by which rule, and what else there was."""

    tuning: Tuning
    asked: Method
    """As it was before."""
    chosen: Tried
    front: tuple[Tried, ...]
    """No other setting has both less left of the concepts and a lower drift; by what is left."""
    reason: str
    tried: int
    refused: tuple[str, ...] = ()
    """Why settings have no figures."""

    def plain(self) -> dict[str, Any]:
        """In plain types: for checkpoints, files and the report."""
        return {
            **self.tuning.plain(),
            "rule": RULES[self.tuning.aim],
            "asked": self.asked.plain(),
            "method": self.chosen.method.plain(),
            "chosen": self.chosen.plain(),
            "front": [one.plain() for one in self.front],
            "reason": self.reason,
            "tried": self.tried,
            "refused": list(self.refused),
        }

    @property
    def harm(self) -> str | None:
        """A warning in words, where even what was chosen moves much of what nobody asked to erase."""
        drift = self.chosen.drift
        if drift <= HARMFUL:
            return None
        return (
            f"The erasure (tune: {self.tuning.aim}) moves the keys and values of other prompts by {drift:.0%}: "
            "preserve more prompts (data.preserve; left out, everyday words are drawn), or bound it with drift_budget."
        )


def tune(method: Method, tuning: Tuning, evidence: Mapping[str, Evidence], grams: Mapping[str, Gram]) -> Choice:
    """Choose the scales, the regularization, the accumulation and the number of epochs of a method.

    What differs from its default in ``method``, and ``tuning.epochs`` where given, stays as it is. Of all settings of
    the grid the epochs are run on the evidence; the rule is :data:`RULES`, of equal ones the first.

    Args:
        method: that :meth:`Tuning.start` gave.
        tuning: aim, bound and what is fixed.
        evidence: text space → what the prompts say in it.
        grams: text space → ``G`` of what is edited.

    Raises:
        ConfigurationError: if no setting has figures, or none keeps to the budget.
    """
    name = next(iter(grams))
    whole = evidence[name].whole
    scales = Scales(grams[name].scale, float(whole.erased.trace()) / whole.width / evidence[name].prompts)
    tried: list[Tried] = []
    refused: list[str] = []
    unedited: dict[str, float] = {}
    begun: dict[str, Eraser] = {}
    for setting, counts in grid(method, tuning.epochs, scales):
        if all(one.method.editor is not setting.editor for one in begun.values()):
            begun = {space: Eraser(setting, evidence[space], gram) for space, gram in grams.items()}
        erasers = {space: one.under(setting) if one.epoch else one for space, one in begun.items()}
        for epochs in counts:
            try:
                for eraser in erasers.values():
                    eraser.run(epochs - eraser.epoch)
                figures = [_figures(eraser, tuning.aim, unedited, space) for space, eraser in erasers.items()]
            except ConfigurationError as error:  # a system that is singular stays so in later epochs
                refused.append(str(error))
                break
            remaining, drift, regained = (max(values) for values in zip(*figures, strict=True))
            attacked = regained if tuning.aim == ROBUST else None
            if math.isfinite(remaining) and math.isfinite(drift):
                tried.append(Tried(setting, epochs, differing(setting, epochs), remaining, drift, attacked))
    return _choice(tuning, method, tried, tuple(dict.fromkeys(refused)))


def _choice(tuning: Tuning, method: Method, tried: Sequence[Tried], refused: tuple[str, ...]) -> Choice:
    if not tried:
        raise ConfigurationError(
            f"model.tune: no setting has figures: {refused[0] if refused else 'they are no numbers'}"
        )
    budget = tuning.drift_budget
    within = [one for one in tried if budget is None or one.drift <= budget]
    if not within:
        least = min(tried, key=lambda one: one.drift)
        raise ConfigurationError(
            f"model.drift_budget: {budget!r}: the least that a setting moves held-out prompts is {least.drift:.3g} "
            f"({least}); raise it, or preserve more prompts."
        )
    chosen = max(within, key=lambda one: one.expected)
    front = tuple(tried[place] for place in pareto_front([one.point for one in tried]))
    others = sorted((one for one in within if one is not chosen), key=lambda one: -one.expected)[:1]
    told = f"{chosen}: {_told(chosen)}"
    told += "".join(f"; next {one}: {_told(one)}" for one in others)
    bounded = "" if budget is None or len(within) == len(tried) else f" within a drift of {budget:g}"
    return Choice(
        tuning, method, chosen, front, f"{told}. The best of {len(within)} settings{bounded}.", len(tried), refused
    )


def _told(one: Tried) -> str:
    attacked = "" if one.regained is None else f", regained {one.regained:.3f}"
    return f"remaining {one.remaining:.3f}, drift {one.drift:.3f}{attacked}, harmonic mean {one.expected:.3f}"


# The rule


def left_under_other_words(remaining: float) -> float:
    """What other words for a concept keep of it, where its own prompt keeps ``remaining``: a share in [0, 1].

    A map is linear: of a word whose difference lies to ``1 − s`` along the concept's and to ``s`` beside it, the edit
    leaves ``s + (1 − s) · remaining``; s is :data:`SPARE`.
    """
    return min(1.0, max(0.0, SPARE + (1.0 - SPARE) * remaining))


def balance(remaining: float, drift: float) -> float:
    """Harmonic mean of what is not left of the concepts and not moved of what is preserved.

    Example:
        >>> round(balance(0.0, 0.0), 3), round(balance(-0.2, 0.0), 3), balance(1.0, 0.1)
        (0.947, 1.0, 0.0)
    """
    return _harmonic(1.0 - left_under_other_words(remaining), 1.0 - _share(drift))


def robust_balance(remaining: float, drift: float, regained: float) -> float:
    """Harmonic mean of what pictures will not show of the concepts, keep of others, and not regain.

    Example:
        >>> round(robust_balance(0.0, 0.1, 0.3), 3), robust_balance(0.0, 1.0, 0.0)
        (0.932, 0.0)
    """
    return _harmonic(1.0 - left_under_other_words(remaining) ** 2, 1.0 - _share(drift), 1.0 - _share(regained) ** 2)


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _harmonic(*parts: float) -> float:
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1.0 / part for part in parts)


@torch.no_grad()
def _figures(eraser: Eraser, aim: str, unedited: dict[str, float], space: str) -> tuple[float, float, float]:
    """Remaining, drift, and for ``robust`` regained, in one text space."""
    gram, maps, whole = eraser.gram, eraser.maps.in_factors(), eraser.evidence.whole
    held_out = whole.preserved if eraser.evidence.held_out is None else eraser.evidence.held_out
    remaining = diagnostics.remaining_answer(gram, maps, whole)
    drift = diagnostics.preservation_drift(gram, maps, held_out) if bool(held_out.any()) else 0.0
    if aim != ROBUST:
        return remaining, drift, 0.0
    if space not in unedited:
        unedited[space] = diagnostics.regeneration_residual(gram, unedited_map(gram), whole.erased)
    residual = diagnostics.regeneration_residual(gram, maps, whole.erased)
    return remaining, drift, regained(residual, unedited[space], diagnostics.mapped_residual(gram, whole))


def regained(residual: float, unedited: float, mapped: float) -> float:
    """What the derived embedding regains of a concept.

    Args:
        residual: of the edited model; see :func:`rece_lightning.core.diagnostics.regeneration_residual`.
        unedited: of the original one.
        mapped: of a concept mapped wholly onto its target.

    Returns:
        1 as from the unedited model, 0 as from a concept mapped onto its target; NaN where these are alike.
    """
    return 1.0 - (residual - unedited) / (mapped - unedited) if mapped > unedited else math.nan


def _word(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
