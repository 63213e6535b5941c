"""A certificate: no embedding within a budget brings a concept's keys and values back closer than δ.

For an edited model with ``W_l M`` in place of ``W_l``, a concept's embedding ``c`` and a budget β,

    ``Σ_l ‖W_l M x − W_l c‖² ≥ δ   for every x with ‖x‖ ≤ β‖c‖``.

The bound is the value of a dual problem at one point and needs no solver to be right: for every ``p``,
``‖r‖² ≥ 2⟨p, r⟩ − ‖p‖²`` in the metric ``G``, so with ``r = c − M x``

    ``δ(p) = 2 pᵀGc − pᵀGp − 2 β‖c‖ ‖MᵀGp‖``

holds whatever ``p`` is, and is the minimum itself for ``p = c − M c'`` with the best embedding ``c'`` of
:mod:`rece_lightning.core.budget`. What is left is rounding, in a few products, sums and norms. A bound on all of it is
computed beside them (running error analysis; Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, sections
3.1 and 3.3) and taken off. It takes for granted that float64 rounds each operation by its unit roundoff and nothing
about the order of a sum: it holds on every processor, with any number of threads. The proof is in ``docs/method.md``.

Without a budget the same holds with ``MᵀGp = 0``, where M is singular (the editors ``Projection``,
``ProjectedUCE`` and ``DP``). In float64 no map is singular to the last digit, nor are weights once they are stored, so
a certificate without a budget says up to which β it holds: ``holds_to``. It is given only where the map itself keeps it
up to ``BEYOND`` times the concept's norm. So a concept that some embedding within that norm brings back has none, and a
map whose least singular value is greater than ``1/BEYOND`` has none for any concept.

What follows for images. At every position and in every layer at once, keys and values together, what the edited
cross-attention reads stays that far from what the original read for ``c``: no embedding, whatever its origin, makes the
edited U-Net read the concept's own keys and values at that position, and a picture cannot come back for the reason that
the text says the same as before. A prompt's certificate says so of its rows together.

What does not follow. The U-Net may draw the concept from other keys and values: from a part of them, from another
word's, or from what was never in the text (a picture to start from, noise that was optimized). Attention mixes rows,
otherwise in every layer: without a budget a mixture of values is again the value of an embedding, so within one layer
nothing is won by it, but the bound sums over layers, each of which may mix another embedding. Nor does it bound what
training on pictures of the concept restores. The relation of the relative bound to what a detector sees is a matter of
measuring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.budget import Reach, check_budget
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, layers_of
from rece_lightning.core.factored import Factored
from rece_lightning.core.gram import Gram

UNIT = 2.0**-53
"""Unit roundoff of float64."""

SMALLEST = 2.0**-1022
"""What a product may lose beside its roundoff where it underflows, gradually or to zero."""

SLACK = 1.01
"""On a bound of the rounding: it is computed in float64 itself, of positive numbers alone."""

ABOVE, BELOW = 1 + 2.0**-48, 1 - 2.0**-48
"""On what must not come out too small or too large: more than the roundings of a few operations on single numbers."""

GIVEN_UP = (1e-3, 1e-2, 1e-1)
"""Shares of a bound without a budget of which the least is given up that lets it hold to ``FAR``."""

FAR = 10.0
"""Budgets that a bound without one should hold to for the weights as they are stored; below 1 it is none."""

BEYOND = 1e4
"""Budgets that a bound without one must hold to for the map: what can be undone within that norm has none."""


@dataclass(frozen=True)
class Certificate:
    """Lower bounds of some prompts' (or single embeddings') residuals, one a prompt: each field ``[n]``, float64."""

    budget: float | None
    """β; ``None`` without one."""
    bound: Tensor
    """δ, in the units of ``Σ_l ‖W_l c‖²``: nothing comes closer. 0 says nothing."""
    relative: Tensor
    """δ over ``Σ (c − c*)ᵀG(c − c*)``: 1 where nothing comes nearer than the target is; NaN without a difference."""
    error: Tensor
    """What rounding may have done to the bound; it is taken off already."""
    gap: Tensor
    """The residual of an embedding that was found within the budget, less the bound: what that may be too low by."""
    holds_to: Tensor
    """The largest β for which the bound holds as it is: β itself, or, without a budget, what float64 and the stored
    weights leave of it; infinite where the bound is 0."""


def certify(
    gram: Gram,
    maps: AnyMap,
    concept: Tensor,
    target: Tensor,
    budget: float | None = None,
    *,
    stored: torch.dtype | None = None,
    reach: Reach | None = None,
) -> Certificate:
    """Certify what no embedding within a budget can regain.

    Args:
        gram: ``G`` of the original projections. Where it knows its ``outputs`` the bound is about the projections
            themselves; otherwise ``G`` is taken as it is, and as positive semidefinite.
        maps: ``M``, the numbers that it holds.
        concept: the rows of every prompt, ``[n, rows, d]``, which share a budget for their Frobenius norm; one row for
            single embeddings.
        target: ``c*``, the same shape.
        budget: β; ``None``: over all embeddings, positive where the map is singular.
        stored: the dtype that the edited weights were rounded to: the bound is then about these, entries that
            underflow included, and not about ``W_l M`` itself.
        reach: of the same model, where it is there already.

    Raises:
        ConfigurationError: if β is negative.
    """
    check_budget(math.inf if budget is None else budget)
    reach = reach or Reach.of(gram, maps)
    rows, wanted = concept.double(), concept.double() - target.double()
    attacks = reach.prompts(rows)
    multiplier = attacks.multiplier(math.inf if budget is None else budget)
    # With β = 0 the multiplier is infinite and the attack 0.
    answers = reach.attack(rows, multiplier[:, None].expand(rows.shape[:-1]))
    dual = _Dual.zero(rows)
    least = rows.new_zeros(len(rows))
    layers = _layers(gram, maps)
    for matrix, layer_gram in layers:
        rest = rows - answers @ matrix.mT
        least = least + ((rest @ layer_gram) * rest).sum((-2, -1))
        dual = dual + _Dual.of(rest, rows, matrix, layer_gram, gram.outputs or 0, len(layers))
    size = norm_above(rows)
    slope = ABOVE * 2 * size * dual.leak_norm() + SMALLEST
    spread = SLACK * size * storing_error(gram, maps, stored)
    error = SLACK * dual.value_error
    value = BELOW * (dual.value - error)
    if budget is None:
        value, holds = _without_budget(value, slope, spread)
    else:
        value = BELOW * (value - ABOVE * budget * slope).clamp(min=0)
        error = error + SLACK * budget * 2 * size * dual.leak_error
        value = BELOW * (BELOW * value.sqrt() - ABOVE * budget * spread).clamp(min=0).square()
        holds = torch.full_like(value, budget)
    # What left the range of float64 says nothing.
    value = value.nan_to_num(nan=0.0, posinf=0.0)
    difference = _size_above(wanted, gram)
    relative = torch.where(difference > 0, BELOW * value / difference, math.nan)
    return Certificate(budget, value, relative, error, least - value, holds)


def _without_budget(value: Tensor, slope: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """A bound somewhat below ``value``, and the budget up to which it holds; 0 and infinity where there is none.

    Of the share s that is given up half is for the leak of M and half for the stored weights:
    ``β ≤ s/2 · value/slope`` leaves ``1 − s/2`` of the value, and ``β · spread ≤ s/4 · √value`` of that ``1 − s/2``.
    That ``(1 − s/2)²`` is more than ``1 − s`` is room for the rounding here.

    Args:
        value: the bound at β = 0, ``[n]``; it falls by ``slope · β``, and its root by ``spread · β``.
        slope: ``[n]``, positive.
        spread: ``[n]``; 0 where weights are not rounded.
    """
    bound, holds = torch.zeros_like(value), torch.full_like(value, math.inf)
    value = value.clamp(min=0)
    for share in reversed(GIVEN_UP):
        map_holds = share / 2 * value / slope
        both_hold = torch.minimum(map_holds, share / 4 * (value * (1 - share / 2)).sqrt() / spread)
        # The largest share of all where it holds at all, a smaller one where that holds far enough.
        wanted = (map_holds >= BEYOND) & (both_hold >= (1 if share == GIVEN_UP[-1] else FAR))
        bound = torch.where(wanted, value * (1 - share), bound)
        holds = torch.where(wanted, both_hold, holds)
    return bound, holds


@dataclass(frozen=True)
class _Dual:
    """``2⟨p, c⟩ − ⟨p, p⟩`` and ``MᵀGp`` of some prompts, summed over layers, with bounds on their rounding.

    With ``SLACK`` the bounds hold for ``G`` as the projections have it, where the number of their outputs is known.
    """

    value: Tensor
    """``[n]``."""
    value_error: Tensor
    """``[n]``."""
    leak: Tensor
    """``[n, rows, d]``: what of p an embedding can reach."""
    leak_error: Tensor
    """``[n]``, for the Frobenius norm of what the leak is off by."""

    @classmethod
    def zero(cls, rows: Tensor) -> _Dual:
        nothing = rows.new_zeros(len(rows))
        return cls(nothing, nothing, torch.zeros_like(rows), nothing)

    @classmethod
    def of(cls, rest: Tensor, rows: Tensor, matrix: Tensor, gram: Tensor, outputs: int, layers: int = 1) -> _Dual:
        """One layer's.

        Args:
            rest: p, ``[n, rows, d]``.
            rows: c, the same shape.
            matrix: M, ``[d, d]``.
            gram: G, ``[d, d]``.
            outputs: that G was summed over; 0 for a G without rounding.
            layers: how many of these will be added up.
        """
        if isinstance(gram, Factored):
            outputs = 0  # its factors are the projections themselves: nothing was rounded
        seen, far = rest @ gram, 2 * rows - rest
        value, leak = (seen * far).sum((-2, -1)), seen @ matrix
        # Each entry of a product of matrices is a sum of d terms, the value a sum over all rows and columns.
        width, entries = rest.shape[-1], rest.shape[-1] * rest.shape[-2]
        (gram_sizes, gram_terms), (map_sizes, map_terms) = magnitudes(gram), magnitudes(matrix)
        seen_sizes = rest.abs() @ gram_sizes
        value_sizes = (seen_sizes * far.abs()).sum((-2, -1))
        leak_sizes = norm_above(seen_sizes @ map_sizes)
        # |Σ|W|ᵀ|W||_ij ≤ √(G_ii G_jj) bounds the rounding of G itself.
        roots = _column_norms(gram, outputs)
        rest_roots, far_roots = rest.abs() @ roots, far.abs() @ roots
        own = gamma(outputs + 8) if outputs else 0.0
        own_value = own * (rest_roots * far_roots).sum(-1)
        own_leak = own * norm_above(rest_roots[..., None] * (roots @ map_sizes))
        # What underflows is passed on by the factors after it.
        lost = 4 * SMALLEST * (width + gram_terms + map_terms + entries + outputs) * (1 + rest.abs().sum((-2, -1)))
        if isinstance(gram, Factored):
            lost = lost * (1 + gram.right.abs().sum())
        value_error = gamma(width + gram_terms + entries + layers + 8) * value_sizes + own_value
        leak_error = gamma(2 * width + gram_terms + map_terms + layers + 8) * leak_sizes + own_leak
        value_error = value_error + lost * (1 + far.abs().sum((-2, -1)))
        return cls(value, value_error, leak, leak_error + lost * (1 + _sum(map_sizes)))

    def __add__(self, other: _Dual) -> _Dual:
        return _Dual(
            self.value + other.value,
            self.value_error + other.value_error,
            self.leak + other.leak,
            self.leak_error + other.leak_error,
        )

    def leak_norm(self) -> Tensor:
        """Upper bound of ``‖MᵀGp‖``, ``[n]``."""
        return ABOVE * (norm_above(self.leak) + SLACK * self.leak_error)


def magnitudes(matrix: Tensor) -> tuple[Tensor, int]:
    """``|A|``, and how many terms a product with ``A`` sums beside its width: with factors it is ``|L| |R|``, and r."""
    if not isinstance(matrix, Factored):
        return matrix.abs(), 0
    sizes = Factored(matrix.left.abs(), matrix.right.abs(), abs(matrix.scale))
    return sizes, matrix.left.shape[1] + 1


def _sum(sizes: Tensor) -> Tensor:
    """Of all magnitudes; in factors from above, with what each factor passes on."""
    if not isinstance(sizes, Factored):
        return sizes.sum()
    return (1 + sizes.left.sum()) * (1 + sizes.right.sum()) + sizes.scale * len(sizes)


def gamma(count: int) -> float:
    """``γ_n = nu/(1 − nu)``: the relative error of a sum of n products, in whatever order it was added."""
    return count * UNIT / (1 - count * UNIT)


def norm_above(values: Tensor) -> Tensor:
    """Upper bound of the Frobenius norm, ``[..., rows, d]`` → ``[...]``, whatever rounds and underflows."""
    largest = values.abs().amax((-2, -1), keepdim=True)
    shares = values / largest.clamp(min=SMALLEST)
    norm = shares.square().sum((-2, -1)).sqrt() * largest[..., 0, 0]
    return (1 + gamma(values.shape[-2] * values.shape[-1] + 8)) * norm + SMALLEST


def storing_error(gram: Gram, maps: AnyMap, dtype: torch.dtype | None) -> float:
    """Bound on ``‖fl(W M) − W M‖`` (Frobenius, over all layers) of weights stored in a dtype; 0 for none.

    A rounded entry is off by the unit roundoff, or by half the smallest step where it underflows; the product that it
    rounds by what float64 makes of it, through M or, where the map has them, through its factors. Infinite where the
    number of outputs is unknown.
    """
    if dtype is None:
        return 0.0
    if gram.outputs is None:
        return math.inf
    width, kind = gram.width, torch.finfo(dtype)
    squared = own = 0.0
    for matrix, layer_gram in _layers(gram, maps):
        roots = _column_norms(layer_gram, gram.outputs)
        map_sizes, terms = magnitudes(matrix)
        # The norm of a column of |W| |M| is at most Σ_j ‖w_j‖ |M_jk|.
        sizes = float((roots @ map_sizes).square().sum())
        if isinstance(layer_gram, Factored):
            trace = float((layer_gram.right @ matrix).square().sum())
        else:
            trace = float(((matrix.mT @ layer_gram) * matrix.mT).sum())
        count = 2 * width + 2 * terms + width * width + gram.outputs + 8
        squared += max(trace, 0.0) + SLACK * gamma(count) * sizes
        own += (gamma(width + terms + 8) * SLACK) ** 2 * sizes
        if isinstance(maps, EmbeddingMap) and maps.factors is not None:
            left, right = maps.factors
            parts = left.abs() @ right.abs()
            parts.diagonal().add_(1.0)
            off = (maps.change - left @ right).abs()
            off = off + gamma(width + 2 * right.shape[0] + 16) * (parts + matrix.abs())
            own += SLACK**2 * float((roots @ off).square().sum())
    # eps is the step after 1, twice the unit roundoff; smallest_normal·eps is the step of the subnormal numbers.
    underflow = 0.5 * kind.smallest_normal * kind.eps * math.sqrt(gram.outputs * width)
    return SLACK * (kind.eps / 2 * math.sqrt(squared) + underflow + 2 * math.sqrt(own))


def _size_above(rows: Tensor, gram: Gram) -> Tensor:
    """Upper bound of ``Σ wᵀGw`` over the rows of a prompt, ``[n, rows, d]`` → ``[n]``; 0 where it is computed as 0."""
    size = ((rows @ gram.total) * rows).sum((-2, -1))
    count = rows.shape[-1] * (rows.shape[-2] + 1) + (gram.outputs or 0) + 16
    roots = _column_norms(gram.total, gram.outputs or 0)
    error = SLACK * gamma(count) * (rows.abs() @ roots).square().sum(-1)
    return torch.where(size > 0, ABOVE * (size + error), size)


def _column_norms(gram: Tensor, outputs: int) -> Tensor:
    """``‖W e_i‖ = √G_ii``, ``[d]``, of ``G [d, d]``; from above, but for the rounding of a sum."""
    return (gram.diagonal().clamp(min=0) + 4 * outputs * SMALLEST).sqrt()


def _layers(gram: Gram, maps: AnyMap) -> list[tuple[Tensor, Tensor]]:
    """Maps with the Gram matrices that they go with: all layers as one where they share a map."""
    if isinstance(maps, EmbeddingMap):
        return [(maps.matrix, gram.total)]
    return list(zip(maps.matrices, layers_of(gram), strict=True))
