"""What remains of a concept under its own words: against the sum over layers and rows, and at its fixed points."""

from __future__ import annotations

import torch

from rece_lightning.core.diagnostics import remaining_answer
from rece_lightning.core.embedding_map import EmbeddingMap, LayerMaps
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


WEIGHTS = [("a", random(7, 5, seed=1)), ("b", random(4, 5, seed=2))]
CONCEPTS, TARGETS = random(6, 5, seed=3), random(6, 5, seed=4)
MOMENTS = Moments.of(CONCEPTS, TARGETS)
GRAM = Gram.of(WEIGHTS, keep_layers=True)


def plain(maps: list[torch.Tensor]) -> float:
    """Layer by layer, row by row."""
    kept = size = 0.0
    for (_, weight), matrix in zip(WEIGHTS, maps, strict=True):
        for concept, target in zip(CONCEPTS, TARGETS, strict=True):
            way = weight @ (concept - target)
            kept += float((weight @ matrix @ concept - weight @ target) @ way)
            size += float(way @ way)
    return kept / size


def test_it_is_the_sum_over_layers_and_rows() -> None:
    one, other = random(5, 5, seed=5), random(5, 5, seed=6)
    torch.testing.assert_close(remaining_answer(GRAM, EmbeddingMap(one), MOMENTS), plain([one, one]))
    layers = LayerMaps(torch.stack([one, other]))
    torch.testing.assert_close(remaining_answer(GRAM, layers, MOMENTS), plain([one, other]))


def test_it_is_one_unedited_and_zero_at_the_target() -> None:
    assert abs(remaining_answer(GRAM, EmbeddingMap.identity(5), MOMENTS) - 1) < 1e-12
    few = Moments.of(CONCEPTS[:4], TARGETS[:4])
    onto = TARGETS[:4].mT @ torch.linalg.pinv(CONCEPTS[:4].mT)  # every concept row to its target row
    assert abs(remaining_answer(GRAM, EmbeddingMap(onto), few)) < 1e-12


def test_a_concept_that_is_its_own_target_has_nothing_to_erase() -> None:
    assert remaining_answer(GRAM, EmbeddingMap.identity(5), Moments.of(CONCEPTS, CONCEPTS)) == 0.0
