"""Out of every embedding's reach in each space of the second embedded world, and in what is written of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core import ProjectedUCE
from rece_lightning.erasure.certificates import certificates
from rece_lightning.exports import export
from tests.helpers.fits import fit_quietly

METHOD = Method(editor=ProjectedUCE(preserve_scale=1.0, lamb=1.0))
PRESERVED = [" ", "dog", "rose", "pizza", "guitar", "church", "monkey", "rocket", "lemon", "kite", "train", "tent"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RECE, Path]:
    module, file = RECE("emoji-mmdit", method=METHOD), tmp_path_factory.mktemp("fit") / "one.ckpt"
    fit_quietly(module, ConceptData(["bomb", "axe"], preserve=PRESERVED), epochs=1).save_checkpoint(file)
    return module, file


def test_every_concept_is_certified_in_both_spaces_for_the_weights_as_they_are_stored(
    fitted: tuple[RECE, Path],
) -> None:
    module, _ = fitted
    session = module.session
    found = certificates(session.erasure(), session.erased_prompts, session.pairs, [1.0])
    assert [(one.prompt, one.space) for one in found] == [
        (prompt, space) for space in ("text", "pooled") for prompt in ("bomb", "axe")
    ]
    for one in found:
        assert 0.1 < (one.bounds[None] or 0.0) <= one.bounds[1.0] <= one.residuals[1.0] + one.error
        assert one.holds_to > 1


def test_a_checkpoint_and_the_exported_weights_hold_the_same_edit(fitted: tuple[RECE, Path], tmp_path: Path) -> None:
    module, file = fitted
    again = RECE.load_from_checkpoint(file, weights_only=True)
    assert again.method == METHOD
    erasure = again.session.erasure()
    expected = dict(module.session.erasure().weights())
    export(erasure, "delta", tmp_path / "edited.safetensors")
    written = load_file(tmp_path / "edited.safetensors")
    assert set(written) == set(expected)
    for name, weight in expected.items():
        assert torch.equal(written[name], weight), name
