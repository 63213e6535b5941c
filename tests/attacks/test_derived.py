"""The derived curve against the formulas, layer by layer."""

from __future__ import annotations

import pytest
import torch

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import Derived, Victim, derived_curve, make_goal
from rece_lightning.core import Derivation, Projection
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from tests.helpers.fits import fit_quietly

RATIOS = (0.1, 0.5, 0.9)


def problem(seed: int, singular: bool = False) -> tuple[Gram, EmbeddingMap, torch.Tensor, list[torch.Tensor]]:
    source = torch.Generator().manual_seed(seed)
    width = 12
    weights = [torch.randn(rows, width, generator=source, dtype=torch.float64) for rows in (20, 7, 15)]
    matrix = torch.eye(width, dtype=torch.float64) + 0.3 * torch.randn(
        width, width, generator=source, dtype=torch.float64
    )
    if singular:
        matrix[:, 0] = 0
    concept = torch.randn(4, width, generator=source, dtype=torch.float64)
    gram = Gram.of((f"layer{place}", weight) for place, weight in enumerate(weights))
    return gram, EmbeddingMap(matrix), concept, weights


@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_curve_has_the_norms_asked_for_and_is_the_derivation(seed: int, singular: bool) -> None:
    gram, maps, concept, weights = problem(seed, singular)
    for ratio, point in zip(RATIOS, derived_curve(gram, maps, concept, RATIOS), strict=True):
        assert float(point.embedding.norm() / concept.norm()) == pytest.approx(ratio, rel=1e-6)
        assert point.ratio == pytest.approx(ratio, rel=1e-6)
        torch.testing.assert_close(point.embedding, Derivation(point.ridge)(gram, maps).apply(concept))
        edited = [weight @ maps.matrix for weight in weights]
        system = sum(weight.mT @ weight for weight in edited) + point.ridge * torch.eye(12, dtype=torch.float64)
        right = sum(new.mT @ (old @ concept.mT) for new, old in zip(edited, weights, strict=True))
        torch.testing.assert_close(point.embedding, torch.linalg.solve(system, right).mT, rtol=1e-7, atol=1e-9)
        differences = [(new @ point.embedding.mT - old @ concept.mT) for new, old in zip(edited, weights, strict=True)]
        missing = sum(float(difference.square().sum()) for difference in differences)
        whole = sum(float((old @ concept.mT).square().sum()) for old in weights)
        assert point.residual == pytest.approx(missing / whole, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_beyond_what_float64_can_tell_the_curve_ends(seed: int, size: float) -> None:
    """A map may take directions away and enlarge others: its least eigenvalue is then rounding of the largest."""
    gram, maps, concept, weights = problem(seed, singular=True)
    (point,) = derived_curve(gram, EmbeddingMap(size * maps.matrix), concept, [float("inf")])
    answers = torch.cat(weights)
    wanted = torch.linalg.lstsq(answers @ maps.matrix, answers @ concept.mT, driver="gelsd").solution.mT
    torch.testing.assert_close(size * point.embedding, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_embedding_of_that_norm_comes_nearer(seed: int) -> None:
    gram, maps, concept, weights = problem(seed)
    (point,) = derived_curve(gram, maps, concept, [0.5])
    source = torch.Generator().manual_seed(seed)
    whole = sum(float((old @ concept.mT).square().sum()) for old in weights)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(40):
            other = point.embedding + size * torch.randn(4, 12, generator=source, dtype=torch.float64)
            other = other * point.embedding.norm() / other.norm()
            missing = sum(
                float((weight @ maps.matrix @ other.mT - weight @ concept.mT).square().sum()) for weight in weights
            )
            assert missing / whole >= point.residual - 1e-12


def test_beyond_the_free_optimum_the_curve_ends() -> None:
    """On the unedited model the free optimum is the concept itself."""
    gram, _, concept, _ = problem(0)
    (point,) = derived_curve(gram, EmbeddingMap.identity(12), concept, [3.0])
    torch.testing.assert_close(point.embedding, concept, rtol=1e-6, atol=1e-6)
    assert point.ratio == pytest.approx(1, abs=1e-6)
    assert point.residual < 1e-12


def test_the_attack_gives_a_point_for_each_ratio(edited: Victim) -> None:
    found = Derived(ratios=[0.25, 0.5]).run(edited, make_goal("bomb"))
    own = edited.encoder.encode(["bomb"]).embeddings[0]
    assert [one.variant for one in found] == ["ratio=0.25", "ratio=0.5"]
    for one, ratio in zip(found, (0.25, 0.5), strict=True):
        assert one.embedding is not None
        assert float(one.embedding.norm() / own.norm()) == pytest.approx(ratio, rel=1e-4)
    assert found[1].loss < found[0].loss


def test_without_the_map_it_is_refused(original: Victim) -> None:
    with pytest.raises(ConfigurationError, match="map of the edit"):
        Derived().run(Victim(original.pictures), make_goal("bomb"))


@pytest.mark.parametrize("ratios", [[], [0.0], [-1.0]])
def test_senseless_ratios_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="ratios"):
        Derived(ratios=ratios)


def test_an_embedding_that_no_projection_was_edited_for_meets_them_all() -> None:
    """With edited values alone the attacker's system holds the keys too, and is stronger for it."""
    module = RECE("emoji", method=Method(projections="v", editor=Projection()))
    fit_quietly(module, ConceptData(["bomb"], preserve=[" ", "dog", "rose"]))
    keys = [name for name in module.base.projections if name.endswith("to_k.weight")]
    session = module.session
    gram, maps = session.attacked(module.maps)["text"]
    own = Gram.of(module.base.read_projections(keys)).total
    torch.testing.assert_close(gram.total, session.gram.total + own, rtol=1e-12, atol=1e-12)
    assert torch.equal(maps.of_layer(0), module.maps["text"].of_layer(0))
    assert torch.equal(maps.of_layer(1), torch.eye(gram.width, dtype=torch.float64))
    whole = RECE("emoji", tune="off")
    fit_quietly(whole, ConceptData(["bomb"], preserve=[" ", "dog", "rose"]))
    assert whole.session.attacked(whole.maps) == {"text": (whole.session.gram, whole.maps["text"])}
