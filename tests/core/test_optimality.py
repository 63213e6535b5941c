"""What the closed forms return is the minimiser: the objectives are written out plainly and asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import Derivation, LayerMaps
from rece_lightning.core.editors.tensor import edit_tensor
from rece_lightning.core.editors.uce import edit
from tests.helpers.plain import Erased, plain_derive, plain_edit
from tests.helpers.problems import (
    Problem,
    core_maps,
    core_weights,
    edited_maps,
    erasure_problems,
    random_problem,
    tensor_problems,
)

REGULARIZERS = [("norm", "both"), ("standard", "both"), ("surrogate", "second"), ("surrogate", "both")]
ROUNDING = 1e-10
TENSOR_ROUNDING = 1e-8


def edit_objective(problem: Problem, present: Tensor, tensor: bool = False) -> Callable[[Tensor], Tensor]:
    """UCE's objective of one layer, as a function of its new weight.

    ``η Σ w ‖W c − v*‖² + λ₁ Σ ‖W c_j − W_t c_j‖² + λ₂ ‖W − W_t‖²``
    """
    scales = problem.scales

    def objective(weight: Tensor) -> Tensor:
        total = scales.lamb * (weight - present).square().sum()
        for pair in problem.pairs:
            share = torch.zeros((), dtype=torch.float64)
            if tensor:
                olds = [present @ row for row in pair.rows]
                targets = [present @ row for row in pair.target_rows]
                share = sum(old @ target for old, target in zip(olds, targets, strict=True)) / sum(
                    old @ old for old in olds
                )
            for row, target in zip(pair.rows, pair.target_rows, strict=True):
                wanted = present @ target - share * (present @ row)
                total = total + scales.erase_scale * pair.weight * (weight @ row - wanted).square().sum()
        for row in problem.preserved:
            total = total + scales.preserve_scale * (weight @ row - present @ row).square().sum()
        return total

    return objective


def derivation_objective(
    problem: Problem, present: list[Tensor], concept: Tensor, target: Tensor, regularizer: str, items: str
) -> Callable[[Tensor], Tensor]:
    """RECE's objective of one row, as a function of the derived row: ``Σ ‖W_t c' − W_0 c‖²`` and the penalty."""
    scale = problem.derivation_scale

    def objective(derived: Tensor) -> Tensor:
        layers = list(zip(problem.weights, present, strict=True))
        total = sum((now @ derived - before @ concept).square().sum() for before, now in layers)
        if regularizer == "norm":
            total = total + scale * derived.square().sum()
        if regularizer == "standard":
            total = total + scale * (derived - target).square().sum()
        if regularizer == "surrogate" and items in ("first", "both"):
            total = total + scale * sum((now @ derived - now @ concept).square().sum() for now in present)
        if regularizer == "surrogate" and items in ("second", "both"):
            total = total + scale * (derived - concept).square().sum()
        return total

    return objective


def gradient(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    point = at.clone().requires_grad_(True)
    return torch.autograd.grad(objective(point), point)[0]


def assert_minimises(objective: Callable[[Tensor], Tensor], found: Tensor, rounding: float = ROUNDING) -> None:
    """The gradient is zero to rounding, beside the one at 0, and no perturbation of any size lowers the objective."""
    size = torch.linalg.norm(gradient(objective, torch.zeros_like(found)))
    assert torch.linalg.norm(gradient(objective, found)) <= rounding * size
    generator = torch.Generator().manual_seed(0)
    least = objective(found)
    for exponent in range(-5, 2):
        step = torch.randn(found.shape, generator=generator, dtype=torch.float64)
        step = step * float(torch.linalg.norm(found) / torch.linalg.norm(step) * 10.0**exponent)
        for sign in (-1, 1):
            assert objective(found + sign * step) >= least * (1 - 1e-13)
    # Towards nothing at all: where a term was forgotten, shrinking usually pays.
    for share in (0.9, 0.99, 0.999, 1.001, 1.01):
        assert objective(share * found) >= least * (1 - 1e-13)


@given(problem=erasure_problems(), epochs=st.integers(0, 2))
def test_edit_is_the_minimiser_in_every_layer(problem: Problem, epochs: int) -> None:
    """Of UCE's objective, for original weights and for weights edited before."""
    maps = core_maps(problem, epochs)
    edited = core_weights(problem, maps @ edit(problem.moments, problem.scales))  # type: ignore[operator]
    for present, found in zip(core_weights(problem, maps), edited, strict=True):
        assert_minimises(edit_objective(problem, present), found)


@given(problem=tensor_problems(), epochs=st.integers(0, 2))
def test_tensor_edit_is_the_minimiser_in_every_layer(problem: Problem, epochs: int) -> None:
    maps = core_maps(problem, epochs, technique="tensor")
    preserved = problem.preserving.preserved
    step = edit_tensor(problem.prompts, preserved, problem.gram, maps, problem.scales)  # type: ignore[arg-type]
    edited = core_weights(problem, maps @ step)  # type: ignore[operator]
    for present, found in zip(core_weights(problem, maps), edited, strict=True):
        assert_minimises(edit_objective(problem, present, tensor=True), found, rounding=TENSOR_ROUNDING)


@given(problem=erasure_problems(), regularizer=st.sampled_from(REGULARIZERS))
def test_derived_row_is_the_minimiser(problem: Problem, regularizer: tuple[str, str]) -> None:
    """Of RECE's objective under every regularizer, for one map and for one a layer."""
    name, items = regularizer
    for maps in edited_maps(problem):
        present = core_weights(problem, maps)
        derivation = Derivation(problem.derivation_scale, name, items)(problem.gram, maps)
        found = derivation.apply(problem.rows, problem.target_rows)
        rounding = TENSOR_ROUNDING if isinstance(maps, LayerMaps) else ROUNDING
        for row in range(0, len(found), 3):
            concept, target = problem.rows[row], problem.target_rows[row]
            objective = derivation_objective(problem, present, concept, target, name, items)
            assert_minimises(objective, found[row], rounding)


@pytest.mark.parametrize("seed", range(5))
def test_derived_row_of_surrogate_first_is_the_minimiser(seed: int) -> None:
    problem = random_problem(seed, width=6, tokens=(2, 1))
    maps = core_maps(problem, 1)
    derivation = Derivation(0.1, "surrogate", "first")(problem.gram, maps)
    for concept, found in zip(problem.rows, derivation.apply(problem.rows), strict=True):
        present = core_weights(problem, maps)
        assert_minimises(derivation_objective(problem, present, concept, concept, "surrogate", "first"), found)


@given(problem=erasure_problems())
def test_the_oracle_minimises_too(problem: Problem) -> None:
    """The plain implementation that the others are compared with is itself right."""
    erased = [Erased(pair.rows, pair.target_rows, pair.weight) for pair in problem.pairs]
    for technique in ("replace", "tensor"):
        for weight in problem.weights:
            found = plain_edit(weight, erased, problem.preserved, technique=technique, **asdict(problem.scales))
            assert_minimises(edit_objective(problem, weight, technique == "tensor"), found)
    present = [plain_edit(weight, erased, problem.preserved, **asdict(problem.scales)) for weight in problem.weights]
    concept, target = problem.rows[0], problem.target_rows[0]
    for name, items in REGULARIZERS:
        found = plain_derive(problem.weights, present, concept, target, problem.derivation_scale, name, items)
        assert_minimises(derivation_objective(problem, present, concept, target, name, items), found)
