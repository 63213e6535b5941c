"""The edit: moments (and the Gram matrix) in, a d×d map out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import EmbeddingMap, LayerMaps, layers_of
from rece_lightning.core.errors import check_number
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, factor_positive_definite
from rece_lightning.core.moments import Moments

TECHNIQUES = ("replace", "tensor")


@dataclass(frozen=True)
class EditScales:
    """Weights of the edit's three sums, named as the published code names them."""

    erase_scale: float = 1.0
    """η, of the concepts."""
    preserve_scale: float = 0.1
    """λ₁, of what is kept."""
    lamb: float = 0.1
    """λ₂, of leaving the weights as they are."""

    def __post_init__(self) -> None:
        check_number("erase_scale", self.erase_scale, positive=True)
        check_number("preserve_scale", self.preserve_scale)
        check_number("lamb", self.lamb)


def normal_equations(moments: Moments, scales: EditScales) -> tuple[Tensor, Tensor]:
    """``A = ηS + λ₁P + λ₂I`` and ``B = ηX + λ₁P + λ₂I``: the minimiser is ``E A = B``."""
    kept = preserved_system(moments.preserved, scales)
    return scales.erase_scale * moments.erased + kept, scales.erase_scale * moments.cross + kept


def preserved_system(preserved: Tensor, scales: EditScales) -> Tensor:
    """``λ₁P + λ₂I``: what both sides share, ``[d, d]``."""
    return add_ridge(scales.preserve_scale * preserved, scales.lamb)


def factor_system(system: Tensor) -> Tensor:
    """Cholesky factor of ``A``.

    Raises:
        ConfigurationError: if it is singular.
    """
    remedy = "Give model.lamb (λ₂) a value greater than 0."
    return factor_positive_definite(system, what="edit's system ηS + λ₁P + λ₂I", remedy=remedy)


def edit(moments: Moments, scales: EditScales) -> EmbeddingMap:
    """Map every layer's projection to UCE's minimiser (arXiv 2308.14761).

    ``W E`` with ``E = (ηX + λ₁P + λ₂I)(ηS + λ₁P + λ₂I)⁻¹`` minimises

        ``η Σ ‖W' c − W c*‖² + λ₁ Σ ‖W' c_j − W c_j‖² + λ₂ ‖W' − W‖²``

    for every ``W`` at once: ``E`` holds no layer.

    Args:
        moments: of concepts, targets and what is kept, ``[d, d]`` each, float64.
        scales: η, λ₁ and λ₂.

    Returns:
        ``E``; compose it with the map so far: ``M @ E``.

    Raises:
        ConfigurationError: if the system is singular, as it is for λ₂ = 0 with fewer rows than ``d``.
    """
    system, right = normal_equations(moments, scales)
    return EmbeddingMap(torch.cholesky_solve(right.mT, factor_system(system)).mT)


def edit_tensor(
    prompts: Sequence[Moments], preserved: Tensor, gram: Gram, maps: LayerMaps, scales: EditScales
) -> LayerMaps:
    """The technique ``tensor``: the target output loses its component along the old output.

    For each prompt and layer ``α_l = tr(G_l X)/tr(G_l S)`` with the layer's present Gram matrix, and the
    target becomes ``W c* − α_l W c``. The scalar differs per layer, so there is one map a layer.

    Args:
        prompts: the moments of each prompt pair on its own.
        preserved: ``P`` of what is kept, ``[d, d]``.
        gram: of the original projections, with its layers.
        maps: the maps so far.
        scales: η, λ₁ and λ₂.

    Returns:
        The maps of this edit, ``[L, d, d]``.

    Raises:
        ConfigurationError: if a system is singular.
    """
    present = maps.matrices.mT @ layers_of(gram) @ maps.matrices
    results = []
    for layer_gram in present:
        total = tensor_moments(prompts, preserved, layer_gram)
        results.append(edit(total, scales).matrix)
    return LayerMaps(torch.stack(results))


def tensor_moments(prompts: Sequence[Moments], preserved: Tensor, layer_gram: Tensor) -> Moments:
    """One layer's moments under the technique ``tensor``, ``layer_gram`` being ``W_lᵀW_l`` of now."""
    zero = torch.zeros_like(preserved)
    total = Moments(zero, zero, zero, preserved)
    for prompt in prompts:
        # tr(GX) is Σ (Wc)ᵀ(Wc*), tr(GS) is Σ ‖Wc‖².
        size = float((layer_gram * prompt.erased.mT).sum())
        # A layer that answers a prompt with nothing has no direction to take out.
        share = float((layer_gram * prompt.cross.mT).sum()) / size if size > 0 else 0.0
        total = total.erasing_also(prompt.away_from(share))
    return total
