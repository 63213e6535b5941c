"""What a map does to weights, embeddings and other maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.core import UCE, Derivation, EmbeddingMap, Gram, LayerMaps
from rece_lightning.core.budget import Reach
from rece_lightning.core.editors.uce import edit_rows
from rece_lightning.core.embedding_map import apply_to_weight, beside
from tests.helpers.problems import (
    Problem,
    core_maps,
    core_weights,
    drawn_pairs,
    drawn_preserved,
    erasure_problems,
    random_problem,
    random_rows,
    relative,
)


def random_map(width: int, seed: int) -> EmbeddingMap:
    return EmbeddingMap(random_rows(width, width, "independent", torch.Generator().manual_seed(seed)))


def test_composing_maps_edits_the_edited_model() -> None:
    """``W (M E)`` is ``(W M) E``: first the left one; the other order is another model."""
    first, then = random_map(6, 1), random_map(6, 2)
    weight = random_problem(3, width=6).weights[0]
    step_by_step = apply_to_weight(apply_to_weight(weight, first.matrix), then.matrix)
    assert relative(apply_to_weight(weight, (first @ then).matrix), step_by_step) < 1e-14
    assert relative(apply_to_weight(weight, (then @ first).matrix), step_by_step) > 0.1
    # On embeddings the last edit comes first: W_0 M E c.
    rows = random_rows(3, 6, "independent", torch.Generator().manual_seed(4))
    mapped = first.apply_to_embeddings(then.apply_to_embeddings(rows))
    assert relative((first @ then).apply_to_embeddings(rows), mapped) < 1e-14


def test_the_identity_leaves_every_bit_alone() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        weight = random_problem(1).weights[0].to(dtype)
        identity = EmbeddingMap.identity(8)
        assert torch.equal(apply_to_weight(weight, identity.matrix), weight)
        assert torch.equal(identity.apply_to_embeddings(weight), weight)
        assert torch.equal((identity @ random_map(8, 1)).matrix, random_map(8, 1).matrix)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_weight_is_rounded_once(dtype: torch.dtype) -> None:
    """The product is float64; the result is the nearest number of the weight's dtype, not a sum of rounded terms."""
    generator = torch.Generator().manual_seed(0)
    weight = random_rows(20, 24, "common", generator).to(dtype)
    matrix = random_rows(24, 24, "independent", generator)
    found = apply_to_weight(weight, matrix)
    assert found.dtype == dtype
    assert torch.equal(found, (weight.double() @ matrix).to(dtype))
    assert not torch.equal(found, weight @ matrix.to(dtype)), "rounding shows nowhere here: a test of nothing"
    rows = weight[:3]
    mapped = EmbeddingMap(matrix).apply_to_embeddings(rows)
    assert mapped.dtype == dtype
    assert torch.equal(mapped, (rows.double() @ matrix.T).to(dtype))


@given(problem=erasure_problems(), epochs=st.integers(0, 3))
def test_editing_the_weights_is_mapping_the_embeddings(problem: Problem, epochs: int) -> None:
    """``(W_0 M) c`` is ``W_0 (M c)``, for embeddings in any batch shape."""
    maps = core_maps(problem, epochs)
    assert isinstance(maps, EmbeddingMap)
    rows = torch.cat([problem.rows, problem.preserved])
    mapped = maps.apply_to_embeddings(rows)
    for before, after in zip(problem.weights, core_weights(problem, maps), strict=True):
        assert torch.linalg.norm(rows @ after.T - mapped @ before.T) <= 1e-12 * torch.linalg.norm(rows) * (
            torch.linalg.norm(before) * torch.linalg.norm(maps.matrix)
        )
    batch = torch.stack([rows, 2 * rows])
    torch.testing.assert_close(maps.apply_to_embeddings(batch)[1], 2 * mapped)


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_a_map_with_factors_is_the_map_without(counts: list[int], seed: int) -> None:
    width = 24
    maps = EmbeddingMap.identity(width)
    for place, count in enumerate(counts):
        step = edit_rows(drawn_pairs(count, width, seed + place), drawn_preserved(width), UCE())
        maps = step if place == 0 else maps @ step
    plain = EmbeddingMap(maps.matrix)
    weight = torch.randn(7, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert relative(maps.applied_to(weight), plain.applied_to(weight)) < 1e-12
    assert (maps.factors is not None) == (3 * sum(counts) <= width)
    if maps.factors is not None:
        left, right = maps.factors
        assert relative(left @ right, maps.change) < 1e-10


def test_layer_maps_hold_each_layer_its_own_map() -> None:
    problem = random_problem(5, width=6, outs=(3, 7, 4))
    one, other = (LayerMaps(torch.stack([random_map(6, seed + i).matrix for i in range(3)])) for seed in (10, 20))
    both = one @ other
    edited, cross, change = (torch.zeros(6, 6, dtype=torch.float64) for _ in range(3))
    for layer, weight in enumerate(problem.weights):
        assert torch.equal(one.of_layer(layer), random_map(6, 10 + layer).matrix)
        step_by_step = apply_to_weight(apply_to_weight(weight, one.of_layer(layer)), other.of_layer(layer))
        now = apply_to_weight(weight, both.of_layer(layer))
        assert relative(now, step_by_step) < 1e-14
        edited += now.T @ now
        cross += now.T @ weight
        change += (now - weight).T @ (now - weight)
    assert relative(both.edited_gram(problem.gram), edited) < 1e-13
    assert relative(both.cross_gram(problem.gram), cross) < 1e-13
    assert relative(both.change_gram(problem.gram), change) < 1e-13
    torch.testing.assert_close(both.change + torch.eye(6, dtype=torch.float64), both.matrices)


@given(problem=erasure_problems(), seed=st.integers(0, 1000))
def test_one_map_for_all_layers_is_the_same_map_in_each(problem: Problem, seed: int) -> None:
    shared = random_map(problem.width, seed)
    layers = LayerMaps(shared.matrix.repeat(len(problem.weights), 1, 1))
    for layer in range(len(problem.weights)):
        assert torch.equal(shared.of_layer(layer), layers.of_layer(layer))
    for one, other in (
        (shared.edited_gram(problem.gram), layers.edited_gram(problem.gram)),
        (shared.cross_gram(problem.gram), layers.cross_gram(problem.gram)),
        (shared.change_gram(problem.gram), layers.change_gram(problem.gram)),
    ):
        assert relative(one, other) < 1e-12


def test_identity_layer_maps_are_identities() -> None:
    maps = LayerMaps.identity(3, 4)
    assert maps.matrices.shape == (3, 4, 4)
    assert torch.equal(maps.change, torch.zeros(3, 4, 4, dtype=torch.float64))


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("a_layer", [False, True])
def test_beside_the_derived_embedding_answers_all_projections_as_one_system(a_layer: bool) -> None:
    """An attacker meets edited and untouched projections together: from the projections themselves."""
    width = 6
    values = [drawn(5, width, seed=1), drawn(7, width, seed=2)]
    keys = [drawn(5, width, seed=3), drawn(4, width, seed=4)]
    matrices = [torch.eye(width, dtype=torch.float64) + 0.3 * drawn(width, width, seed=5 + one) for one in range(2)]
    if not a_layer:
        matrices[1] = matrices[0]
    gram = Gram.of((("", value) for value in values), keep_layers=a_layer)
    maps = LayerMaps(torch.stack(matrices)) if a_layer else EmbeddingMap(matrices[0])
    whole, met = beside(gram, maps, Gram.of(("", key) for key in keys))
    concept, ridge = drawn(3, width, seed=9), 0.2

    # min Σ_v ‖W_v M_v c' − W_v c‖² + Σ_k ‖W_k (c' − c)‖² + λ‖c'‖² as one least-squares problem.
    edited = torch.cat([value @ one for value, one in zip(values, matrices, strict=True)] + keys)
    original = torch.cat(values + keys)
    system = torch.cat([edited, ridge**0.5 * torch.eye(width, dtype=torch.float64)])
    wanted = torch.cat([original @ concept.mT, torch.zeros(width, 3, dtype=torch.float64)])
    best = torch.linalg.lstsq(system, wanted).solution.mT

    torch.testing.assert_close(Derivation(ridge)(whole, met).apply(concept), best, rtol=1e-9, atol=1e-9)
    free = torch.linalg.lstsq(edited, original @ concept.mT).solution.mT
    missed = (free @ edited.mT - concept @ original.mT).square().sum(-1)
    reach = Reach.of(whole, met).embeddings(concept)
    torch.testing.assert_close(reach.residual(float("inf")), missed, rtol=1e-8, atol=1e-9)
    assert whole.outputs == sum(len(one) for one in [*values, *keys])
