"""The released code's technique ``tensor``: UCE's edit whose targets lose the old output, one map a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import EditProblem
from rece_lightning.core.editors.uce import UCE, edit
from rece_lightning.core.embedding_map import LayerMaps, layers_of
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments


@dataclass(frozen=True)
class TensorUCE(UCE):
    """UCE's edit whose target output loses its component along the old output (the released code's ``tensor``).

    That share differs from layer to layer, so there is one map a layer: what needs one map for all (the ``map`` export,
    ``apply --reuse-map``, a robust loop) refuses it.
    """

    per_layer: ClassVar[bool] = True

    def __call__(self, problem: EditProblem) -> LayerMaps:  # type: ignore[override]
        """The maps of this edit, ``[L, d, d]``."""
        assert isinstance(problem.before, LayerMaps)
        return edit_tensor(problem.prompts, problem.preserved, problem.gram, problem.before, self)


def edit_tensor(prompts: Sequence[Moments], preserved: Tensor, gram: Gram, maps: LayerMaps, scales: UCE) -> LayerMaps:
    """The target output loses its component along the old output.

    For each prompt and layer ``α_l = tr(G_l X)/tr(G_l S)`` with the layer's present Gram matrix, and the
    target becomes ``W c* − α_l W c``.

    Args:
        prompts: the moments of each prompt pair on its own.
        preserved: ``P`` of what is preserved, ``[d, d]``.
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
    """One layer's moments, ``layer_gram`` being ``W_lᵀW_l`` of now."""
    zero = torch.zeros_like(preserved)
    total = Moments(zero, zero, zero, preserved)
    for prompt in prompts:
        # tr(GX) is Σ (Wc)ᵀ(Wc*), tr(GS) is Σ ‖Wc‖².
        size = float((layer_gram * prompt.erased.mT).sum())
        # A layer that answers a prompt with nothing has no direction to take out.
        share = float((layer_gram * prompt.cross.mT).sum()) / size if size > 0 else 0.0
        total = total.erasing_also(prompt.away_from(share))
    return total
