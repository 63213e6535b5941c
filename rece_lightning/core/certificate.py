"""A certificate: no embedding within a budget brings a concept's keys and values back closer than δ.

For an edited model with ``W_l M`` in place of ``W_l``, a concept's embedding ``c`` and a budget β,

    ``Σ_l ‖W_l M x − W_l c‖² ≥ δ   for every x with ‖x‖ ≤ β‖c‖``.

The bound is the value of a dual problem at one point and needs no solver to be right: for every ``p``,
``‖r‖² ≥ 2⟨p, r⟩ − ‖p‖²`` in the metric ``G``, so with ``r = c − M x``

    ``δ(p) = 2 pᵀGc − pᵀGp − 2 β‖c‖ ‖MᵀGp‖``

holds whatever ``p`` is, and is the minimum itself for ``p = c − M c'`` with the best embedding ``c'`` of
:mod:`rece_lightning.core.budget`. What is left is rounding, in a few products, and that is bounded in turn (Higham,
*Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1) and taken off.

Without a budget the same holds with ``MᵀGp = 0``, where M is singular (``model.editor: projection``). In float64 no map
is singular to the last digit, nor are weights once they are stored, so a certificate without a budget says up to which
β it was checked: ``holds_to``.

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
from rece_lightning.core.gram import Gram

UNIT = 2.0**-53
"""Unit roundoff of float64."""

SLACK = 1.01
"""On what bounds the rounding: its own sums are rounded too."""

GIVEN_UP = (1e-3, 1e-2, 1e-1)
"""Shares of a bound without a budget of which the least is given up that lets it hold to ``FAR``."""

FAR = 10.0
"""Budgets that a bound without one should hold to; below a norm ratio of 1 it is none."""


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
    weights leave of it."""


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
        gram: ``G`` of the original projections; its own rounding counts where it knows its ``outputs``.
        maps: ``M``.
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
    rows, wanted = concept.double(), (concept - target).double()
    attacks = reach.prompts(rows)
    multiplier = attacks.multiplier(math.inf if budget is None else budget)
    # A norm is a root of a sum of squares, here and below.
    rounded = 1 + gamma(rows.shape[-1] * rows.shape[-2] + 4)
    size = rounded * attacks.norms.sqrt()
    # With β = 0 the multiplier is infinite and the attack 0.
    answers = reach.attack(rows, multiplier[:, None].expand(rows.shape[:-1]))
    dual = _Dual.zero(len(rows), rows)
    least = torch.zeros_like(size)
    for matrix, layer_gram in _layers(gram, maps):
        rest = rows - answers @ matrix.mT
        least = least + ((rest @ layer_gram) * rest).sum((-2, -1))
        dual = dual + _Dual.of(rest, rows, matrix, layer_gram, gram.outputs or 0)
    slope = 2 * size * (rounded * torch.linalg.norm(dual.leak, dim=(-2, -1)) + SLACK * dual.leak_error)
    spread = SLACK * size * storing_error(gram, maps, stored)
    error = SLACK * dual.value_error
    value = dual.value - error
    if budget is None:
        value, holds = _without_budget(value.clamp(min=0), slope, spread)
    else:
        value = (value - budget * slope).clamp(min=0)
        error = error + SLACK * budget * 2 * size * dual.leak_error
        value = (value.sqrt() - budget * spread).clamp(min=0).square()
        holds = torch.full_like(value, budget)
    difference = ((wanted @ gram.total) * wanted).sum((-2, -1))
    relative = torch.where(difference > 0, value / difference, math.nan)
    return Certificate(budget, value, relative, error, least - value, holds)


def _without_budget(value: Tensor, slope: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """A bound somewhat below ``value``, and the budget up to which it holds.

    Args:
        value: the bound at β = 0, ``[n]``; it falls by ``slope · β``, and its root by ``spread · β``.
    """
    for share in GIVEN_UP:
        # Half of what is given up for the leak of M, half for the stored weights: (1 − s/4)² ≥ 1 − s/2.
        holds = torch.minimum(share / 2 * value / slope, share / 4 * (value * (1 - share / 2)).sqrt() / spread)
        if bool((holds >= FAR).all()):
            break
    # The map of a model that can be inverted leaks everything.
    kept = holds >= 1
    return torch.where(kept, value * (1 - share), 0.0), torch.where(kept, holds, math.inf)


@dataclass(frozen=True)
class _Dual:
    """``2⟨p, c⟩ − ⟨p, p⟩`` and ``MᵀGp`` of some prompts, summed over layers, with bounds on their rounding."""

    value: Tensor
    value_error: Tensor
    leak: Tensor
    """``[n, rows, d]``: what of p an embedding can reach."""
    leak_error: Tensor

    @classmethod
    def zero(cls, count: int, rows: Tensor) -> _Dual:
        nothing = rows.new_zeros(count)
        return cls(nothing, nothing, torch.zeros_like(rows), nothing)

    @classmethod
    def of(cls, rest: Tensor, rows: Tensor, matrix: Tensor, gram: Tensor, outputs: int) -> _Dual:
        """One layer's; ``rest`` is p."""
        seen = rest @ gram
        value = (seen * (2 * rows - rest)).sum((-2, -1))
        leak = seen @ matrix
        # Each entry of a product of matrices is a sum of d terms, the value a sum over all rows and columns.
        width, entries = rest.shape[-1], rest.shape[-1] * rest.shape[-2]
        seen_sizes = rest.abs() @ gram.abs()
        sizes = (seen_sizes * (2 * rows.abs() + rest.abs())).sum((-2, -1))
        # ‖|W|ᵀ|W|‖ ≤ tr G bounds the rounding of G itself, which sums over all outputs.
        own = gamma(outputs) * gram.trace()
        norm, far = torch.linalg.norm(rest, dim=(-2, -1)), torch.linalg.norm(2 * rows - rest, dim=(-2, -1))
        value_error = gamma(width + entries + 8) * sizes + own * norm * far
        leak_error = gamma(2 * width + 8) * torch.linalg.norm(seen_sizes @ matrix.abs(), dim=(-2, -1))
        return cls(value, value_error, leak, leak_error + own * norm * torch.linalg.norm(matrix))

    def __add__(self, other: _Dual) -> _Dual:
        return _Dual(
            self.value + other.value,
            self.value_error + other.value_error,
            self.leak + other.leak,
            self.leak_error + other.leak_error,
        )


def gamma(count: int) -> float:
    """``γ_n = nu/(1 − nu)``: the relative error of a sum of n products, in whatever order it was added."""
    return count * UNIT / (1 - count * UNIT)


def storing_error(gram: Gram, maps: AnyMap, dtype: torch.dtype | None) -> float:
    """Bound on ``‖fl(W M) − W M‖`` (Frobenius, over all layers) of weights stored in a dtype; 0 for none.

    A rounded entry is off by the unit roundoff, or by half the smallest step where it underflows.
    """
    if dtype is None:
        return 0.0
    width = gram.width
    kind = torch.finfo(dtype)
    size = float(maps.edited_gram(gram).trace().clamp(min=0).sqrt())
    products = sum(float(g.trace().sqrt() * torch.linalg.norm(m)) for m, g in _layers(gram, maps))
    # eps is the step after 1, twice the unit roundoff; smallest_normal·eps is the step of the subnormal numbers.
    underflow = 0.5 * kind.smallest_normal * kind.eps * math.sqrt((gram.outputs or 0) * width)
    return kind.eps / 2 * size + underflow + 2 * gamma(width + 2) * products


def _layers(gram: Gram, maps: AnyMap) -> list[tuple[Tensor, Tensor]]:
    """Maps with the Gram matrices that they go with: all layers as one where they share a map."""
    if isinstance(maps, EmbeddingMap):
        return [(maps.matrix, gram.total)]
    return list(zip(maps.matrices, layers_of(gram), strict=True))
