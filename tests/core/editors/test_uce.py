"""UCE's edit from rows, where there are few of them, is the edit from moments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.core import UCE, EditProblem, EmbeddingMap, Gram
from rece_lightning.core.editors.uce import edit, edit_rows
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import drawn_pairs, drawn_preserved, relative

WIDTH = 24


@given(count=st.integers(1, 40), seed=st.integers(0, 1000), lamb=st.floats(0.01, 10), scale=st.floats(0, 5))
def test_the_edit_from_rows_is_the_edit_from_moments(count: int, seed: int, lamb: float, scale: float) -> None:
    pairs, preserved, scales = drawn_pairs(count, WIDTH, seed), drawn_preserved(WIDTH), UCE(0.7, scale, lamb)
    by_rows, by_moments = edit_rows(pairs, preserved, scales), edit(pairs.moments(preserved), scales)
    assert relative(by_rows.matrix, by_moments.matrix) < 1e-9
    assert (by_rows.factors is not None) == (3 * count <= WIDTH)


def test_called_it_takes_rows_where_they_are_given_and_moments_otherwise() -> None:
    pairs, preserved = drawn_pairs(4, WIDTH, 1), drawn_preserved(WIDTH)
    gram, identity = Gram(torch.eye(WIDTH, dtype=torch.float64)), EmbeddingMap.identity(WIDTH)
    moments = pairs.moments(preserved)
    # What is preserved is the problem's own, whatever comes with the moments.
    other = pairs.moments(torch.zeros_like(preserved))
    by_rows = UCE()(EditProblem(pairs, preserved, gram, identity))
    assert torch.equal(by_rows.matrix, edit_rows(pairs, preserved, UCE()).matrix)
    for given_moments in (moments, other):
        found = UCE()(EditProblem(given_moments, preserved, gram, identity))
        assert torch.equal(found.matrix, edit(moments, UCE()).matrix)


def test_a_singular_system_is_refused_from_rows_too() -> None:
    with pytest.raises(ConfigurationError, match="editor's lamb"):
        edit_rows(drawn_pairs(3, WIDTH, 0), torch.zeros(WIDTH, WIDTH, dtype=torch.float64), UCE(1.0, 0.1, 0.0))
