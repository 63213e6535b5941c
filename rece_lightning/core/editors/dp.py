"""DP: concepts become their projections on what is safe, by a change that what is preserved does not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import Editor, EditProblem
from rece_lightning.core.editors.null_space import free_directions
from rece_lightning.core.editors.projection import check_rank, leading_axes
from rece_lightning.core.embedding_map import EmbeddingMap, narrow
from rece_lightning.core.errors import ConfigurationError, check_number
from rece_lightning.core.linalg import symmetrized
from rece_lightning.core.moments import Moments


@dataclass(frozen=True)
class DP(Editor):
    """Double projections (arXiv 2604.10032): a concept becomes the nearest safe embedding, and nothing else moves.

    Safe are the directions in which what is preserved, or the targets, have something. Where the targets are preserved
    (as the empty prompt is) what of the concepts lies in no safe direction is out of every embedding's reach.

    Args:
        threshold: τ ≥ 0: prompts have something in a direction where they have more than this share of their mean
            energy, as of :class:`NullSpace`; what the published truncation of singular values comes to.
        rank: how many leading directions of the concepts within these are taken, over all concepts; below 1 as few as
            hold that share; ``None``: one for every erased prompt, which is the published one where a prompt has one
            row (``tokens: last``).

    Raises:
        ConfigurationError: for a threshold or rank that makes no sense.
    """

    threshold: float = 1.0
    rank: int | float | None = 0.99

    singular: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("DP.threshold", self.threshold)
        if self.rank is not None:
            check_rank("DP.rank", self.rank)

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        """The map; see :func:`project_twice`.

        Raises:
            ConfigurationError: if no direction is free.
        """
        return self.fitted(problem)(problem)

    def fitted(self, problem: EditProblem) -> Callable[[EditProblem], EmbeddingMap]:
        """What is preserved stays, and so do the directions that are free of it."""
        free = free_directions(problem.preserved, self.threshold)
        if not free.shape[1]:
            raise ConfigurationError(
                "DP.threshold: the preserved prompts leave no direction that an edit could read; give a larger value, "
                "or fewer prompts in data.preserve."
            )

        def call(later: EditProblem) -> EmbeddingMap:
            rank = later.concepts if self.rank is None else self.rank
            return project_twice(later.moments, free, rank, self.threshold)

        return call


def project_twice(moments: Moments, free: Tensor, rank: int | float, threshold: float) -> EmbeddingMap:
    """Take concepts to their projections on the safe directions, by a change that reads free directions alone.

    With ``N`` the free directions (the published ``U₂``), the proxy of a concept is ``P_S c``, ``P_S`` the projector on
    what is safe. For one row

        ``E = I + (P_S c − c)(Nᵀc)ᵀ Nᵀ/‖Nᵀc‖²``

    is the smallest change within ``N`` with ``E c = P_S c``. All directions outside ``N`` are safe, so that
    ``P_S c − c = −(I − P_S) N Nᵀ c``, and the smallest change for several rows ``C`` is

        ``E = I − (I − P_S) A Aᵀ``,     ``A`` an orthonormal basis of ``N Nᵀ C``:

    what a row has along ``A`` is replaced by its safe part. Nothing is inverted, however small ``Nᵀ c`` is.

    Args:
        moments: of concepts and targets.
        free: ``N``, orthonormal columns, ``[d, k]``.
        rank: of ``A``; see :class:`DP`.
        threshold: τ, above which directions of the targets within ``N`` are safe.

    Returns:
        ``E``; compose it with the map so far: ``M @ E``.
    """
    taken = free @ leading_axes(free.mT @ moments.erased @ free, rank)
    width, trace = len(moments.target), float(moments.target.trace())
    energies, axes = torch.linalg.eigh(symmetrized(free.mT @ moments.target @ free))
    rounding = width * torch.finfo(energies.dtype).eps * trace
    safe = free @ axes[:, (energies * width > threshold * trace) & (energies > rounding)]
    return narrow(safe @ (safe.mT @ taken) - taken, taken.mT)
