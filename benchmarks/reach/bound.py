"""The least that any map costs which takes concepts out of every embedding's reach: a bound by eigenvalues.

Let ``VᵀM = 0``, and ``Y`` an orthonormal basis of what ``V`` is in the coordinates ``z = Fᵀx``, ``G = F Fᵀ``. No
embedding comes nearer to a row ``c`` than ``‖Yᵀ Fᵀ c‖²``, whatever M is beside that; and M moves a row ``x`` at least
as far as to the nearest reachable point, so by ``‖Yᵀ Fᵀ x‖²`` or more. With ``C`` the mean over concepts of their
rows' moments, each in units of its concept's way to the target, and ``H`` the moments of what shall stay, of trace 1
(both in ``z``),

    certificate ≤ tr(Yᵀ C Y),   drift ≥ tr(Yᵀ H Y),   certificate − μ · drift ≤ Σ positive eigenvalues of (C − μ H)

for every ``μ ≥ 0``. So a mean certificate ``a`` costs at least ``max_μ (a − λ⁺(C − μ H))/μ`` of drift: no choice of
directions, their number or the edit that follows does better, and the eigenvectors with positive eigenvalues reach it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rece_lightning.core.editors.projection import GramRoot
from rece_lightning.core.gram import Gram
from rece_lightning.erasure.encoding import EncodedPair

MULTIPLIERS = torch.logspace(-1, 3, 81, dtype=torch.float64)


def least_drift(gram: Gram, pairs: Sequence[EncodedPair], kept: Tensor, certificate: float) -> float:
    """The least drift of ``kept`` at which the mean certificate of ``pairs`` can be had, over embeddings of any norm.

    Args:
        gram: ``G`` of what is edited.
        pairs: concepts with their targets; each counts alike.
        kept: ``Σ x xᵀ`` of what shall stay, ``[d, d]``.
        certificate: wanted, as a share of a concept's own way to its target.

    Returns:
        A share of ``tr(G Σ x xᵀ)``; infinite where the certificate cannot be had at all.
    """
    root = GramRoot.of(gram.total).root
    scatter = torch.zeros(root.shape[1], root.shape[1], dtype=root.dtype)
    for pair in pairs:
        seen, way = pair.concept.double() @ root, (pair.concept - pair.target).double() @ root
        scatter += seen.mT @ seen / (way.square().sum() * len(pairs))
    if float(scatter.trace()) < certificate:
        return float("inf")
    stays = root.mT @ kept @ root
    stays = stays / stays.trace()
    gains = torch.stack([torch.linalg.eigvalsh(scatter - mu * stays).clamp(min=0).sum() for mu in MULTIPLIERS])
    return float(((certificate - gains) / MULTIPLIERS).max().clamp(min=0))
