"""The Gram matrix: sums over layers, and projections that it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given

from rece_lightning.core import Gram
from rece_lightning.core.errors import BaseModelError, ReceError
from tests.helpers.problems import Problem, erasure_problems, random_problem, relative


@given(problem=erasure_problems())
def test_gram_is_the_sum_of_the_layers_grams(problem: Problem) -> None:
    gram = problem.gram
    rows = torch.cat(problem.weights)
    assert relative(gram.total, sum(torch.outer(row, row) for row in rows)) < 1e-13  # type: ignore[arg-type]
    assert gram.layers is not None
    for layer, weight in zip(gram.layers, problem.weights, strict=True):
        assert relative(layer, weight.T @ weight) < 1e-13
    assert gram.width == problem.width
    assert gram.scale == pytest.approx(float(rows.square().sum()) / problem.width, rel=1e-12)


def test_layers_are_kept_only_on_request() -> None:
    problem = random_problem(1)
    named = [("a", problem.weights[0]), ("b", problem.weights[1])]
    assert Gram.of(named).layers is None
    assert torch.equal(Gram.of(named).total, Gram.of(iter(named), keep_layers=True).total)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_products_of_half_and_single_weights_are_float64(dtype: torch.dtype) -> None:
    weight = (100 * random_problem(1).weights[0]).to(dtype)
    total = Gram.of([("a", weight)]).total
    assert total.dtype == torch.float64
    wide = weight.double()
    # Float64's own rounding, in whatever order a sum is added: float32's would be 2^29 times as much.
    assert bool(((total - wide.T @ wide).abs() <= 2 * len(wide) * 2.0**-53 * (wide.abs().T @ wide.abs())).all())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_projection_with_nan_or_infinity_is_refused_by_name(value: float) -> None:
    weights = [weight.clone() for weight in random_problem(1).weights[:2]]
    weights[1][2, 3] = value
    with pytest.raises(BaseModelError, match=r"^second\.to_k holds NaN or infinity.*fetch it again"):
        Gram.of([("first.to_k", weights[0]), ("second.to_k", weights[1])])


def test_a_model_without_projections_is_refused() -> None:
    with pytest.raises(BaseModelError, match="no text-reading projection"):
        Gram.of([])


def test_projections_of_differing_widths_are_refused_with_both_widths() -> None:
    with pytest.raises(BaseModelError, match=r"^b\.to_v reads embeddings 5 wide, other projections 4.*model\.layers"):
        Gram.of([("a.to_k", torch.ones(3, 4)), ("b.to_v", torch.ones(3, 5))])


def test_base_model_errors_are_of_the_projects_class() -> None:
    assert issubclass(BaseModelError, ReceError)
