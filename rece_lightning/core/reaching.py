"""How near the keys and values of words come to a concept's original ones, before an edit and after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram

CHUNK = 4096
"""Prompts whose products are formed together."""


@dataclass(frozen=True)
class Reaching:
    """What the scan looks with: the model's quadratic forms, and the concepts' original keys and values."""

    gram: Tensor
    """``G``, ``[d, d]``."""
    edited: Tensor
    """``MᵀGM``."""
    cross: Tensor
    """``MᵀG``."""
    concept: Tensor
    """``c`` of every concept, ``[concepts, 2, d]``."""
    size: Tensor
    """``Σ (c − c*)ᵀG(c − c*)`` of every concept over its two rows, ``[concepts]``."""

    @classmethod
    def of(cls, gram: Gram, maps: AnyMap, concept: Tensor, target: Tensor) -> Reaching:
        """Of an edited model and rows ``[concepts, 2, d]`` of concepts and targets.

        Raises:
            ConfigurationError: if a concept is its target in this template.
        """
        edited, cross = maps.grams(gram)
        device = gram.total.device
        concept, target = concept.to(device).double(), target.to(device).double()
        size = _form(concept - target, gram.total, concept - target).sum(-1)
        if not bool((size > 0).all()):
            raise ConfigurationError("--template: a concept and its target read alike in it; give one with '{}' in it.")
        return cls(gram.total, edited, cross, concept, size)

    def measure(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances of prompts, all relative to a concept's distance from its target.

        Args:
            rows: ``[n, 2, d]``.

        Returns:
            ``Σ‖W w − W c‖²`` before the edit and ``Σ‖W M w − W c‖²`` after it, ``[n, concepts]``, and
            ``Σ‖W M w − W w‖²``, how far the edit moved the prompt, over the median concept's distance, ``[n]``.
        """
        parts = [self._measure(rows[first : first + CHUNK]) for first in range(0, len(rows), CHUNK)]
        if not parts:
            nothing = torch.zeros(0, len(self.size), dtype=torch.float64)
            return nothing, nothing, nothing[:, 0]
        before, after, change = zip(*parts, strict=True)
        return torch.cat(before).cpu(), torch.cat(after).cpu(), torch.cat(change).cpu()

    def _measure(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = rows.to(self.gram.device).double()
        seen, crossed = _times(wide, self.gram), _times(wide, self.cross)
        own, now = (seen * wide).sum((-2, -1)), (_times(wide, self.edited) * wide).sum((-2, -1))
        answers = _form(self.concept, self.gram, self.concept).sum(-1)
        before = own[:, None] - 2 * torch.einsum("nrd,crd->nc", seen, self.concept) + answers
        after = now[:, None] - 2 * torch.einsum("nrd,crd->nc", crossed, self.concept) + answers
        moved = now - 2 * (crossed * wide).sum((-2, -1)) + own
        change = moved / self.size.median()
        # Differences of numbers that may be equal.
        return (before / self.size).clamp(min=0), (after / self.size).clamp(min=0), change.clamp(min=0)


def _form(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    return (_times(left, matrix) * right).sum(-1)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """``[..., d] @ [d, d]``, of a matrix in factors too."""
    return (rows.flatten(0, -2) @ matrix).view(rows.shape)
