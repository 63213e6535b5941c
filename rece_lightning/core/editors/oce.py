"""OCE: every layer's outputs are turned by an orthogonal matrix, away from the concepts and towards their targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.core.editors.base import Editor, EditProblem
from rece_lightning.core.editors.projection import GramRoot, check_rank, leading_axes
from rece_lightning.core.embedding_map import LayerMaps, layers_of
from rece_lightning.core.errors import check_number


@dataclass(frozen=True)
class OCE(Editor):
    """Orthogonal concept erasure (arXiv 2605.28902): ``W' = R W`` with one orthogonal ``R`` a layer.

    ``R`` stays within what a layer's outputs span, so ``R W = W E`` with a right map a layer (see :func:`turned`), and
    what needs one map for all layers (the ``map`` export, ``apply --reuse-map``, a robust loop) refuses it. Published
    for values (``projections: v``) and the last subject token (``tokens: last``).

    Args:
        erase_scale: η > 0: weight of turning away (published: 1 for Stable Diffusion, 1000 for FLUX.1). It is read
            against the size of a layer's outputs.
        global_scale: a ≥ 0: weight of the mean moment of a text (published: of COCO's captions; here of what is
            preserved, scaled to trace d).
        preserve_scale: b ≥ 0: weight of the preserved prompts, of each of their rows.
        lamb: λ > 0: weight of leaving all outputs as they are.
        rank: how many leading directions of the outputs are the concepts', and as many the targets'; below 1 as few as
            hold that share; ``None``: one for every erased prompt, which is the published one where a prompt has one
            row.

    Raises:
        ConfigurationError: for a weight or rank that makes no sense.
    """

    erase_scale: float = 1.0
    global_scale: float = 0.5
    preserve_scale: float = 0.3
    lamb: float = 1.5
    rank: int | float | None = None

    per_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("OCE.erase_scale", self.erase_scale, positive=True)
        check_number("OCE.global_scale", self.global_scale)
        check_number("OCE.preserve_scale", self.preserve_scale)
        check_number("OCE.lamb", self.lamb, positive=True)
        if self.rank is not None:
            check_rank("OCE.rank", self.rank)

    def __call__(self, problem: EditProblem) -> LayerMaps:
        """The maps of this edit, ``[L, d, d]``."""
        assert isinstance(problem.before, LayerMaps)
        before, preserved = problem.before.matrices, problem.preserved
        trace = float(preserved.trace())
        held = self.preserve_scale * preserved
        if trace > 0:
            held = held + self.global_scale * len(preserved) / trace * preserved
        held.diagonal().add_(self.lamb)
        rank = problem.concepts if self.rank is None else self.rank
        moments = problem.moments
        return LayerMaps(
            torch.stack([
                turned(gram, moments.erased, moments.target, held, self.erase_scale, rank)
                for gram in before.mT @ layers_of(problem.gram) @ before
            ])
        )  # fmt: skip


def turned(gram: Tensor, erased: Tensor, target: Tensor, held: Tensor, scale: float, rank: int | float) -> Tensor:
    """One layer's map ``E`` with ``W E = R W`` (arXiv 2605.28902).

    ``R`` is the orthogonal matrix nearest to

        ``K = −η Π (I − Π*) + W (a K₀ + b P + λ I) Wᵀ``,

    ``U Vᵀ`` of its singular value decomposition; Π and Π* project on the outputs of concepts and of targets. With
    ``G = WᵀW = F Fᵀ`` a layer is ``W = Q Fᵀ``, Q with orthonormal columns, and everything in K lies between Q and Qᵀ.
    So R is found in coordinates of the rank of W, ``R W = Q R' Fᵀ``, and

        ``E = I + F⁺ᵀ (R' − I) Fᵀ``,

    which needs ``G`` alone. The released code also flips a column where R is a reflection; that is not done.

    Args:
        gram: ``G`` of the layer as it is now, ``[d, d]``.
        erased: moments of the concepts' rows.
        target: of their targets' rows.
        held: ``a K₀ + b P + λ I``.
        scale: η.
        rank: of Π and Π*.
    """
    seen = GramRoot.of(gram)
    root = seen.root
    concepts, guides = (leading_axes(root.mT @ rows @ root, rank) for rows in (erased, target))
    away = concepts @ (concepts.mT - (concepts.mT @ guides) @ guides.mT)
    left, _, right = torch.linalg.svd(root.mT @ held @ root - scale * away)
    rotation = left @ right
    rotation.diagonal().sub_(1.0)
    change = seen.dual @ rotation @ root.mT
    change.diagonal().add_(1.0)
    return change
