"""The edit from rows is the edit from moments, and a map that knows its factors is the map without them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.core import EmbeddingMap, Gram, Moments, edit
from rece_lightning.core.derivation import derive
from rece_lightning.core.editors.uce import UCE
from rece_lightning.core.eraser import Evidence, LoopSettings, RECELoop
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.moments import RowPairs
from tests.helpers.problems import relative

WIDTH = 24


def rows(count: int, seed: int) -> RowPairs:
    generator = torch.Generator().manual_seed(seed)
    concept, target = (torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return RowPairs(concept, target, 0.5 + torch.rand(count, generator=generator, dtype=torch.float64))


def kept(seed: int = 9) -> torch.Tensor:
    sample = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sample.mT @ sample


def gram(seed: int = 4) -> Gram:
    generator = torch.Generator().manual_seed(seed)
    return Gram.of((str(layer), torch.randn(16 + layer, WIDTH, generator=generator)) for layer in range(3))


@given(count=st.integers(1, 40), seed=st.integers(0, 1000), lamb=st.floats(0.01, 10), scale=st.floats(0, 5))
def test_the_edit_from_rows_is_the_edit_from_moments(count: int, seed: int, lamb: float, scale: float) -> None:
    pairs, scales = rows(count, seed), UCE(0.7, scale, lamb)
    by_rows, by_moments = pairs.edit(kept(), scales), edit(pairs.moments(kept()), scales)
    assert relative(by_rows.matrix, by_moments.matrix) < 1e-9
    assert (by_rows.factors is not None) == (3 * count <= WIDTH)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("regularizer", ["norm", "standard", "surrogate"])
@pytest.mark.parametrize("count", [2, 4, 12])
def test_the_loop_on_rows_is_the_loop_on_moments(count: int, regularizer: str, accumulate: bool) -> None:
    first, whole = rows(count - 1, 1), rows(count, 2)
    settings = LoopSettings(regularizer=regularizer, accumulate=accumulate)
    on_moments = Evidence(first.moments(kept()), whole.moments(kept()))
    on_rows = Evidence(on_moments.first, on_moments.whole, first_rows=first, whole_rows=whole)
    assert (
        relative(
            RECELoop(gram(), on_rows, settings).run(4).of_layer(0),
            RECELoop(gram(), on_moments, settings).run(4).of_layer(0),
        )
        < 1e-8
    )


def test_rows_are_derived_one_by_one_as_their_moments_are_together() -> None:
    pairs = rows(5, 3)
    derivation = derive(gram(), pairs.edit(kept(), UCE()), 0.1, regularizer="standard")
    together = pairs.moments(kept()).derived(derivation)
    alone = pairs.derived(derivation).moments(kept())
    for name in ("erased", "cross", "target", "preserved"):
        assert relative(getattr(alone, name), getattr(together, name)) < 1e-10


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_a_map_with_factors_is_the_map_without(counts: list[int], seed: int) -> None:
    maps = EmbeddingMap(torch.eye(WIDTH, dtype=torch.float64))
    for place, count in enumerate(counts):
        step = rows(count, seed + place).edit(kept(), UCE())
        maps = step if place == 0 else maps @ step
    plain = EmbeddingMap(maps.matrix)
    weight = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert relative(maps.applied_to(weight), plain.applied_to(weight)) < 1e-12
    assert (maps.factors is not None) == (3 * sum(counts) <= WIDTH)
    if maps.factors is not None:
        left, right = maps.factors
        assert relative(left @ right, maps.change) < 1e-10


def test_a_singular_system_is_refused_from_rows_too() -> None:
    with pytest.raises(ConfigurationError, match="lamb"):
        rows(3, 0).edit(torch.zeros(WIDTH, WIDTH, dtype=torch.float64), UCE(1.0, 0.1, 0.0))


def test_weights_count_as_repeated_rows() -> None:
    pair = rows(1, 7)
    twice = RowPairs(pair.concept, pair.target, 2 * torch.ones(1, dtype=torch.float64))
    one = RowPairs(pair.concept, pair.target, torch.ones(1, dtype=torch.float64))
    both = one.erasing_also(one)
    assert relative(both.edit(kept(), UCE()).matrix, twice.edit(kept(), UCE()).matrix) < 1e-12
    assert isinstance(both.moments(kept()), Moments)
