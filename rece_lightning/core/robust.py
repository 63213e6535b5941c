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
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.budget import Reach
from rece_lightning.core.derive import Derivation, derive
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.core.row_pairs import RowPairs


@dataclass(frozen=True)
class Robust:
    """Which further embeddings every epoch after the first derives, and how much each counts."""

    norms: tuple[float, ...] = ()
    """β > 0 of embeddings with ``‖c'‖ ≤ β‖c‖``. Several that do not bind are one embedding, which counts once."""
    ridges: tuple[float, ...] = ()
    """λ > 0, in the units of ``model.regular_scale``."""
    weight: float = 1.0
    """Of each, beside 1 of the loop's own derived embedding."""

    def __post_init__(self) -> None:
        for name, values in (("norms", self.norms), ("ridges", self.ridges)):
            check_positive(name, values)
        check_number("weight", self.weight, positive=True)


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
    """``P`` of neighbours that must stay, ``[d, d]``, beside that of what is kept anyway."""

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
    settings: Robust,
    gram: Gram,
    maps: AnyMap,
    derivation: Derivation | None,
) -> Moments:
    """What an epoch erases: the published loop's part, and what joins it, but for attacks that were found.

    Args:
        part: of the published loop: the concepts' own embeddings in epoch 0, later the derived ones.
        whole: moments of the concepts' own embeddings at all positions.
        joined: what joins; nothing without it.
        settings: of the loop.
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
        yield derive(gram, maps, ridge).of_concept


def regained(reach: Reach, multiplier: float) -> Tensor:
    """``(A + μI)⁻¹ B`` over the directions that the edited model answers with, ``[d, d]``; the pseudo-inverse at 0."""
    return (reach.axes / (reach.strengths + multiplier)) @ (reach.axes.mT @ reach.cross)


def check_positive(field: str, values: Sequence[float]) -> None:
    """Raise a ConfigurationError unless ``values`` is a list of finite numbers greater than 0, each once."""
    for value in values:
        check_number(field, value, positive=True)
    if len(set(values)) < len(values):
        raise ConfigurationError(f"{field}: {list(values)!r} holds a number twice; give each once.")
