"""The least that any linear edit of many concepts costs, whatever its editor, its rank and its number of maps.

What an edit leaves of the concepts' way to their targets, and what it moves of that which is kept, are both convex
quadratic forms of its map:

    left(M) = Σ_l ‖W_l (M C − C*)‖² / Σ_l ‖W_l (C − C*)‖²,    drift(M) = Σ_l ‖W_l (M P − P)‖² / Σ_l ‖W_l P‖².

``left + μ drift`` is least for ``M_μ = (C* Cᵀ + ν P Pᵀ)(C Cᵀ + ν P Pᵀ)⁻¹``, with ν for μ in the units of the two sums:
UCE's edit, in which no ``W_l`` stands. So every layer has the same minimiser, and a map for each layer, or for each
group of layers, gains nothing over one for all; a singular map and one of a null space are maps among the others. Let
``J(μ)`` be the least value. Every map, of whatever editor, has ``left + μ drift ≥ J(μ)`` for all ``μ ≥ 0``, so

    drift ≥ max_μ (J(μ) − left)/μ,

and since both forms are convex some map reaches it: UCE's edits over λ₁, with λ₂ near 0, are the whole front.
"""

from __future__ import annotations

import torch

from rece_lightning.core.diagnostics import preservation_drift
from rece_lightning.core.editors.uce import UCE, edit
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments

MULTIPLIERS = torch.logspace(-3, 4, 71, dtype=torch.float64)
RIDGE = 1e-10
"""λ₂ as a share of ``tr/d``: fewer rows than the width leave the system singular without it."""


def least_drift(gram: Gram, moments: Moments, left: float) -> float:
    """The least drift at which no more than ``left`` of the erased concepts' way to their targets remains.

    Args:
        gram: ``G`` of what is edited: of one layer, or of several, with one map for all or one each.
        moments: of concepts and targets, and ``P`` of what is kept, ``[d, d]``.
        left: a share, 0 to 1.

    Returns:
        A share of ``Σ‖W p‖²``.
    """
    best = 0.0
    for multiplier, remains, drift in front(gram, moments):
        best = max(best, (remains + multiplier * drift - left) / multiplier)
    return best


def front(gram: Gram, moments: Moments) -> list[tuple[float, float, float]]:
    """μ with ``left`` and ``drift`` of the map that is best for it: no map has less of both."""
    total, found = gram.total, []
    way, size = (float((total * part.mT).sum()) for part in (moments.difference, moments.preserved))
    for multiplier in MULTIPLIERS.tolist():
        weight = multiplier * way / size
        ridge = RIDGE * float(moments.erased.trace() + weight * moments.preserved.trace()) / moments.width
        maps = edit(moments, UCE(1.0, weight, ridge))
        edited, cross = maps.grams(gram)
        answered = (edited * moments.erased.mT).sum() - 2 * (cross * moments.cross.mT).sum()
        remains = float(answered + (total * moments.target.mT).sum()) / way
        found.append((multiplier, remains, preservation_drift(gram, maps, moments.preserved)))
    return found
