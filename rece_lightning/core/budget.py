"""What an attacker can regain with embeddings of a bounded norm: a trust-region problem, solved for every bound.

For a concept's embedding ``c`` and a budget β the attacker's best is

    ``min Σ_l ‖W_l M c' − W_l c‖²   over   ‖c'‖ ≤ β‖c‖``,

which is convex in ``c'`` and depends on the model through ``A = MᵀGM`` and ``B = MᵀG`` alone. One eigendecomposition
``A = Q diag(σ²) Qᵀ`` reduces it, for every ``c`` and every β, to one equation in one unknown, the multiplier μ ≥ 0 of
the bound (Moré and Sorensen, *Computing a trust region step*, 1983): ``c' = (A + μI)⁻¹ B c`` with ``‖c'‖ = β‖c‖``, or
μ = 0 where the bound does not bind. The hard case of an indefinite problem is here a singular ``A`` with a bound that
does not bind: ``B c`` lies in the range of ``A``, and the least of all best embeddings is the pseudo-inverse's.

What lies along directions with a ``σ²`` of a share s of the largest is known to a relative 1e-16/s: a map that is
nearly singular blurs the last of these digits. :mod:`rece_lightning.core.certificate` is right whatever this rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap, stored
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.factored import Factored, trace_product
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import symmetrized

BUDGETS = (0.25, 0.5, 1.0, 2.0, math.inf)
"""Norms of the attacking embedding, as shares of the concept's own, that every epoch logs."""

STEPS = 200
"""Newton's steps on the secular equation, at most; some ten are taken."""


@dataclass(frozen=True)
class Attacks:
    """The reduced problems of some embeddings or prompts, one budget each."""

    strengths: Tensor
    """``σ²`` of the directions that the edited model answers with, ``[k]``, positive."""
    energies: Tensor
    """What of the concept's keys and values lies along each of them, squared, ``[..., k]``."""
    unreachable: Tensor
    """What lies along none of them: the residual of an attacker without a budget, ``[...]``."""
    norms: Tensor
    """``‖c‖²``, over all rows that share a budget, ``[...]``."""

    def multiplier(self, budget: float) -> Tensor:
        """μ of the norm's bound, ``[...]``: 0 where the bound does not bind, infinite for β = 0.

        Args:
            budget: β ≥ 0; infinite for an attacker without a limit.

        Raises:
            ConfigurationError: if β is negative or no number.
        """
        check_budget(budget)
        return secular_root(self.strengths, self.strengths * self.energies, budget * self.norms.sqrt())

    def residual(self, budget: float) -> Tensor:
        """How far the best embedding within the budget stays from the original's keys and values, squared, ``[...]``.

        Args:
            budget: β ≥ 0; infinite for an attacker without a limit.
        """
        multiplier = self.multiplier(budget)[..., None]
        missed = torch.where(multiplier.isinf(), 1.0, multiplier / (self.strengths + multiplier))
        return (self.energies * missed.square()).sum(-1) + self.unreachable

    def norm(self, multiplier: Tensor) -> Tensor:
        """``‖c'‖²`` of the best embeddings under a multiplier, ``[...]``."""
        return (self.strengths * self.energies / (self.strengths + multiplier[..., None]).square()).sum(-1)


@dataclass(frozen=True)
class Reach:
    """What the edited model can answer: ``MᵀGM``, decomposed once for every embedding and budget."""

    strengths: Tensor
    """``σ²``, the eigenvalues of ``MᵀGM`` that are more than rounding, ``[k]``."""
    axes: Tensor
    """``Q``, its eigenvectors, ``[d, k]``."""
    cross: Tensor
    """``MᵀG``, ``[d, d]``."""
    gram: Tensor
    """``G``, ``[d, d]``."""

    @classmethod
    def of(cls, gram: Gram, maps: AnyMap) -> Reach:
        """Of an edited model; whether it has one map or one a layer."""
        if isinstance(gram.total, Factored):
            return _ReachInFactors.of_weights(gram.total, maps)
        edited, cross = maps.grams(gram)
        strengths, axes = torch.linalg.eigh(symmetrized(edited))
        # Against G: a map that answers nothing at all has only rounding.
        largest = torch.maximum(strengths[-1], gram.total.diagonal().max())
        rounding = len(edited) * torch.finfo(edited.dtype).eps * largest
        seen = strengths > rounding
        return cls(strengths[seen], axes[:, seen], cross, gram.total)

    def embeddings(self, rows: Tensor) -> Attacks:
        """One budget a row: ``[..., d]`` → ``[...]``."""
        wide = rows.double()
        energies = self._coordinates(wide).square() / self.strengths
        whole = self._answers(wide)
        return Attacks(self.strengths, energies, (whole - energies.sum(-1)).clamp(min=0), wide.square().sum(-1))

    def prompts(self, rows: Tensor) -> Attacks:
        """One budget a prompt, for the Frobenius norm of all its rows: ``[..., n, d]`` → ``[...]``."""
        single = self.embeddings(rows)
        return Attacks(self.strengths, single.energies.sum(-2), single.unreachable.sum(-1), single.norms.sum(-1))

    def moments(self, erased: Tensor) -> Attacks:
        """One budget for all rows of the moments ``S = Σ w c cᵀ`` ``[d, d]``, their weights in norm and sum alike."""
        projected = self.axes.mT @ self.cross
        energies = ((projected @ erased) * projected).sum(-1).clamp(min=0) / self.strengths
        whole = (self.gram * erased).sum()
        return Attacks(self.strengths, energies, (whole - energies.sum()).clamp(min=0), erased.trace())

    def attack(self, rows: Tensor, multiplier: Tensor) -> Tensor:
        """The embeddings ``(MᵀGM + μI)⁻¹ MᵀG c``, the least ones where μ = 0.

        Args:
            rows: ``c``, ``[..., d]``.
            multiplier: μ of every row, ``[...]``.
        """
        coordinates = self._coordinates(rows.double()) / (self.strengths + multiplier[..., None])
        return coordinates @ self.axes.mT

    def _coordinates(self, rows: Tensor) -> Tensor:
        """``Qᵀ MᵀG c``, ``[..., k]``."""
        return rows @ (self.axes.mT @ self.cross).mT

    def _answers(self, rows: Tensor) -> Tensor:
        """``Σ_l ‖W_l c‖²``, ``[...]``."""
        return ((rows @ self.gram) * rows).sum(-1)


@dataclass(frozen=True)
class _ReachInFactors(Reach):
    """The same of ``G = WᵀW`` with fewer outputs than inputs: ``FFᵀ`` of ``F = W M`` is decomposed, ``[o, o]``.

    ``axes`` are its eigenvectors, ``[o, k]``; those of ``MᵀGM`` are ``Fᵀ q/σ``.
    """

    edited: Tensor
    """``F``, ``[o, d]``."""

    @classmethod
    def of_weights(cls, gram: Factored, maps: AnyMap) -> Reach:
        """Of an edited model."""
        edited = gram.right @ stored(maps)
        strengths, axes = torch.linalg.eigh(symmetrized(edited @ edited.mT))
        largest = torch.maximum(strengths[-1], gram.diagonal().max())
        rounding = gram.shape[0] * torch.finfo(edited.dtype).eps * largest
        seen = strengths > rounding
        return cls(strengths[seen], axes[:, seen], Factored(edited.mT, gram.right), gram, edited)

    def moments(self, erased: Tensor) -> Attacks:
        if not isinstance(erased, Factored):
            answers = self.weights @ erased @ self.weights.mT
            energies = ((self.axes.mT @ answers) * self.axes.mT).sum(-1).clamp(min=0)
            return Attacks(self.strengths, energies, (answers.trace() - energies.sum()).clamp(min=0), erased.trace())
        single = self.embeddings(erased.right)
        return Attacks(self.strengths, single.energies.sum(0), single.unreachable.sum(), single.norms.sum())

    def attack(self, rows: Tensor, multiplier: Tensor) -> Tensor:
        coordinates = self._coordinates(rows.double()) / (self.strengths + multiplier[..., None])
        return ((coordinates / self.strengths.sqrt()) @ self.axes.mT) @ self.edited

    def _coordinates(self, rows: Tensor) -> Tensor:
        return self.strengths.sqrt() * ((rows @ self.weights.mT) @ self.axes)

    def _answers(self, rows: Tensor) -> Tensor:
        return (rows @ self.weights.mT).square().sum(-1)

    @property
    def weights(self) -> Tensor:
        """``W``, ``[o, d]``."""
        assert isinstance(self.gram, Factored)
        return self.gram.right


def residual_figures(gram: Gram, maps: AnyMap, erased: Tensor) -> dict[str, float]:
    """The regeneration residual at some budgets, over all concepts together, as a share of ``Σ‖W_0 c‖²``.

    Read them beside ``mapped_residual``, which has the same denominator.

    Args:
        gram: ``G``.
        maps: ``M``.
        erased: ``S`` of the concepts' own embeddings, ``[d, d]``.

    Returns:
        ``regeneration_residual_at_β`` for every β of ``BUDGETS``.
    """
    attacks = Reach.of(gram, maps).moments(erased)
    whole = (
        trace_product(gram.total, erased) if isinstance(gram.total, Factored) else float((gram.total * erased).sum())
    )
    return {f"regeneration_residual_at_{budget:g}": float(attacks.residual(budget)) / whole for budget in BUDGETS}


def check_budget(budget: float) -> None:
    """Raise a ConfigurationError unless ``budget`` is 0 or greater, or infinite."""
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not budget >= 0:
        raise ConfigurationError(f"budget: {budget!r} makes no sense here; give a share of ‖c‖, 0 or greater.")


def secular_root(strengths: Tensor, weights: Tensor, radius: Tensor) -> Tensor:
    """The μ ≥ 0 with ``Σ_i w_i/(σ_i² + μ)² = ρ²``; 0 where the sum is no larger at 0, infinite for ρ = 0.

    Newton's method on ``1/‖c'‖ − 1/ρ``, which is concave and increasing in μ: from the left of the root it never
    oversteps (Conn, Gould and Toint, *Trust-Region Methods*, 2000, section 7.3).

    Args:
        strengths: ``σ²``, ``[k]``, positive.
        weights: ``w ≥ 0``, ``[..., k]``.
        radius: ρ ≥ 0, ``[...]``.
    """
    if not len(strengths):
        return torch.where(radius > 0, 0.0, math.inf)

    def sums(at: Tensor) -> tuple[Tensor, Tensor]:
        """``‖c'‖`` and ``Σ w/(σ² + μ)³``."""
        shifted = strengths + at[..., None]
        squared = weights / shifted.square()
        return squared.sum(-1).sqrt(), (squared / shifted).sum(-1)

    # With all strengths as large as the largest the root would be here: no later than where it is.
    root = (weights.sum(-1).sqrt() / radius - strengths.max()).nan_to_num(0.0, posinf=math.inf).clamp(min=0)
    open_ = radius > 0
    root = torch.where(open_, root, math.inf)
    for _ in range(STEPS):
        size, slope = sums(torch.where(open_, root, 1.0))
        step = size.square() * (size - radius) / (slope * radius)
        wanted = open_ & (size > radius) & (step > torch.finfo(step.dtype).eps * root)
        if not bool(wanted.any()):
            break
        root = torch.where(wanted, root + step, root)
    return root
