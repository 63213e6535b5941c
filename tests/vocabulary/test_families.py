"""Words are compared in the space that is edited: behind a projector, at its entry, or the pooled one alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.robust import Robust
from rece_lightning.vocabulary import scan
from rece_lightning.vocabulary.rows import cached_rows
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny import pipelines, unets

WORDS = ["bomb", "axe", "dog", "rocket", "guitar"]
MODELS: dict[str, tuple[Any, tuple[str, ...] | None]] = {
    "flux": (pipelines, None),
    "pixart_sigma": (pipelines, None),
    "pixart_sigma at its entry": (pipelines, ("entry",)),
    "cascade_decoder": (pipelines, None),
    "sdxl in its pooled space": (unets, ("pooled",)),
}


def erased(tmp_path: Path, name: str, data: ConceptData, **method: Any) -> RECE:
    maker, spaces = MODELS[name]
    model = name.split()[0]
    maker.build(model).save_pretrained(tmp_path / model)
    module = RECE(str(tmp_path / model), method=Method(spaces=spaces, **method))
    fit_quietly(module, data, epochs=2)
    return module


@pytest.mark.parametrize("name", MODELS)
def test_a_scan_is_the_distance_of_what_reads_the_words(tmp_path: Path, name: str) -> None:
    module = erased(tmp_path, name, ConceptData(["bomb"], target="a spoon", preserve=[" "]))

    found = scan(module.session, words=WORDS, cache=tmp_path / "cache")

    space, edited, original = (
        module.session.spaces[0],
        dict(module.erasure().weights()),
        dict(module.erasure().original()),
    )

    def read(text: str, weights: dict[str, Tensor]) -> Tensor:
        """What every reader makes of the last token and of what follows it."""
        rows = module.session.encoder.encode([f"a photo of {text}"]).rows(space.name)[0]
        two = rows.rows[[rows.last, min(rows.last + 1, len(rows.rows) - 1)]].half().double()
        return torch.cat([two @ reader.part(weights[key]).double().T for key, reader in space.readers.items()], dim=1)

    size = (read("bomb", original) - read("a spoon", original)).square().sum()
    for place, word in enumerate(WORDS):
        before = (read(word, original) - read("bomb", original)).square().sum() / size
        after = (read(word, edited) - read("bomb", original)).square().sum() / size
        torch.testing.assert_close(found.before[place, 0], before, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.after[place, 0], after, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "cascade_decoder"])
def test_what_is_chosen_from_a_vocabulary_is_chosen_in_that_space(tmp_path: Path, name: str) -> None:
    """``preserve: auto``, ``synonyms: auto`` and a robust loop look through words of the edited space."""
    data = ConceptData(
        ["bomb"],
        preserve="auto",
        preserve_vocabulary=WORDS[2:],
        preserve_count=1,
        synonyms="auto",
        synonyms_vocabulary=WORDS[1:],
        synonyms_reach=0.99,
    )
    module = erased(tmp_path, name, data, robust=Robust(neighbours=1))

    assert set(data.preserved) - {" "} < set(WORDS)
    assert len(module.session.concepts["robust"]["neighbours"]) == 1


def test_a_cached_vocabulary_is_of_its_projector(tmp_path: Path) -> None:
    """The same text encoder behind another projector makes other rows."""
    rows = []
    for number in (1, 2):
        pipeline = pipelines.build("pixart_sigma")
        with torch.no_grad():
            pipeline.transformer.caption_projection.linear_2.weight.mul_(number)
        pipeline.save_pretrained(tmp_path / str(number))
        session = RECE(str(tmp_path / str(number))).session
        fingerprint = session.loaded.fingerprint["text_encoder"]
        rows.append(cached_rows(session.encoder, fingerprint, WORDS, tmp_path / "cache", space="text")[0])
        again, found = cached_rows(session.encoder, fingerprint, WORDS, tmp_path / "cache", space="text")
        assert found
        assert torch.equal(again, rows[-1])
    assert not torch.equal(*rows)
