"""``data.preserve: auto`` preserves what the erasure would harm most, and that harms it less."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import UCE
from rece_lightning.core.diagnostics import preservation_drift
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.moments import Moments
from rece_lightning.data.concepts import ConceptMapping
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.vocabulary.preserve import Vocabulary, drifts
from tests.helpers.fits import fit_quietly

NAMES = list(load_catalog().names)
ERASED: list[str | ConceptMapping] = ["bomb", "axe"]
VOCABULARY, COUNT = [name for name in NAMES[:160] if name not in ERASED], 20


def fit(data: ConceptData, resume: Path | None = None, epochs: int = 1) -> tuple[RECE, Trainer]:
    module = RECE("emoji", method=Method(editor=UCE(preserve_scale=1.0, lamb=1.0)))
    return module, fit_quietly(module, data, resume, epochs)


def auto(**others: Any) -> ConceptData:
    settings = {"preserve_vocabulary": VOCABULARY, "preserve_count": COUNT, **others}
    return ConceptData(ERASED, preserve="auto", **settings)


def map_of(module: RECE) -> EmbeddingMap:
    found = module.maps["text"]
    assert isinstance(found, EmbeddingMap)
    return found


def all_drifts(module: RECE, words: list[str]) -> Tensor:
    return drifts(module.session.gram, map_of(module), module.session.encoder.encode(words).embeddings)


def test_drifts_are_the_change_of_keys_and_values(tiny_model: Path) -> None:
    module = RECE(str(tiny_model), tune="off")
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, ConceptData(ERASED))
    embeddings = module.session.encoder.encode(["dog", "cat"]).embeddings
    found = drifts(module.session.gram, map_of(module), embeddings)
    edited = dict(module.erasure().weights())
    for prompt, rows in enumerate(embeddings.double()):
        moved = whole = 0.0
        for name, weight in module.base.read_projections(module.session.names):
            moved += float(((edited[name].double() - weight.double()) @ rows.mT).square().sum())
            whole += float((weight.double() @ rows.mT).square().sum())
        assert float(found[prompt]) == pytest.approx(moved / whole, rel=1e-3)
    together = preservation_drift(module.session.gram, map_of(module), Moments.preserving(embeddings[0]).preserved)
    assert float(found[0]) == pytest.approx(together, rel=1e-9)


def test_what_is_chosen_is_harmed_most_when_it_is_chosen() -> None:
    data = auto(preserve_count=4)
    fit(data)
    preserved = [" "]
    for _ in range(4):
        found = all_drifts(fit(ConceptData(ERASED, preserve=preserved))[0], VOCABULARY)
        found[[VOCABULARY.index(word) for word in preserved[1:]]] = 0
        preserved.append(VOCABULARY[int(found.argmax())])
    assert data.preserved == preserved


def test_the_furthest_are_found_in_any_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = fit(ConceptData(ERASED))
    order = all_drifts(module, VOCABULARY).argsort(descending=True).tolist()
    for size, room in ((7, 0), (64, 1 << 30)):
        monkeypatch.setattr("rece_lightning.vocabulary.preserve.ROOM", room)
        vocabulary = Vocabulary(module.session.encoder, VOCABULARY, size)
        for without in ([], [VOCABULARY[order[0]]]):
            found = vocabulary.harmed_most(module.session.gram, map_of(module), COUNT, without)
            first = len(without)
            assert [word for word, _, _ in found] == [VOCABULARY[place] for place in order[first : first + COUNT]]


def test_preserving_what_is_chosen_harms_less_than_preserving_others() -> None:
    module, _ = fit(auto())
    draw = random.Random(0)
    others = [fit(ConceptData(ERASED, preserve=[" ", *draw.sample(VOCABULARY, COUNT)]))[0] for _ in range(5)]
    unpreserved, _ = fit(ConceptData(ERASED, preserve=[" "]))
    found = [all_drifts(one, VOCABULARY) for one in (module, *others, unpreserved)]
    mean, furthest = [float(drift.mean()) for drift in found], [float(drift.max()) for drift in found]
    # Over the whole vocabulary: less than with any draw of as many words.
    assert mean[0] < min(mean[1:])
    assert furthest[0] < sorted(furthest[1:])[len(others) // 2]


def test_a_run_goes_on_with_what_it_chose(tmp_path: Path) -> None:
    _, trainer = fit(auto(), epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    data = auto()
    resumed, _ = fit(data, tmp_path / "two.ckpt", epochs=3)
    whole, _ = fit(auto(), epochs=3)
    assert torch.equal(resumed.maps["text"].of_layer(0), whole.maps["text"].of_layer(0))
    assert data.preserved == resumed.session.description()["concepts"]["preserved"]
    with pytest.raises(ConfigurationError, match="preserves other prompts"):
        fit(auto(preserve_count=COUNT + 1), tmp_path / "two.ckpt", epochs=3)


def test_what_holds_an_erased_prompt_is_left_out() -> None:
    data = auto(preserve_vocabulary=["a Bomb", "bomber", "a photo of an axe", "dog"])
    assert data.vocabulary_left() == ["bomber", "dog"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preserve": "auto"}, "data.preserve_vocabulary: data.preserve: auto chooses from it"),
        ({"preserve_vocabulary": ["dog"]}, "it is for data.preserve: auto"),
        ({"preserve": "auto", "preserve_vocabulary": ["dog"], "preserve_count": 0}, "data.preserve_count: 0"),
        ({"preserve": "auto", "preserve_vocabulary": [" "]}, "names nothing to keep"),
        ({"preserve": "auto", "preserve_vocabulary": "none.csv"}, "data.preserve_vocabulary: none.csv cannot be read"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ConceptData(ERASED, **settings)
