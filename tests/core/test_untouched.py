"""An attacker's best embedding against edited and untouched projections together, from the projections themselves."""

from __future__ import annotations

import pytest
import torch

from rece_lightning.core.budget import Reach
from rece_lightning.core.derivation import derive
from rece_lightning.core.embedding_map import EmbeddingMap, LayerMaps, beside
from rece_lightning.core.gram import Gram

WIDTH = 6


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("a_layer", [False, True])
def test_the_derived_embedding_answers_all_projections_as_one_system(a_layer: bool) -> None:
    values = [random(5, WIDTH, seed=1), random(7, WIDTH, seed=2)]
    keys = [random(5, WIDTH, seed=3), random(4, WIDTH, seed=4)]
    matrices = [torch.eye(WIDTH, dtype=torch.float64) + 0.3 * random(WIDTH, WIDTH, seed=5 + one) for one in range(2)]
    if not a_layer:
        matrices[1] = matrices[0]
    gram = Gram.of((("", value) for value in values), keep_layers=a_layer)
    maps = LayerMaps(torch.stack(matrices)) if a_layer else EmbeddingMap(matrices[0])
    whole, met = beside(gram, maps, Gram.of(("", key) for key in keys))
    concept, ridge = random(3, WIDTH, seed=9), 0.2

    # min Σ_v ‖W_v M_v c' − W_v c‖² + Σ_k ‖W_k (c' − c)‖² + λ‖c'‖² as one least-squares problem.
    edited = torch.cat([value @ one for value, one in zip(values, matrices, strict=True)] + keys)
    original = torch.cat(values + keys)
    system = torch.cat([edited, ridge**0.5 * torch.eye(WIDTH, dtype=torch.float64)])
    wanted = torch.cat([original @ concept.mT, torch.zeros(WIDTH, 3, dtype=torch.float64)])
    best = torch.linalg.lstsq(system, wanted).solution.mT

    torch.testing.assert_close(derive(whole, met, ridge).apply(concept), best, rtol=1e-9, atol=1e-9)
    free = torch.linalg.lstsq(edited, original @ concept.mT).solution.mT
    missed = (free @ edited.mT - concept @ original.mT).square().sum(-1)
    reach = Reach.of(whole, met).embeddings(concept)
    torch.testing.assert_close(reach.residual(float("inf")), missed, rtol=1e-8, atol=1e-9)
    assert whole.outputs == sum(len(one) for one in [*values, *keys])
