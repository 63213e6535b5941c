"""CURE's spectral eraser beside its formula, from the singular vectors of the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import CURE
from rece_lightning.core.editors.cure import spectral_projector
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import Problem, erasure_problems, projected_map, random_problem, relative

ALPHAS = st.sampled_from([0.5, 1.0, 2.0, 5.0, 100.0])


def spectral(rows: Tensor, alpha: float) -> Tensor:
    """``U diag(α r/((α − 1) r + 1)) Uᵀ`` of rows, each weighted by the root of its weight."""
    if not len(rows):
        return torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    return right.mT @ torch.diag(alpha * shares / ((alpha - 1) * shares + 1)) @ right


def forgotten(problem: Problem) -> Tensor:
    return torch.cat([pair.weight**0.5 * pair.first_rows for pair in problem.pairs])


@given(problem=erasure_problems(), alpha=ALPHAS)
def test_every_layer_is_the_papers_formula(problem: Problem, alpha: float) -> None:
    """``W (I − P_f + P_f P_r)``, row matrices decomposed as the paper does."""
    forget, retain = spectral(forgotten(problem), alpha), spectral(problem.preserved, alpha)
    found = projected_map(problem, CURE(alpha)).matrix
    for weight in problem.weights:
        assert relative(weight @ found, weight - weight @ (forget - forget @ retain)) < 1e-6


@given(problem=erasure_problems(), alpha=ALPHAS, factor=st.sampled_from([1e-3, 40.0]))
def test_neither_the_size_of_embeddings_nor_the_targets_enter(problem: Problem, alpha: float, factor: float) -> None:
    pairs = [
        replace(pair, first_rows=factor * pair.first_rows, first_target_rows=-3 * pair.first_target_rows)
        for pair in problem.pairs
    ]
    other = replace(problem, pairs=pairs, preserved=factor * problem.preserved)
    expected = projected_map(problem, CURE(alpha)).matrix
    assert relative(projected_map(other, CURE(alpha)).matrix, expected) < 1e-6


@given(problem=erasure_problems(), small=st.floats(0.2, 5.0), times=st.floats(1.1, 50.0))
def test_a_larger_alpha_takes_more_of_every_direction(problem: Problem, small: float, times: float) -> None:
    moment = forgotten(problem).mT @ forgotten(problem)
    grown = spectral_projector(moment, small * times) - spectral_projector(moment, small)
    assert float(torch.linalg.eigvalsh(grown).min()) > -1e-9


def test_a_single_row_is_projected_out() -> None:
    """All energy lies in one direction: its weight is 1 whatever α is."""
    problem = random_problem(5, width=6, tokens=(1,), preserved=0)
    row = forgotten(problem)[0]
    for alpha in (0.5, 2.0, 50.0):
        found = projected_map(problem, CURE(alpha)).matrix
        expected = torch.eye(6, dtype=torch.float64) - torch.outer(row, row) / (row @ row)
        assert relative(found, expected) < 1e-9


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_an_alpha_that_makes_no_sense_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match=r"CURE\.alpha: "):
        CURE(alpha)
