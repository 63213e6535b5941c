"""Concept rows with their targets where there are fewer rows than the width: the same edit with smaller products.

A prompt has 77 rows at width 768. Its moments are ``d × d`` whatever the number of rows; the rows themselves make
every product of an epoch ``n × d`` instead. The answers agree to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.derive import Derivation
from rece_lightning.core.edit import EditScales, factor_system, preserved_system
from rece_lightning.core.embedding_map import NARROW, EmbeddingMap
from rece_lightning.core.moments import Moments


@dataclass(frozen=True)
class RowPairs:
    """Erased rows, what they become, and their weights. They add up as :class:`Moments` do."""

    concept: Tensor
    """``c``, ``[n, d]``, float64."""
    target: Tensor
    """``c*``, ``[n, d]``, float64."""
    weights: Tensor
    """``w``, ``[n]``, float64."""

    def moments(self, preserved: Tensor) -> Moments:
        """Their moments, beside those of what is kept."""
        own = Moments.of(self.concept, self.target, self.weights)
        return Moments(own.erased, own.cross, own.target, preserved)

    def derived(self, derivation: Derivation) -> RowPairs:
        """The derived rows, paired with the same targets."""
        return RowPairs(derivation.apply(self.concept, self.target), self.target, self.weights)

    def erasing_also(self, other: RowPairs) -> RowPairs:
        """These rows and those of ``other``."""
        return RowPairs(
            torch.cat([self.concept, other.concept]),
            torch.cat([self.target, other.target]),
            torch.cat([self.weights, other.weights]),
        )

    def edit(self, preserved: Tensor, scales: EditScales) -> EmbeddingMap:
        """UCE's minimiser, as :func:`rece_lightning.core.edit.edit` from moments.

        With the rows as columns, ``E = I + η (C* − C) w Cᵀ A⁻¹``: a solve for ``n`` columns, not for ``d``.

        Args:
            preserved: ``P``, ``[d, d]``.
            scales: η, λ₁ and λ₂.

        Raises:
            ConfigurationError: if the system is singular.
        """
        weighted = self.weights[:, None] * self.concept
        factor = factor_system(scales.erase_scale * (self.concept.mT @ weighted) + preserved_system(preserved, scales))
        right = torch.cholesky_solve(weighted.mT, factor).mT
        left = scales.erase_scale * (self.target - self.concept).mT
        matrix = left @ right
        matrix.diagonal().add_(1.0)
        return EmbeddingMap(matrix, (left, right) if NARROW * len(right) <= len(matrix) else None)
