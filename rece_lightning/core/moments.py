"""Second moments of what is erased, its targets and what is preserved: all that an edit needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rece_lightning.core.factored import Factored

if TYPE_CHECKING:
    from rece_lightning.core.derivation import AnyDerivation


@dataclass(frozen=True)
class Moments:
    """Sums over embedding rows, float64. They add over batches, prompts and ranks.

    The objective of UCE and RECE depends on the prompts through these four matrices alone, so a thousand
    concepts take the room of one.
    """

    erased: Tensor
    """``S = Σ w c cᵀ`` of the concepts, ``[d, d]``."""
    cross: Tensor
    """``X = Σ w c* cᵀ`` of targets with their concepts, ``[d, d]``."""
    target: Tensor
    """``T = Σ w c* c*ᵀ`` of the targets, ``[d, d]``."""
    preserved: Tensor
    """``P = Σ w c cᵀ`` of what is preserved, ``[d, d]``."""

    @classmethod
    def zeros(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """The moments of nothing."""
        return cls(*(torch.zeros(width, width, dtype=torch.float64, device=device) for _ in range(4)))

    @classmethod
    def of(cls, erased: Tensor, target: Tensor, weight: float | Tensor = 1.0) -> Moments:
        """Moments of concept rows paired with target rows.

        Args:
            erased: concept embeddings, ``[n, d]``.
            target: the embedding that each row is mapped to, ``[n, d]``.
            weight: one for all rows, or ``[n]``.

        Raises:
            ValueError: if the rows do not pair up.
        """
        if erased.shape != target.shape:
            raise ValueError(f"erased rows {tuple(erased.shape)} and target rows {tuple(target.shape)} do not pair up")
        concept, anchor = erased.double(), target.double()
        weights = torch.as_tensor(weight, dtype=torch.float64, device=concept.device).expand(len(concept))[:, None]
        weighted = weights * concept
        return cls(
            erased=concept.mT @ weighted,
            cross=anchor.mT @ weighted,
            target=anchor.mT @ (weights * anchor),
            preserved=torch.zeros(concept.shape[1], concept.shape[1], dtype=torch.float64, device=concept.device),
        )

    @classmethod
    def preserving(cls, preserved: Tensor, weight: float | Tensor = 1.0) -> Moments:
        """Moments of rows that shall keep their keys and values, ``[n, d]``."""
        rows = preserved.double()
        weights = torch.as_tensor(weight, dtype=torch.float64, device=rows.device).expand(len(rows))[:, None]
        zero = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        return cls(erased=zero, cross=zero, target=zero, preserved=rows.mT @ (weights * rows))

    @property
    def width(self) -> int:
        """``d``."""
        return self.erased.shape[0]

    @property
    def difference(self) -> Tensor:
        """``S − X − Xᵀ + T``: the moments of ``c − c*``."""
        if isinstance(self.erased, Factored) and isinstance(self.cross, Factored):
            return Factored.of_rows(self.erased.right - self.cross.left.mT)
        return self.erased - self.cross - self.cross.mT + self.target

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.erased + other.erased,
            self.cross + other.cross,
            self.target + other.target,
            self.preserved + other.preserved,
        )

    def derived(self, derivation: AnyDerivation) -> Moments:
        """Moments of the derived embeddings ``c' = D c + F c*``, paired with the same targets.

        ``S' = D S Dᵀ + D Xᵀ Fᵀ + F X Dᵀ + F T Fᵀ`` and ``X' = X Dᵀ + T Fᵀ``; targets and preserved rows stay.
        """
        if isinstance(self.erased, Factored) and isinstance(self.cross, Factored):
            # Weights are in the rows, and the derivation is linear.
            return self._of_rows(derivation.apply(self.erased.right, self.cross.left.mT))
        of_concept, of_target = derivation.of_concept, derivation.of_target
        found = self.mapped(of_concept)
        if of_target is None:
            return found
        mixed = of_concept @ self.cross.mT @ of_target.mT
        erased = found.erased + mixed + mixed.mT + of_target @ self.target @ of_target.mT
        return Moments(erased, found.cross + self.target @ of_target.mT, self.target, self.preserved)

    def mapped(self, matrix: Tensor) -> Moments:
        """Moments of ``D c`` in place of every concept row ``c``; targets and preserved rows stay.

        Args:
            matrix: ``D``, ``[d, d]``.
        """
        if isinstance(self.erased, Factored):
            return self._of_rows((matrix @ self.erased.left).mT)
        return Moments(matrix @ self.erased @ matrix.mT, self.cross @ matrix.mT, self.target, self.preserved)

    def _of_rows(self, rows: Tensor) -> Moments:
        """Moments in factors of other rows with the same targets."""
        assert isinstance(self.cross, Factored)
        return Moments(Factored.of_rows(rows), Factored(self.cross.left, rows), self.target, self.preserved)

    def times(self, factor: float) -> Moments:
        """Moments of erased rows whose weights are multiplied; what is preserved counts as before."""
        return Moments(factor * self.erased, factor * self.cross, factor * self.target, self.preserved)

    def erasing_also(self, other: Moments) -> Moments:
        """These moments with the erased rows of ``other`` added; what is preserved is counted once."""
        return Moments(self.erased + other.erased, self.cross + other.cross, self.target + other.target, self.preserved)

    def away_from(self, share: float) -> Moments:
        """Moments whose targets lose ``share`` of the concept itself: ``c* − α c`` in place of ``c*``."""
        target = self.target - share * (self.cross + self.cross.mT) + share**2 * self.erased
        return Moments(self.erased, self.cross - share * self.erased, target, self.preserved)

    def to(self, device: torch.device | str) -> Moments:
        """The same moments on another device."""
        return Moments(self.erased.to(device), self.cross.to(device), self.target.to(device), self.preserved.to(device))


@dataclass(frozen=True)
class RowPairs:
    """Erased rows, what they become, and their weights, where they are fewer than the width.

    They add up as :class:`Moments` do and stand for the same edit: a prompt has 77 rows at width 768, and the rows make
    every product of an epoch ``n × d`` instead of ``d × d``. The answers agree to rounding.
    """

    concept: Tensor
    """``c``, ``[n, d]``, float64."""
    target: Tensor
    """``c*``, ``[n, d]``, float64."""
    weights: Tensor
    """``w``, ``[n]``, float64."""

    def moments(self, preserved: Tensor) -> Moments:
        """Their moments, beside those of what is preserved; in factors where those are."""
        if isinstance(preserved, Factored):
            roots = self.weights.sqrt()[:, None]
            concept, target = roots * self.concept, roots * self.target
            cross = Factored(target.mT, concept)
            return Moments(Factored.of_rows(concept), cross, Factored.of_rows(target), preserved)
        own = Moments.of(self.concept, self.target, self.weights)
        return Moments(own.erased, own.cross, own.target, preserved)

    def derived(self, derivation: AnyDerivation) -> RowPairs:
        """The derived rows, paired with the same targets."""
        return RowPairs(derivation.apply(self.concept, self.target), self.target, self.weights)

    def erasing_also(self, other: RowPairs) -> RowPairs:
        """These rows and those of ``other``."""
        return RowPairs(
            torch.cat([self.concept, other.concept]),
            torch.cat([self.target, other.target]),
            torch.cat([self.weights, other.weights]),
        )
