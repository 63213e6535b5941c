"""What an edit adds to the weights as low-rank factors, against plain decompositions of the layers themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap, LayerMaps, narrow
from rece_lightning.core.gram import Gram
from rece_lightning.core.low_rank import LowRank, error_curve, low_rank, low_rank_of, sufficient_rank

WIDTH, RANK = 20, 7
OUTPUTS = (12, 12, 30, 8)


def layers(outputs: tuple[int, ...] = OUTPUTS, seed: int = 0) -> list[Tensor]:
    """Projections whose sizes differ: what the factors of M − I alone would not weigh."""
    random = torch.Generator().manual_seed(seed)
    return [
        10.0 ** (1 - place) * torch.randn(rows, WIDTH, dtype=torch.float64, generator=random)
        for place, rows in enumerate(outputs)
    ]


def edit(seed: int = 1) -> Tensor:
    """A map that adds something of rank ``RANK``, its directions over five orders of magnitude."""
    random = torch.Generator().manual_seed(seed)
    left = torch.randn(WIDTH, RANK, dtype=torch.float64, generator=random)
    right = torch.randn(RANK, WIDTH, dtype=torch.float64, generator=random)
    return torch.eye(WIDTH, dtype=torch.float64) + left * torch.logspace(0, -5, RANK, dtype=torch.float64) @ right


def gram_of(weights: list[Tensor]) -> Gram:
    return Gram.of(((str(place), weight) for place, weight in enumerate(weights)), keep_layers=True)


def lost(weights: list[Tensor], matrix: Tensor, up: Tensor, down: Tensor) -> float:
    """``Σ_l ‖W_l (M − I) − W_l U V‖²``, a layer at a time."""
    change = matrix - torch.eye(WIDTH, dtype=torch.float64)
    return sum(float((weight @ change - weight @ up @ down).square().sum()) for weight in weights)


def total(weights: list[Tensor], matrix: Tensor) -> float:
    return lost(weights, matrix, torch.zeros(WIDTH, 1).double(), torch.zeros(1, WIDTH).double())


def test_full_rank_is_exact_and_no_larger_than_needed() -> None:
    part = low_rank(edit() - torch.eye(WIDTH), gram_of(layers()).total)
    assert part.rank == RANK
    torch.testing.assert_close(part.up @ part.down, edit() - torch.eye(WIDTH), rtol=0, atol=1e-12)
    up, down = part.factors(RANK)
    torch.testing.assert_close(up @ down, edit() - torch.eye(WIDTH), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", range(RANK + 1))
def test_every_rank_equals_the_truncated_decomposition_of_the_stacked_layers(rank: int) -> None:
    weights, matrix = layers(), edit()
    stacked = torch.cat([weight @ (matrix - torch.eye(WIDTH)) for weight in weights])
    values = torch.linalg.svdvals(stacked)
    plain = float(values[rank:].square().sum())
    [part] = low_rank_of(EmbeddingMap(matrix), gram_of(weights))
    ours = lost(weights, matrix, *part.factors(rank))
    assert ours == pytest.approx(plain, rel=1e-6, abs=1e-20 * float(values[0]) ** 2 + 1e-22)
    curve = error_curve([part])
    assert float(curve[rank]) == pytest.approx((plain / float(values.square().sum())) ** 0.5, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0])
def test_no_perturbed_down_projection_is_better(rank: int, size: float) -> None:
    """Not even with the best up-projection of every layer for itself."""
    weights, matrix = layers(), edit()
    change = matrix - torch.eye(WIDTH)
    [part] = low_rank_of(EmbeddingMap(matrix), gram_of(weights))
    best = lost(weights, matrix, *part.factors(rank))
    random = torch.Generator().manual_seed(rank)
    for _ in range(50):
        step = torch.randn(rank, WIDTH, dtype=torch.float64, generator=random)
        down = part.down[:rank] + size * step * part.down[:rank].norm() / step.norm()
        projection = torch.linalg.pinv(down) @ down
        other = sum(float((weight @ change - weight @ change @ projection).square().sum()) for weight in weights)
        assert other > best


def test_weights_decide_the_order_and_not_the_map_alone() -> None:
    """The plain decomposition of M − I loses more of the weights at the same rank."""
    weights, matrix = layers(), edit()
    left, values, right = torch.linalg.svd(matrix - torch.eye(WIDTH))
    [part] = low_rank_of(EmbeddingMap(matrix), gram_of(weights))
    plain = lost(weights, matrix, left[:, :2] * values[:2], right[:2])
    assert lost(weights, matrix, *part.factors(2)) < 0.99 * plain


def test_a_map_a_layer_is_factored_for_its_own_layer() -> None:
    weights = layers()
    maps = LayerMaps(torch.stack([edit(seed) for seed in range(len(weights))]))
    parts = low_rank_of(maps, gram_of(weights))
    missing = 0.0
    for part, weight, matrix in zip(parts, weights, maps.matrices, strict=True):
        values = torch.linalg.svdvals(weight @ (matrix - torch.eye(WIDTH)))
        assert lost([weight], matrix, *part.factors(2)) == pytest.approx(float(values[2:].square().sum()), rel=1e-6)
        missing += float(values[2:].square().sum())
    whole = sum(total([weight], matrix) for weight, matrix in zip(weights, maps.matrices, strict=True))
    assert float(error_curve(parts)[2]) == pytest.approx((missing / whole) ** 0.5, rel=1e-6)


def test_a_higher_rank_than_there_is_pads_with_zeros() -> None:
    [part] = low_rank_of(EmbeddingMap(edit()), gram_of(layers()))
    up, down = part.factors(RANK + 3)
    assert up.shape == (WIDTH, RANK + 3)
    assert not up[:, RANK:].any()
    assert not down[RANK:].any()
    torch.testing.assert_close(up @ down, part.up @ part.down, rtol=0, atol=1e-12)


def test_directions_that_no_layer_sees_are_left_out() -> None:
    """Fewer outputs than the embeddings are wide: G is singular, and the weights change in less than M − I has."""
    weights, matrix = layers((3,)), edit()
    [part] = low_rank_of(EmbeddingMap(matrix), gram_of(weights))
    assert part.rank == 3
    assert lost(weights, matrix, *part.factors(3)) < 1e-24 * total(weights, matrix)


def test_factors_stay_in_the_range_of_a_half() -> None:
    [part] = low_rank_of(EmbeddingMap(edit()), gram_of(layers()))
    up, down = part.factors(RANK)
    made = torch.cat([weight @ up for weight in layers()])
    for place in range(RANK):
        strength = float(part.energies[place]) ** 0.25
        assert float(down[place].norm()) == pytest.approx(strength)
        assert float(made[:, place].norm()) == pytest.approx(strength)


def test_an_edit_that_changes_nothing_has_no_directions() -> None:
    for maps in (EmbeddingMap.identity(WIDTH), LayerMaps.identity(len(OUTPUTS), WIDTH)):
        maps_: AnyMap = maps
        parts = low_rank_of(maps_, gram_of(layers()))
        assert [part.rank for part in parts] == [0] * len(parts)
        assert error_curve(parts).tolist() == [0.0]
        assert sufficient_rank(parts) == 0
        assert not parts[0].factors(1)[0].any()


def test_the_sufficient_rank_drops_what_float32_cannot_hold() -> None:
    part = LowRank(torch.eye(4).double(), torch.eye(4).double(), torch.tensor([1.0, 1e-6, 1e-13, 1e-18]).double())
    assert sufficient_rank([part]) == 3
    assert sufficient_rank([part], tolerance=1e-2) == 1
    assert error_curve([part]).diff().le(0).all()


def test_a_change_in_factors_is_factored_as_the_matrix_that_it_is() -> None:
    width, rank = 24, 4
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.randn(*shape, generator=generator).double() for shape in ((width, rank), (rank, width)))
    weights = torch.randn(40, width, generator=generator).double()
    gram = Gram(weights.mT @ weights)

    (found,) = low_rank_of(narrow(left, right), gram)
    (formed,) = low_rank_of(EmbeddingMap(narrow(left, right).matrix), gram)

    torch.testing.assert_close(found.energies, formed.energies)
    torch.testing.assert_close(found.up @ found.down, formed.up @ formed.down)
