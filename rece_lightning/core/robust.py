"""What an epoch of the robust loop erases beside the one derived embedding of RECE (arXiv 2407.12383).

The published epoch erases ``c' = D c`` for one ridge λ. An attacker has other ones. Two families of them have a closed
form, and both are linear in ``c``, so that moments suffice (``A = MᵀGM``, ``B = MᵀG``):

- *norms* β: the trust region ``min Σ_l ‖W_l M c' − W_l c‖²`` over ``‖c'‖ ≤ β‖c‖`` of :mod:`rece_lightning.core.budget`,
  ``c' = (A + μI)⁻¹ B c`` with the multiplier μ of the bound. All erased rows share a bound and therefore one map.
- *ridges* λ: ``c' = (A + λI)⁻¹ B c``, as the loop's own derivation with other λ.

They are one family: a norm says where on the curve to derive whatever the epoch left of the model, a ridge stands
still. The problem is convex, so starting points of an optimiser would all end in the same embedding. What differs are
the rows that an attacker derives *towards*: other words for the concept, and the concept in other prompts. These join
as rows (:class:`Joined`) and are derived from as the concept's own are. Attacks that were found join as they are: no
later epoch derives from them, because what they brought back depended on the model that they were found on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.budget import Reach
from rece_lightning.core.derivation import AnyDerivation, Derivation
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, check_count, check_number, check_templates
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments, RowPairs

WITHIN = 0.25
"""Where words stop meaning a concept, as a share of its way to its target."""


@dataclass(frozen=True)
class Robust:
    """Switches of the robust loop, each off unless it is named.

    Args:
        norms: β > 0 of further derived embeddings with ``‖c'‖ ≤ β‖c‖``. Several that do not bind are one embedding,
            which counts once.
        ridges: λ > 0 of further ones, in the units of ``derivation.scale``.
        weight: of each that joins, beside the concept's own 1.
        templates: prompts that every concept is put into: further rows to erase and to derive towards.
        synonyms: words for each concept, mined by the text encoder, that are erased and derived from with it.
        neighbours: words near each concept that are preserved beside ``data.preserve``.
        within: where words stop meaning the concept, as a share of its way to the target.
        found: folder that ``RedTeam`` wrote into: what it found is erased in every epoch, all of it on a concept
            together as much as the concept.

    Raises:
        ConfigurationError: for a value that makes no sense, or that nothing reads.
    """

    norms: tuple[float, ...] = ()
    ridges: tuple[float, ...] = ()
    weight: float = 1.0
    templates: tuple[str, ...] = ()
    synonyms: int = 0
    neighbours: int = 0
    within: float = WITHIN
    found: str | None = None

    def __post_init__(self) -> None:
        for name in ("norms", "ridges"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)):
                raise ConfigurationError(f"robust.{name}: {values!r}; give a list of numbers such as [0.5, 1, 2].")
            check_positive(f"robust.{name}", values)
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.templates:
            check_templates("robust.templates", self.templates)
            object.__setattr__(self, "templates", tuple(self.templates))
        for name in ("synonyms", "neighbours"):
            if getattr(self, name) != 0:
                check_count(f"robust.{name}", getattr(self, name))
        for name in ("weight", "within"):
            check_number(f"robust.{name}", getattr(self, name), positive=True)
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.found is not None and not str(self.found).strip():
            raise ConfigurationError(f"robust.found: {self.found!r}; give the folder of a run that was attacked.")
        if self.within != WITHIN and not (self.synonyms or self.neighbours):
            raise ConfigurationError("robust.within: only synonyms and neighbours would read it; leave it out.")
        if not (self.norms or self.ridges or self.joins):
            switches = [one.name for one in fields(self) if one.name not in ("weight", "within")]
            raise ConfigurationError(f"robust: it switches nothing on; name one of {', '.join(switches)}.")

    @property
    def joins(self) -> bool:
        """Whether rows join what is erased or preserved."""
        return bool(self.templates or self.synonyms or self.neighbours or self.found)

    def plain(self) -> dict[str, Any]:
        """What differs from the defaults, in plain types."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


@dataclass(frozen=True)
class Joined:
    """Moments of what joins the concepts' own prompts. They add up."""

    first: Moments
    """Of other words and prompts for the concepts: the positions that epoch 0 edits."""
    whole: Moments
    """Of all their positions: later epochs derive from these as from the concepts' own."""
    found: Moments
    """Of attacks: erased as they are, in every epoch."""
    preserved: Tensor
    """``P`` of neighbours that must stay, ``[d, d]``, beside that of what is preserved anyway."""

    @classmethod
    def nothing(cls, width: int, device: torch.device | str = "cpu") -> Joined:
        """No row at all."""
        zero = Moments.zeros(width, device)
        return cls(zero, zero, zero, zero.preserved)

    def __add__(self, other: Joined) -> Joined:
        return Joined(
            self.first.erasing_also(other.first),
            self.whole.erasing_also(other.whole),
            self.found.erasing_also(other.found),
            self.preserved + other.preserved,
        )


def widened(
    part: Moments | RowPairs,
    whole: Moments,
    joined: Joined | None,
    settings: Robust | None,
    gram: Gram,
    maps: AnyMap,
    derivation: AnyDerivation | None,
) -> Moments:
    """What an epoch erases: the published loop's part, and what joins it, but for attacks that were found.

    Args:
        part: of the published loop: the concepts' own embeddings in epoch 0, later the derived ones.
        whole: moments of the concepts' own embeddings at all positions.
        joined: what joins; nothing without it.
        settings: of the loop; ``None`` where only attacks join it.
        gram: ``G`` of the original projections.
        maps: ``M`` before the epoch.
        derivation: the loop's own; ``None`` in epoch 0, which derives nothing.
    """
    erased = part.moments(whole.preserved) if isinstance(part, RowPairs) else part
    if derivation is None:
        return erased if joined is None else erased.erasing_also(joined.first)
    start = whole
    if joined is not None:
        start = whole.erasing_also(joined.whole)
        erased = erased.erasing_also(joined.whole.derived(derivation))
    if settings is None:
        return erased
    for matrix in derivations(settings, gram, maps, start.erased):
        erased = erased.erasing_also(start.mapped(matrix).times(settings.weight))
    return erased


def derivations(settings: Robust, gram: Gram, maps: AnyMap, erased: Tensor) -> Iterator[Tensor]:
    """``D`` of every norm and every ridge, ``[d, d]`` each: ``c' = D c``.

    Args:
        settings: norms and ridges.
        gram: ``G``.
        maps: ``M``.
        erased: ``S`` of all rows that share the bounds on the norm, ``[d, d]``.
    """
    if settings.norms:
        reach = Reach.of(gram, maps)
        attacks, free = reach.moments(erased), False
        for norm in sorted(settings.norms):
            multiplier = float(attacks.multiplier(norm))
            # Beyond the norm of the free optimum every bound gives that one.
            if multiplier > 0 or not free:
                yield regained(reach, multiplier)
            free = multiplier == 0
    for ridge in settings.ridges:
        yield Derivation(ridge)(gram, maps).of_concept


def regained(reach: Reach, multiplier: float) -> Tensor:
    """``(A + μI)⁻¹ B`` over the directions that the edited model answers with, ``[d, d]``; the pseudo-inverse at 0."""
    return (reach.axes / (reach.strengths + multiplier)) @ (reach.axes.mT @ reach.cross)


def check_positive(field: str, values: Sequence[float]) -> None:
    """Raise a ConfigurationError unless ``values`` is a list of finite numbers greater than 0, each once."""
    for value in values:
        check_number(field, value, positive=True)
    if len(set(values)) < len(values):
        raise ConfigurationError(f"{field}: {list(values)!r} holds a number twice; give each once.")
