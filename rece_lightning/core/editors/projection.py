"""The projection editor: a singular map that takes the concepts' differences out of every embedding's reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import Editor, EditProblem
from rece_lightning.core.embedding_map import EmbeddingMap, narrow
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, factor_positive_definite, spectrum
from rece_lightning.core.moments import Moments


@dataclass(frozen=True)
class Projection(Editor):
    """A singular map that takes the concepts' differences to their targets out of every embedding's reach.

    Nothing is traded: the erasure is a constraint, and the scales of UCE do not enter.

    Args:
        rank: r: how many leading directions of the differences ``c − c*`` it takes out, over all concepts; below 1 as
            few as hold that share of them, as keys and values see them; ``None``: one for every erased prompt.
        shrinkage: κ > 0: weight of moving all embeddings alike against moving the preserved prompts alone. A larger one
            makes what is taken out the more visible to keys and values, and moves preserved prompts the more.
    """

    rank: int | float | None = None
    shrinkage: float = 3.0

    singular: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_rank("Projection.rank", self.rank)
        check_number("Projection.shrinkage", self.shrinkage, positive=True)

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        """The map; see :func:`project`."""
        return self.fitted(problem)(problem)

    def fitted(self, problem: EditProblem) -> Callable[[EditProblem], EmbeddingMap]:
        """``G`` stays, and so does its root."""
        base = GramRoot.of(problem.gram.total)
        rank = problem.concepts if self.rank is None else self.rank

        def call(later: EditProblem) -> EmbeddingMap:
            assert isinstance(later.before, EmbeddingMap)
            return project(later.moments, later.gram, later.before, rank, self.shrinkage, base)

        return call


def check_rank(field: str, value: int | float) -> None:
    """Raise a ConfigurationError unless ``value`` counts directions (1, 2, …) or is a share between 0 and 1."""
    check_number(field, value, positive=True)
    if value > 1 and value != int(value):
        raise ConfigurationError(f"{field}: {value!r}; give a whole number of directions, or a share below 1.")


@dataclass(frozen=True)
class GramRoot:
    """``F`` with ``G = F Fᵀ``: embeddings as keys and values see them are ``Fᵀ x``, up to a rotation."""

    root: Tensor
    """``F``, ``[d, k]``, k the rank of ``G``."""
    inverse_trace: float
    """``tr G⁻¹``, over the directions that a key or value sees."""

    @classmethod
    def of(cls, gram: Tensor, rounded: float = 1.0) -> GramRoot:
        """Of one Gram matrix, ``[d, d]``. Not by Cholesky: a model with fewer outputs than d has a singular one.

        Args:
            gram: ``G``, or ``MᵀGM`` of an edited model.
            rounded: how many times more of it rounding may have made than of ``G``: ``‖M‖²``.
        """
        strengths, axes = torch.linalg.eigh(gram)
        seen = strengths > len(gram) * torch.finfo(gram.dtype).eps * strengths[-1] * rounded
        strengths, axes = strengths[seen], axes[:, seen]
        return cls(axes * strengths.sqrt(), float((1 / strengths).sum()))

    @property
    def dual(self) -> Tensor:
        """``F⁺ᵀ``, ``[d, k]``: ``Fᵀ F⁺ᵀ = I``, and ``F⁺ᵀ F⁺ = G⁺``. The columns of F are orthogonal."""
        return self.root / self.root.square().sum(0)


def project(
    moments: Moments,
    gram: Gram,
    before: EmbeddingMap,
    rank: int | float,
    shrinkage: float,
    base: GramRoot | None = None,
) -> EmbeddingMap:
    """Map the erased differences to nothing, at the least cost to what is preserved.

    With ``Δ`` ``[d, r]`` the leading directions of the rows ``c − c*`` (principal components in the metric of keys and
    values), ``B = P/tr P + κ G⁻¹/tr G⁻¹`` and ``V = B⁻¹ Δ``,

        ``E = I − Δ (VᵀΔ)⁻¹ Vᵀ``

    is the minimiser of ``tr((E−I)ᵀ G (E−I) B)`` under ``E Δ = 0``: UCE's problem (arXiv 2308.14761) with the erasure
    as a constraint instead of a weighted sum, and with a ridge that weighs a change where keys and values see it. It is
    discriminant analysis with the preserved prompts as the within-class scatter. ``Vᵀ E = 0``: whatever embedding goes
    in, no part of what comes out lies along ``V``. :mod:`rece_lightning.core.certificate` turns that into a bound.

    An edit of an edited model takes ``MᵀGM`` for ``G`` and leaves what earlier edits made unreachable unreachable.

    Args:
        moments: of concepts, targets and what is preserved.
        gram: ``G`` of the original projections.
        before: ``M`` so far.
        rank: r.
        shrinkage: κ.
        base: the root of ``G``, where it is there already.

    Returns:
        ``E``; the identity where concepts and targets are answered alike already. Compose: ``M @ E``.

    Raises:
        ConfigurationError: if the system is singular to rounding, as it may be for a tiny κ.
    """
    base = base or GramRoot.of(gram.total)
    root = before.matrix.mT @ base.root
    axes, directions = differing(moments, gram, root, rank)
    if not axes.shape[1]:
        return EmbeddingMap.identity(gram.width, gram.total.device)
    solved = discriminant(moments.preserved, root, axes, shrinkage / base.inverse_trace)
    left = -torch.linalg.solve(axes.mT @ solved, directions, left=False)
    return narrow(left, (root @ solved).mT)


def differing(moments: Moments, gram: Gram, root: Tensor, rank: int | float) -> tuple[Tensor, Tensor]:
    """The leading directions of what is erased, ``c − c*``; see :func:`leading_directions`.

    Args:
        moments: of concepts and targets.
        gram: ``G`` of the original projections.
        root: ``F`` of the model as it is now, ``[d, k]``.
        rank: r.
    """
    differences = moments.erased - moments.cross - moments.cross.mT + moments.target
    size = float((gram.total * (moments.erased + moments.target)).sum())
    return leading_directions(differences, root, rank, size)


def discriminant(preserved: Tensor, root: Tensor, axes: Tensor, ridge: float) -> Tensor:
    """``Y'`` with ``V = F Y'``: what tells the erased directions from what is preserved, as keys and values see both.

    ``V = (P/tr P + κ G⁻¹/tr G⁻¹)⁻¹ Δ`` is ``F (Fᵀ P F/tr P + κ/tr G⁻¹ · I)⁻¹ Fᵀ Δ``: nothing of G is inverted.

    Args:
        preserved: ``P``, ``[d, d]``.
        root: ``F``, ``[d, k]``.
        axes: ``Fᵀ Δ``, ``[k, r]``.
        ridge: ``κ/tr G⁻¹``.

    Returns:
        ``[k, r]``.

    Raises:
        ConfigurationError: if the system is singular to rounding, as it may be for a tiny κ.
    """
    size = float(preserved.trace())
    scatter = root.mT @ (preserved / size if size > 0 else preserved) @ root
    remedy = "Give the editor's shrinkage (κ) a larger value."
    factor = factor_positive_definite(add_ridge(scatter, ridge), what="projection's system", remedy=remedy)
    return torch.cholesky_solve(axes, factor)


def leading_directions(differences: Tensor, root: Tensor, rank: int | float, size: float) -> tuple[Tensor, Tensor]:
    """The leading directions of the rows ``c − c*`` as keys and values see them.

    Args:
        differences: ``Q = Σ w (c − c*)(c − c*)ᵀ``, ``[d, d]``.
        root: ``F``, ``[d, k]``.
        rank: a number of directions, or a share of ``tr(G Q)`` below 1.
        size: ``Σ w (‖Fᵀ c‖² + ‖Fᵀ c*‖²)``: what a rounded difference is read against.

    Returns:
        ``Y [k, r]`` with orthonormal columns, and ``Δ [d, r]`` in the span of the differences with ``Fᵀ Δ = Y``.
        Fewer than asked for where the differences have fewer directions.
    """
    rounding = len(differences) * torch.finfo(differences.dtype).eps * size
    strengths, axes = spectrum(root.mT @ differences @ root, rounding)
    count = how_many(strengths, rank)
    axes = axes[:, :count]
    return axes, differences @ (root @ axes) / strengths[:count]


def how_many(strengths: Tensor, rank: int | float) -> int:
    """How many directions a rank comes to.

    Args:
        strengths: of all that there are, descending.
        rank: a number of directions, or a share of the sum below 1, of which as few count as hold it.
    """
    count = int(rank)
    if rank < 1:
        shares = strengths.cumsum(0) / strengths.sum()
        # A share that is reached but for rounding is reached.
        count = int((shares < rank - 1e-12).sum()) + 1
    return min(count, len(strengths))


def leading_axes(moment: Tensor, rank: int | float) -> Tensor:
    """The directions that hold most of a second moment, orthonormal, ``[d, r]``; none that is rounding.

    Args:
        moment: symmetric, ``[d, d]``.
        rank: as of :func:`how_many`.
    """
    strengths, axes = spectrum(moment)
    return axes[:, : how_many(strengths, rank)]
