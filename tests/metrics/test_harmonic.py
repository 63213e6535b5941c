"""Harmonic means and generality."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import harmonic_mean as plain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.metrics import EmojiDetector, Generality, HarmonicMean, harmonic_mean
from tests.helpers.pictures import rendered

RATES = st.floats(0, 1)


class Bright:
    """Sees a concept in every bright picture."""

    protocol = "bright"

    def check(self, concept: str) -> None:
        """Knows everything."""

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Bright pictures."""
        return pictures.mean((1, 2, 3)) > 0.5


def pictures(bright: Sequence[bool]) -> Tensor:
    """Bright and dark ones."""
    return torch.tensor([float(one) for one in bright])[:, None, None, None].expand(-1, 3, 2, 2)


@given(erased=RATES, kept=RATES, synonyms=RATES)
def test_harmonic_means_are_pythons(erased: float, kept: float, synonyms: float) -> None:
    assert harmonic_mean(erased, kept) == pytest.approx(plain([1 - erased, kept]), abs=1e-12)
    assert harmonic_mean(erased, kept, synonyms) == pytest.approx(plain([1 - erased, kept, 1 - synonyms]), abs=1e-12)


def test_harmonic_mean_of_published_rates() -> None:
    """SPEED's form: H_o = 2/(1/(1 − Acc_erased) + 1/Acc_kept)."""
    assert harmonic_mean(0.1, 0.8) == pytest.approx(2 / (1 / 0.9 + 1 / 0.8))
    assert harmonic_mean(1.0, 0.8) == 0
    assert np.isnan(harmonic_mean(float("nan"), 0.8))


@pytest.mark.parametrize("terms", [2, 3])
def test_metric_takes_its_terms_from_the_pictures(terms: int) -> None:
    metric = HarmonicMean(Bright(), terms=terms, prompts=4)
    rates = {"erased": [True, False, False, False], "kept": [True, True, True, False], "synonym": [True, True] * 2}
    for role in list(rates)[:terms]:
        metric.update(pictures(rates[role]), ["light"] * 4, role, range(4))
    expected = harmonic_mean(0.25, 0.75, *([1.0] if terms == 3 else []))
    assert float(metric.compute()) == pytest.approx(expected)
    low, high = metric.interval()
    assert low <= expected <= high
    assert metric.protocol == f"harmonic-mean-{terms} bright"
    assert metric.shares()["kept"].hits == 3
    metric.reset()
    assert torch.isnan(metric.compute())
    with pytest.raises(ConfigurationError, match="role"):
        metric.update(pictures([True]), ["light"], "preserved")
    with pytest.raises(ConfigurationError, match="terms"):
        HarmonicMean(Bright(), terms=4)


def test_interval_of_the_harmonic_mean_holds_the_truth() -> None:
    source = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        metric = HarmonicMean(Bright())
        for role, rate in (("erased", 0.2), ("kept", 0.8)):
            shown = (source.random(40) < rate).tolist()
            metric.update(pictures(shown), ["light"] * 40, role)
        low, high = metric.interval()
        held += low <= harmonic_mean(0.2, 0.8) <= high
    assert held / 200 >= 0.95


def test_generality_searches_for_the_concept_not_the_word() -> None:
    detector = EmojiDetector()
    words = ["ax", "a photo of a hatchet", "chop", "a gun"]
    shown = rendered(["axe", "axe", "dog", "water pistol"])
    concepts = ["axe", "axe", "axe", "water pistol"]
    metric = Generality(detector, prompts=4)
    metric.update(shown, concepts, words, range(4))
    assert metric.share().clusters == tuple((int(hit), 1) for hit in detector.detect(shown, concepts))
    assert float(metric.compute()) == 0.75
    assert metric.protocol == "generality emoji-top1"
    with pytest.raises(ConfigurationError, match="in other words"):
        metric.update(shown[:1], ["axe"], ["An Axe on a table"])
