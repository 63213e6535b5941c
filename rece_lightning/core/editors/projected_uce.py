"""UCE's edit behind a projection: what an attacker could reach of a concept is taken out first, at the least cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import EditProblem
from rece_lightning.core.editors.projection import GramRoot, check_rank, differing, discriminant
from rece_lightning.core.editors.uce import UCE
from rece_lightning.core.embedding_map import EmbeddingMap, narrow
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import symmetrized
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
        price: μ > 0: takes the directions that certify most for what they move instead, see :func:`worth_taking`; rank
            and shrinkage then say nothing. A larger one takes less.

    Raises:
        ConfigurationError: for a weight, rank, shrinkage or price that makes no sense.
    """

    rank: int | float | None = 0.99
    shrinkage: float = 10.0
    price: float | None = None

    singular: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            check_rank("ProjectedUCE.rank", self.rank)
        check_number("ProjectedUCE.shrinkage", self.shrinkage, positive=True)
        if self.price is not None:
            check_number("ProjectedUCE.price", self.price, positive=True)

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

        def taken(later: EditProblem, seen: GramRoot) -> Tensor:
            if self.price is not None:
                return worth_taking(later.moments, seen.root, self.price, later.concepts)
            return telling_apart(later.moments, later.gram, seen.root, rank, self.shrinkage / base.inverse_trace)

        def call(later: EditProblem) -> EmbeddingMap:
            assert isinstance(later.before, EmbeddingMap)
            seen = root_of_edited(later.gram, later.before, base)
            return nearest_reachable(seen, taken(later, seen)) @ UCE.__call__(self, later)

        return call


def root_of_edited(gram: Gram, before: EmbeddingMap, base: GramRoot) -> GramRoot:
    """The root of ``MᵀGM``, in which directions that are out of reach already are not seen.

    Args:
        gram: ``G`` of the original projections.
        before: ``M`` so far.
        base: the root of ``G``, which is that of an unedited model.
    """
    change = float(torch.linalg.norm(before.change))
    return base if change == 0 else GramRoot.of(before.edited_gram(gram), (1 + change) ** 2)


def telling_apart(moments: Moments, gram: Gram, root: Tensor, rank: int | float, ridge: float) -> Tensor:
    """``Y`` with ``V = F Y`` as of :func:`~rece_lightning.core.editors.projection.project`, orthonormal, ``[k, r]``.

    Args:
        moments: of concepts, targets and what is preserved.
        gram: ``G`` of the original projections.
        root: ``F`` of the model as it is now, ``[d, k]``.
        rank: r; see :class:`ProjectedUCE`.
        ridge: ``κ/tr G⁻¹``.

    Raises:
        ConfigurationError: if the system is singular to rounding, as it may be for a tiny κ.
    """
    axes, _ = differing(moments, gram, root, rank)
    return axes if not axes.shape[1] else torch.linalg.qr(discriminant(moments.preserved, root, axes, ridge))[0]


def worth_taking(moments: Moments, root: Tensor, price: float, concepts: int) -> Tensor:
    """The directions that certify most for what they move, orthonormal in what keys and values see, ``[k, r]``.

    Out of reach with ``Y``, no embedding comes nearer to a row ``c`` than ``‖Yᵀ Fᵀ c‖²``, and a row ``x`` that is
    preserved moves at least by ``‖Yᵀ Fᵀ x‖²``, whatever else the map does. So with ``C`` of the concepts' rows, in
    units of their way to the targets, and ``H`` of what is preserved, of trace 1,

        ``tr(Yᵀ C Y) − μ tr(Yᵀ H Y)``

    is greatest over all Y for the eigenvectors of ``C − μ H`` with positive eigenvalues, however many these are: fewer
    than concepts where these share directions.

    Args:
        moments: of concepts, targets and what is preserved.
        root: ``F``, ``[d, k]``.
        price: μ.
        concepts: how many prompts are erased: C sums over them.

    Raises:
        ConfigurationError: if nothing is preserved that a price could be paid in.
    """
    own = root.mT @ moments.erased @ root
    way = float((root.mT @ (moments.erased - moments.cross - moments.cross.mT + moments.target) @ root).trace())
    kept = root.mT @ moments.preserved @ root
    if float(kept.trace()) <= 0:
        raise ConfigurationError(
            f"ProjectedUCE.price: {price}: it is paid in what is preserved, and nothing is; give data.preserve, or "
            "leave the price out."
        )
    # What differs by rounding alone is answered alike.
    if way <= len(own) * torch.finfo(own.dtype).eps * float(own.trace()):
        return own[:, :0]
    values, axes = torch.linalg.eigh(symmetrized(concepts / way * own - price / float(kept.trace()) * kept))
    return axes[:, values > len(own) * torch.finfo(own.dtype).eps * float(values.abs().max())]


def nearest_reachable(seen: GramRoot, basis: Tensor) -> EmbeddingMap:
    """Take every embedding to the nearest one, as keys and values see it, without a part along some directions.

    With ``V = F Y``, ``Q x`` is the minimiser of ``(y − x)ᵀ G (y − x)`` under ``Vᵀ y = 0``,

        ``Q = I − G⁻¹V (VᵀG⁻¹V)⁻¹ Vᵀ``,

    so ``Vᵀ Q = 0``, and whatever edit follows leaves it so: no embedding of any norm answers along ``V`` again. In the
    coordinates ``z = Fᵀ x`` in which keys and values see embeddings, ``G = F Fᵀ``, it is the plain orthogonal
    projection ``z ↦ z − Y Yᵀ z``: what keys and values do not see stays as it is, and nothing is inverted where ``G``
    is singular.

    Args:
        seen: ``F``, of the model as it is now.
        basis: ``Y``, ``[k, r]``, with orthonormal columns.

    Returns:
        ``Q``; the identity where nothing is taken.
    """
    if not basis.shape[1]:
        return EmbeddingMap.identity(len(seen.root), basis.device)
    return narrow(-(seen.dual @ basis), (seen.root @ basis).mT)
