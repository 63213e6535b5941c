"""FID, KID and perceptual distances, against their formulas in NumPy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rece_lightning import ConfigurationError
from rece_lightning.emoji.detector import load_detector
from rece_lightning.metrics import (
    ArtistScore,
    EmojiFeatures,
    FeatureDistance,
    FrechetDistance,
    InceptionFeatures,
    KernelDistance,
    Lpips,
    PerceptualDistance,
    Spread,
)
from rece_lightning.metrics.intervals import t_quantile
from rece_lightning.metrics.quality import squared_discrepancy
from tests.helpers.pictures import rendered

NAMES = ["bomb", "axe", "church", "rocket", "dagger", "cactus"]


class Plain:
    """Nine mean colours: features that a formula can be checked with."""

    protocol = "plain-9"
    num_features = 9

    def __call__(self, pictures: Tensor) -> Tensor:
        """Means of three thirds of each channel."""
        return pictures.unflatten(2, (3, -1)).mean((3, 4)).flatten(1)


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """Thirty pictures of one kind, and twenty-four of another."""
    source = torch.Generator().manual_seed(4)
    return torch.rand(30, 3, 6, 6, generator=source), torch.rand(24, 3, 6, 6, generator=source) ** 2


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """By the eigenvalues of the symmetric root's product."""
    one, two = (np.cov(rows, rowvar=False) for rows in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * cross)


def discrepancy(first: np.ndarray, second: np.ndarray) -> float:
    """One pair after the other."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]))

    return within(first) + within(second) - 2 * float(np.mean([kernel(x, y) for x in first for y in second]))


def test_fid_is_the_frechet_distance(sets: tuple[Tensor, Tensor]) -> None:
    first, second = sets
    metric = FrechetDistance(Plain())
    metric.update(first[:11], reference=True)
    metric.update(first[11:], reference=True)
    metric.update(second, reference=False)
    one, two = (Plain()(part).double().numpy() for part in sets)
    assert float(metric.compute()) == pytest.approx(frechet(one, two), rel=1e-6)
    assert metric.protocol == "fid plain-9"
    metric.reset()
    metric.update(first, reference=True)
    metric.update(first, reference=False)
    assert float(metric.compute()) == pytest.approx(0, abs=1e-7)


def test_kid_is_the_unbiased_discrepancy(sets: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    first, second = sets
    metric = KernelDistance(Plain())
    metric.update(first[:7], reference=True)
    metric.update(first[7:], reference=True)
    metric.update(second, reference=False)
    one, two = (Plain()(part).double().numpy() for part in sets)
    assert float(metric.compute()) == pytest.approx(1000 * discrepancy(one, two), rel=1e-9)
    assert metric.protocol == "kid plain-9"

    class Given(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            return Plain()(pictures).double()

    theirs = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=24)
    theirs.update(first[:24], real=True)
    theirs.update(second, real=False)
    ours = KernelDistance(Plain())
    ours.update(first[:24], reference=True)
    ours.update(second, reference=False)
    # With as many pictures in both sets, and all of them in its one subset, torchmetrics has the same estimate.
    assert float(ours.compute()) == pytest.approx(1000 * float(theirs.compute()[0]), rel=1e-9)


def test_kid_of_partners_is_nothing_where_no_picture_changed(sets: tuple[Tensor, Tensor]) -> None:
    pictures = sets[0]
    apart, paired = KernelDistance(Plain()), KernelDistance(Plain(), paired=True)
    for metric in (apart, paired):
        metric.update(pictures, reference=True)
        metric.update(pictures, reference=False)
    # The estimate for independent sets takes a picture's likeness to its partner for likeness of the sets.
    assert float(apart.compute()) < -1
    assert float(paired.compute()) == pytest.approx(0, abs=1e-6)


def test_kid_of_partners_over_many_draws_is_that_of_independent_sets() -> None:
    """Both estimates have the same mean; that of independent sets would be wrong for partners."""
    generator = torch.Generator().manual_seed(3)
    paired, independent, mistaken = [], [], []
    for _ in range(300):
        first = torch.randn(20, 4, generator=generator, dtype=torch.float64)
        partner = 0.9 * first + 0.19**0.5 * torch.randn(20, 4, generator=generator, dtype=torch.float64) + 0.5
        stranger = torch.randn(20, 4, generator=generator, dtype=torch.float64) + 0.5
        paired.append(float(squared_discrepancy(first, partner, paired=True)))
        independent.append(float(squared_discrepancy(first, stranger)))
        mistaken.append(float(squared_discrepancy(first, partner)))
    error = (np.std(paired) + np.std(independent)) / np.sqrt(300)
    assert abs(np.mean(paired) - np.mean(independent)) < 4 * error
    assert np.mean(mistaken) < np.mean(independent) - 10 * np.std(mistaken) / np.sqrt(300)


def test_kid_of_partners_needs_partners(sets: tuple[Tensor, Tensor]) -> None:
    metric = KernelDistance(Plain(), paired=True)
    metric.update(sets[0][:5], reference=True)
    metric.update(sets[1][:4], reference=False)
    with pytest.raises(ConfigurationError, match="4 pictures of the model, 5 of the reference"):
        metric.compute()


def test_seeds_are_measured_one_by_one(sets: tuple[Tensor, Tensor]) -> None:
    first, second = sets
    seeds = [0, 1] * 12
    for kind, formula, factor in ((FrechetDistance, frechet, 1), (KernelDistance, discrepancy, 1000)):
        metric = kind(Plain(), seeds=2)
        metric.update(first, reference=True)  # real pictures, of every seed
        metric.update(second, seeds, reference=False)
        one, two = (Plain()(part).double().numpy() for part in sets)
        found = metric.spread()
        expected = [factor * formula(one, two[place::2]) for place in (0, 1)]
        assert found.values == (pytest.approx(expected[0], rel=1e-6), pytest.approx(expected[1], rel=1e-6))
        assert float(metric.compute()) == pytest.approx(factor * formula(one, two), rel=1e-6)
        with pytest.raises(ConfigurationError, match="seeds"):
            metric.update(second, [0, 2] * 12, reference=False)


def test_spread_is_the_deviation_over_seeds() -> None:
    found = Spread((1.0, 2.0, 4.0))
    assert found.mean == pytest.approx(7 / 3)
    assert found.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert str(found) == "2.33 ± 1.5"
    assert str(Spread((1.0,))) == "1"


def test_detector_features_tell_pictures_apart() -> None:
    """FID and KID with the shipped network: near nothing for the same kind, more for another kind."""
    same, again = rendered(NAMES * 10, seed=1), rendered(NAMES * 10, seed=2)
    other = rendered(["owl", "guitar"] * 30, seed=3)
    features = EmojiFeatures()
    with torch.no_grad():
        assert torch.allclose(features(same), load_detector().features(same * 2 - 1), atol=1e-6)
    for kind in (FrechetDistance, KernelDistance):
        near, far = kind(features), kind(features)
        for metric, pictures in ((near, again), (far, other)):
            metric.update(same, reference=True)
            metric.update(pictures, reference=False)
        assert float(far.compute()) > 3 * float(near.compute())
    assert features.protocol == "emoji-detector-192"


def test_distance_is_one_minus_cosine() -> None:
    first, second = rendered(NAMES, seed=1), rendered(NAMES, seed=2)
    one, two = (load_detector().features(part * 2 - 1).double().numpy() for part in (first, second))
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    metric = PerceptualDistance()
    metric.update(first[:2], second[:2])
    metric.update(first[2:], second[2:])
    assert float(metric.compute()) == pytest.approx(float(1 - cosine.mean()), abs=1e-6)
    found = metric.mean()
    half = t_quantile(5) * np.std(1 - cosine, ddof=1) / np.sqrt(6)
    assert found.interval == (pytest.approx(found.mean - half, abs=1e-6), pytest.approx(found.mean + half, abs=1e-6))
    assert metric.protocol == "feature-distance emoji-detector-192"
    assert FeatureDistance()(first, first).abs().max() < 1e-6
    with pytest.raises(ConfigurationError, match="pairs"):
        metric.update(first, second[:2])


def test_artist_score_is_erased_minus_kept() -> None:
    original, other = rendered(NAMES), rendered(["owl"] * 6)
    nudged = (original + 0.01).clamp(0, 1)
    metric = ArtistScore(prompts=6)
    assert torch.isnan(metric.compute())
    metric.update(original, other, "erased", range(6))
    metric.update(original, nudged, "kept", range(6))
    distance = FeatureDistance()
    expected = distance(original, other).mean() - distance(original, nudged).mean()
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-9)
    assert float(metric.compute()) > 0.2
    means = metric.means()
    assert means["erased"].mean - means["kept"].mean == pytest.approx(float(expected), abs=1e-9)
    assert metric.protocol == "artist score, feature-distance emoji-detector-192"
    with pytest.raises(ConfigurationError, match="role"):
        metric.update(original, other, "gone")
    metric.reset()
    assert torch.isnan(metric.compute())


def test_lpips_gets_pictures_as_the_published_code_gives_them() -> None:
    """64×64 in [−1, 1]; the network is another one, since AlexNet's weights are not here."""

    class Difference(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            assert first.shape[-2:] == (64, 64)
            assert float(first.min()) < -0.5
            return (first - second).abs().mean((1, 2, 3), keepdim=True)

    first, second = rendered(NAMES, seed=1), rendered(NAMES, seed=2)
    metric = PerceptualDistance(Lpips(network=Difference()))
    metric.update(first, second)
    large = [torch.nn.functional.interpolate(part, (64, 64), mode="bilinear") for part in (first, second)]
    assert float(metric.compute()) == pytest.approx(float(2 * (large[0] - large[1]).abs().mean()), abs=1e-6)
    assert metric.protocol == "lpips-alex-64"


def test_lpips_with_random_weights() -> None:
    """torchmetrics' network with AlexNet's shapes. Not run with its real weights."""
    pytest.importorskip("torchvision", reason="the extra perceptual", exc_type=ImportError)
    from torchmetrics.functional.image.lpips import _LPIPS

    first, second = rendered(NAMES, seed=1), rendered(NAMES, seed=2)
    distance = Lpips(network=_LPIPS(pnet_rand=True))
    assert distance(first, second).shape == (6,)
    assert float(distance(first, second).min()) > 0
    assert float(distance(first, first).abs().max()) == 0


def test_inception_with_random_weights(tmp_path: Path) -> None:
    """Inception's shapes. Not run with its real weights."""
    pytest.importorskip("torch_fidelity", reason="the extra perceptual", exc_type=ImportError)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:  # type: ignore[override]
            """Keep the first weights."""

    torch.save({}, tmp_path / "empty.pth")
    torch.manual_seed(0)
    torch.save(Blank("b", ["2048"], str(tmp_path / "empty.pth")).state_dict(), tmp_path / "random.pth")
    features = InceptionFeatures(str(tmp_path / "random.pth"), batch_size=4)
    pictures = rendered(NAMES)
    found = features(pictures)
    assert found.shape == (6, 2048)
    assert torch.allclose(found, features.network((pictures * 255).round().byte())[0], atol=1e-5)
    metric = FrechetDistance(features)
    metric.update(pictures, reference=True)
    metric.update(pictures.flip(3), reference=False)
    assert torch.isfinite(metric.compute())
    with pytest.raises(ConfigurationError, match="does not hold"):
        InceptionFeatures(str(tmp_path / "empty.pth"))


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ConfigurationError, match=r"rece-lightning\[perceptual\]"):
        InceptionFeatures(str(tmp_path / "weights.pth"))
    with pytest.raises(ConfigurationError, match=r"rece-lightning\[perceptual\]"):
        Lpips()
    with pytest.raises(ConfigurationError, match="no file"):
        InceptionFeatures(str(tmp_path / "nothing.pth"))
