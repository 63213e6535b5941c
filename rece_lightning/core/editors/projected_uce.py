"""UCE's edit behind a projection: what an attacker could reach of a concept is taken out first, at the least cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from rece_lightning.core.editors.base import EditProblem
from rece_lightning.core.editors.projection import GramRoot, check_rank, differing, discriminant
from rece_lightning.core.editors.uce import UCE
from rece_lightning.core.embedding_map import EmbeddingMap, narrow
from rece_lightning.core.errors import check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments


@dataclass(frozen=True)
class ProjectedUCE(UCE):
    """UCE's edit of a model in which the concepts are out of every embedding's reach: ``E = Q E_UCE``.

    ``Q`` takes every embedding to the nearest one that stays reachable, ``E_UCE`` then carries the concepts to their
    targets. :class:`Projection` does both with one oblique map, which moves preserved prompts further; see
    ``docs/method.md``.

    Args:
        erase_scale: η, as of UCE.
        preserve_scale: λ₁, as of UCE.
        lamb: λ₂, as of UCE.
        rank: r: how many leading directions of the differences ``c − c*`` are taken out, over all concepts; below 1 as
            few as hold that share of them, as keys and values see them; ``None``: one for every erased prompt.
        shrinkage: κ > 0, as of :class:`Projection`: a larger one certifies more and moves preserved prompts the more.

    Raises:
        ConfigurationError: for a weight, rank or shrinkage that makes no sense.
    """

    rank: int | float | None = 0.99
    shrinkage: float = 10.0

    singular: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            check_rank("ProjectedUCE.rank", self.rank)
        check_number("ProjectedUCE.shrinkage", self.shrinkage, positive=True)

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        """The projection, then UCE's edit.

        Raises:
            ConfigurationError: if a system is singular under these settings.
        """
        return self.fitted(problem)(problem)

    def fitted(self, problem: EditProblem) -> Callable[[EditProblem], EmbeddingMap]:
        """``G`` stays, and so does its root."""
        base = GramRoot.of(problem.gram.total)
        rank = problem.concepts if self.rank is None else self.rank

        def call(later: EditProblem) -> EmbeddingMap:
            assert isinstance(later.before, EmbeddingMap)
            nearest = nearest_reachable(later.moments, later.gram, later.before, rank, self.shrinkage, base)
            return nearest @ UCE.__call__(self, later)

        return call


def nearest_reachable(
    moments: Moments,
    gram: Gram,
    before: EmbeddingMap,
    rank: int | float,
    shrinkage: float,
    base: GramRoot | None = None,
) -> EmbeddingMap:
    """Take every embedding to the nearest one, as keys and values see it, in which nothing of the concepts is left.

    With ``V`` ``[d, r]`` as in :func:`~rece_lightning.core.editors.projection.project`, ``Q x`` is the minimiser of
    ``(y − x)ᵀ G (y − x)`` under ``Vᵀ y = 0``,

        ``Q = I − G⁻¹V (VᵀG⁻¹V)⁻¹ Vᵀ``,

    so ``Vᵀ Q = 0``, and whatever edit follows leaves it so: no embedding of any norm answers along ``V`` again. In the
    coordinates ``z = Fᵀ x`` in which keys and values see embeddings, ``G = F Fᵀ``, it is the plain orthogonal
    projection ``z ↦ z − Y Yᵀ z`` with ``Y`` an orthonormal basis of the columns of ``F⁺ V``: what keys and values do
    not see stays as it is, and nothing is inverted where ``G`` is singular.

    Of an edited model it is the same with ``MᵀGM`` for ``G``.

    Args:
        moments: of concepts, targets and what is preserved.
        gram: ``G`` of the original projections.
        before: ``M`` so far.
        rank: r; see :class:`ProjectedUCE`.
        shrinkage: κ.
        base: the root of ``G``, where it is there already.

    Returns:
        ``Q``; the identity where concepts and targets are answered alike already.

    Raises:
        ConfigurationError: if the system is singular to rounding, as it may be for a tiny κ.
    """
    unedited = base or GramRoot.of(gram.total)
    seen, change = unedited, float(torch.linalg.norm(before.change))
    if change > 0:
        seen = GramRoot.of(before.edited_gram(gram), (1 + change) ** 2)
    axes, _ = differing(moments, gram, seen.root, rank)
    if not axes.shape[1]:
        return EmbeddingMap.identity(gram.width, gram.total.device)
    solved = discriminant(moments.preserved, seen.root, axes, shrinkage / unedited.inverse_trace)
    basis = torch.linalg.qr(solved)[0]
    return narrow(-(seen.dual @ basis), (seen.root @ basis).mT)
