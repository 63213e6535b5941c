"""CURE: the spectral eraser, which takes the concepts' own directions out where what is preserved has none."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rece_lightning.core.editors.base import Editor, EditProblem
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import check_number
from rece_lightning.core.linalg import spectrum


@dataclass(frozen=True)
class CURE(Editor):
    """CURE's spectral eraser (arXiv 2505.12677): ``E = I − P_f + P_f P_r``. It has no target.

    Its maps can be inverted, however large α is, unless all rows that are erased are one: a certificate needs a budget.

    Args:
        alpha: α > 0 of the spectral expansion (published: 2 for objects and artists, 5 for nudity): a larger one counts
            weak directions as strong ones, of what is erased and of what is preserved.

    Raises:
        ConfigurationError: for an α that makes no sense.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        check_number("CURE.alpha", self.alpha, positive=True)

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        """The eraser, from the concepts' moments and those of what is preserved."""
        forgotten = spectral_projector(problem.moments.erased, self.alpha)
        retained = spectral_projector(problem.preserved, self.alpha)
        change = forgotten @ retained - forgotten
        change.diagonal().add_(1.0)
        return EmbeddingMap(change)


def spectral_projector(moment: Tensor, alpha: float) -> Tensor:
    """``P = U diag(α r/((α − 1) r + 1)) Uᵀ`` with ``r = σ²/Σσ²`` (arXiv 2505.12677).

    σ are the singular values of the embedding rows and U their right singular vectors: eigenvalues σ² and eigenvectors
    of the rows' second moment, so that rows are needed no more.

    Args:
        moment: ``Σ c cᵀ``, ``[d, d]``, float64.
        alpha: α.

    Returns:
        ``[d, d]``; zero where there are no rows.
    """
    energies, axes = spectrum(moment)
    shares = energies / energies.sum()
    return (axes * (alpha * shares / ((alpha - 1) * shares + 1))) @ axes.mT
