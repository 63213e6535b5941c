"""What the edits amount to: one d×d map M for every layer, ``W_l = W_{0,l} M``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.factored import Factored
from rece_lightning.core.gram import Gram

WHOLE, LEFT, RIGHT = "map", "map_left", "map_right"
"""What tensors of a map are called in a file."""
NARROW = 3
"""Factors are kept while their rank is at most ``d / 3``: two such products are two thirds of one with ``M``."""


def apply_to_weight(weight: Tensor, matrix: Tensor) -> Tensor:
    """``W M`` in float64, rounded once to the weight's dtype. ``[o, d]``, ``[d, d]`` → ``[o, d]``."""
    return (weight.to(matrix.device).double() @ matrix).to(weight.dtype)


@dataclass(frozen=True)
class EmbeddingMap:
    """One map for all layers: the same edit read as a linear map on the text embeddings."""

    matrix: Tensor
    """``M``, ``[d, d]``, float64; a :class:`Factored` where it is never formed."""
    factors: tuple[Tensor, Tensor] | None = None
    """``L [d, r]`` and ``R [r, d]`` with ``M − I = L R``, where they are known and so narrow that two products with
    them are less work than one with ``M``."""

    @classmethod
    def identity(cls, width: int, device: torch.device | str = "cpu") -> EmbeddingMap:
        """The map of the unedited model."""
        return cls(torch.eye(width, dtype=torch.float64, device=device))

    def __matmul__(self, other: EmbeddingMap) -> EmbeddingMap:
        """First ``self``, then ``other`` as an edit of the already edited model: ``W M E``."""
        if other.factors is None:
            return EmbeddingMap(self.matrix @ other.matrix)
        left, right = other.factors
        moved = self.matrix @ left
        factors = None
        if self.factors is not None and NARROW * (moved.shape[1] + self.factors[0].shape[1]) <= len(moved):
            factors = torch.cat([self.factors[0], moved], dim=1), torch.cat([self.factors[1], right])
        return EmbeddingMap(torch.addmm(self.matrix, moved, right), factors)

    def in_factors(self) -> EmbeddingMap:
        """The same map as ``I + L R`` where ``L`` and ``R`` are known: its products and traces are less work then."""
        if self.factors is None:
            return self
        return EmbeddingMap(Factored(*self.factors, 1.0))

    def of_layer(self, layer: int) -> Tensor:
        """``M``, whatever the layer."""
        return self.matrix

    def exactly(self, weight: Tensor, layer: int = 0) -> Tensor:
        """``W M``, ``[o, d]``, float64."""
        wide = weight.to(self.matrix.device).double()
        if self.factors is None:
            return wide @ self.matrix
        left, right = self.factors
        return torch.addmm(wide, wide @ left, right)

    def applied_to(self, weight: Tensor, layer: int = 0) -> Tensor:
        """``W M`` in float64, rounded once to the weight's dtype, ``[o, d]``."""
        return self.exactly(weight, layer).to(weight.dtype)

    def edited_gram(self, gram: Gram) -> Tensor:
        """``MᵀGM``: the Gram matrix of the edited projections."""
        return self.matrix.mT @ gram.total @ self.matrix

    def cross_gram(self, gram: Gram) -> Tensor:
        """``MᵀG``: edited against original projections."""
        return self.matrix.mT @ gram.total

    def grams(self, gram: Gram) -> tuple[Tensor, Tensor]:
        """``MᵀGM`` and ``MᵀG``, the second computed once."""
        cross = self.cross_gram(gram)
        return cross @ self.matrix, cross

    def change_gram(self, gram: Gram) -> Tensor:
        """``(M−I)ᵀG(M−I)``: the Gram matrix of what the edit added to the projections; in factors where M has them."""
        change = self.in_factors().change
        return change.mT @ gram.total @ change

    @property
    def change(self) -> Tensor:
        """``M − I``."""
        if isinstance(self.matrix, Factored):
            return Factored(self.matrix.left, self.matrix.right, self.matrix.scale - 1)
        return self.matrix - torch.eye(self.matrix.shape[0], dtype=self.matrix.dtype, device=self.matrix.device)

    def apply_to_embeddings(self, embeddings: Tensor) -> Tensor:
        """Map rows ``[..., d]``: ``W_0 (M c)`` equals ``(W_0 M) c``."""
        return (embeddings.double() @ self.matrix.mT).to(embeddings.dtype)


def narrow(left: Tensor, right: Tensor) -> EmbeddingMap:
    """``I + L R`` for ``L [d, r]`` and ``R [r, d]``, which knows its factors where they are narrow."""
    matrix = left @ right
    matrix.diagonal().add_(1.0)
    return EmbeddingMap(matrix, (left, right) if NARROW * len(right) <= len(matrix) else None)


@dataclass(frozen=True)
class LayerMaps:
    """One map a layer, as the technique ``tensor`` needs. What wants one shared map refuses it."""

    matrices: Tensor
    """``M_l``, ``[L, d, d]``, float64."""

    @classmethod
    def identity(cls, layers: int, width: int, device: torch.device | str = "cpu") -> LayerMaps:
        """The maps of the unedited model."""
        return cls(torch.eye(width, dtype=torch.float64, device=device).repeat(layers, 1, 1))

    def __matmul__(self, other: LayerMaps) -> LayerMaps:
        return LayerMaps(self.matrices @ other.matrices)

    def in_factors(self) -> LayerMaps:
        """Itself: factors of one map a layer are not kept."""
        return self

    def of_layer(self, layer: int) -> Tensor:
        """``M_l``."""
        return self.matrices[layer]

    def exactly(self, weight: Tensor, layer: int) -> Tensor:
        """``W_l M_l``, ``[o, d]``, float64."""
        return weight.to(self.matrices.device).double() @ self.matrices[layer]

    def applied_to(self, weight: Tensor, layer: int) -> Tensor:
        """``W_l M_l`` in float64, rounded once to the weight's dtype, ``[o, d]``."""
        return apply_to_weight(weight, self.matrices[layer])

    def edited_gram(self, gram: Gram) -> Tensor:
        """``Σ_l M_lᵀ G_l M_l``."""
        return (self.matrices.mT @ layers_of(gram) @ self.matrices).sum(0)

    def cross_gram(self, gram: Gram) -> Tensor:
        """``Σ_l M_lᵀ G_l``."""
        return (self.matrices.mT @ layers_of(gram)).sum(0)

    def grams(self, gram: Gram) -> tuple[Tensor, Tensor]:
        """``Σ_l M_lᵀ G_l M_l`` and ``Σ_l M_lᵀ G_l``."""
        cross = self.matrices.mT @ layers_of(gram)
        return (cross @ self.matrices).sum(0), cross.sum(0)

    def change_gram(self, gram: Gram) -> Tensor:
        """``Σ_l (M_l−I)ᵀ G_l (M_l−I)``."""
        change = self.change
        return (change.mT @ layers_of(gram) @ change).sum(0)

    @property
    def change(self) -> Tensor:
        """``M_l − I``, ``[L, d, d]``."""
        eye = torch.eye(self.matrices.shape[-1], dtype=self.matrices.dtype, device=self.matrices.device)
        return self.matrices - eye


AnyMap = EmbeddingMap | LayerMaps


def unedited(gram: Gram) -> EmbeddingMap:
    """The map of the unedited model, in factors where ``G`` is."""
    if isinstance(gram.total, Factored):
        return EmbeddingMap(Factored.identity(gram.width, gram.total.device))
    return EmbeddingMap.identity(gram.width, gram.total.device)


def stored(maps: AnyMap) -> Tensor:
    """``M``, ``[d, d]`` or ``[L, d, d]``."""
    return maps.matrix if isinstance(maps, EmbeddingMap) else maps.matrices


def map_of(matrix: Tensor) -> AnyMap:
    """The map that :func:`stored` gave."""
    return EmbeddingMap(matrix) if matrix.ndim == 2 else LayerMaps(matrix)


def numbers_of(maps: AnyMap) -> int:
    """How many numbers a file of the map holds."""
    return sum(one.numel() for one in tensors_of(maps).values())


def same_map(one: AnyMap, other: AnyMap) -> bool:
    """Whether two maps are the same bits."""
    return all(map(torch.equal, tensors_of(one).values(), tensors_of(other).values())) and (
        tensors_of(one).keys() == tensors_of(other).keys()
    )


def tensors_of(maps: AnyMap) -> dict[str, Tensor]:
    """A map as a file holds it: ``map``, or ``map_left [d, r]`` and ``map_right [r, d]`` with ``M = I + L R``."""
    matrix = stored(maps)
    if isinstance(matrix, Factored):
        return {LEFT: matrix.left, RIGHT: matrix.right}
    return {WHOLE: matrix}


def map_from(tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> AnyMap:
    """The map that :func:`tensors_of` wrote."""
    if WHOLE in tensors:
        return map_of(tensors[WHOLE].to(device))
    return EmbeddingMap(Factored(tensors[LEFT].to(device), tensors[RIGHT].to(device), 1.0))


def shape_in(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape of the map that :func:`tensors_of` wrote: ``[d, d]`` or ``[L, d, d]``."""
    if WHOLE in tensors:
        return tuple(tensors[WHOLE].shape)
    return (len(tensors[LEFT]), len(tensors[LEFT]))


def layers_of(gram: Gram) -> Tensor:
    """The Gram matrices a layer, ``[L, d, d]``."""
    if gram.layers is None:
        raise ValueError("this needs the Gram matrix of every layer: Gram.of(..., keep_layers=True)")
    return gram.layers


def beside(gram: Gram, maps: AnyMap, untouched: Gram) -> tuple[Gram, LayerMaps]:
    """The edited projections and the untouched ones as one model.

    Args:
        gram: ``G`` of the edited ones before their edit, with its layers where there is a map a layer.
        maps: ``M``.
        untouched: ``G`` of the others.

    Returns:
        ``G`` of all, with a part for each map and one more, and the maps of these parts; the last is the identity.
    """
    eye = EmbeddingMap.identity(gram.width, gram.total.device).matrix[None]
    if isinstance(maps, LayerMaps):
        parts, matrices = layers_of(gram), maps.matrices
    else:
        parts, matrices = gram.total[None], maps.matrix[None]
    outputs = None if gram.outputs is None or untouched.outputs is None else gram.outputs + untouched.outputs
    whole = Gram(gram.total + untouched.total, torch.cat([parts, untouched.total[None]]), outputs)
    return whole, LayerMaps(torch.cat([matrices, eye]))
