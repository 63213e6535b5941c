"""Detection rates and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.pictures import Renderer
from rece_lightning.metrics import DetectionRate, EmojiDetector, Share, wilson_interval


class Bright:
    """Sees a concept in every bright picture."""

    protocol = "bright"

    def check(self, concept: str) -> None:
        """Knows everything."""

    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:
        """Bright pictures."""
        return pictures.mean((1, 2, 3)) > 0.5


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_interval_holds_the_share_and_solves_its_equation(total: int, share: float) -> None:
    hits = round(share * total)
    low, high = wilson_interval(hits, total)
    assert 0 <= low <= hits / total <= high <= 1
    # Its bounds p are where (p̂ − p)² = z² p(1 − p)/n.
    for bound in (low, high):
        if 0 < bound < 1:
            left = (hits / total - bound) ** 2
            assert left == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / total, abs=1e-9)


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
    for hits, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        assert wilson_interval(hits, total) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=5))
def test_rate_over_batches_and_ranks_is_that_of_all_pictures(batches: list[list[bool]]) -> None:
    whole, first, second = (DetectionRate(Bright()) for _ in range(3))
    for place, batch in enumerate(batches):
        pictures = torch.stack([torch.full((3, 2, 2), float(bright)) for bright in batch])
        whole.update(pictures, ["light"] * len(batch))
        (first if place % 2 else second).update(pictures, ["light"] * len(batch))
    flat = [bright for batch in batches for bright in batch]
    assert float(whole.compute()) == pytest.approx(sum(flat) / len(flat))
    merged = Share(int(first.hits + second.hits), int(first.total + second.total))
    assert merged == whole.share() == first.share() + second.share()


@pytest.mark.parametrize("word", ["bomb", "hatchet", "twemoji", "noto style", "blue", "red background", "owl"])
def test_detector_knows_names_synonyms_styles_backgrounds_and_held_out_objects(word: str) -> None:
    EmojiDetector().check(word)


def test_detector_names_the_nearest_concept() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'dagger'"):
        EmojiDetector().check("dager")


def test_detector_is_right_on_rendered_pictures() -> None:
    catalog = load_catalog()
    names = ["bomb", "axe", "church", "dog", "owl", "cactus"]
    objects = torch.tensor([catalog.names.index(name) for name in names]).repeat_interleave(8)
    styles = torch.arange(4).repeat(12)
    backgrounds = torch.arange(8).repeat(6)
    pictures = Renderer(catalog).render(objects, styles, backgrounds, torch.Generator().manual_seed(1)) / 2 + 0.5
    detector = EmojiDetector()
    wanted = [catalog.names[index] for index in objects.tolist()]
    assert detector.detect(pictures, wanted).float().mean() > 0.95
    assert detector.detect(pictures, [catalog.styles[i] for i in styles.tolist()]).float().mean() > 0.9
    assert detector.detect(pictures, [list(catalog.backgrounds)[i] for i in backgrounds.tolist()]).float().mean() > 0.95
    # And it does not see what is not there.
    assert detector.detect(pictures, [wanted[(k + 8) % 48] for k in range(48)]).float().mean() < 0.05
