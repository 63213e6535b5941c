"""Another method beside an erasure: what a run of its own with the same prompts gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rece_lightning import ConceptData, ConfigurationError, Method
from rece_lightning.callbacks import Evaluation
from rece_lightning.core import UCE, Derivation, NullSpace, Projection, TensorUCE
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.erasure.beside import check_fits, erased_beside
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.session import ErasureSession
from tests.helpers.ranks import NAMES

METHOD = Method(editor=UCE(lamb=1.0), derivation=Derivation(0.01))
OTHERS = {
    "projection of values": Method(editor=Projection(), projections="v"),
    "null space": Method(editor=NullSpace(threshold=1.0)),
    "accumulated": replace(METHOD, accumulate=True),
}


def run(model: Path, method: Method, epochs: int) -> ErasureSession:
    session = ErasureSession(LoadedModel((str(model), None, None, None)), method)
    data = ConceptData(list(NAMES[:3]), preserve=[" ", *NAMES[200:230]], target=NAMES[4])
    session.concepts = data.summary()
    for batch in data.batches():
        session.count(batch)
    for _ in range(epochs):
        session.step()
    return session


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_it_is_what_a_run_of_its_own_gives(tiny_model: Path, other: Method) -> None:
    session = run(tiny_model, METHOD, epochs=2)
    before = {name: one.matrix.clone() for name, one in session.maps.items() if isinstance(one, EmbeddingMap)}
    beside, alone = erased_beside(session, other), run(tiny_model, other, epochs=2)
    assert beside.description() == alone.description()
    found, expected = dict(beside.erasure().weights()), dict(alone.erasure().weights())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # The erasure that it stands beside is none the wiser.
    assert all(torch.equal(session.maps[name].matrix, value) for name, value in before.items())  # type: ignore[union-attr]
    assert session.method == METHOD


def test_a_method_that_is_chosen_brings_its_own_epochs(tiny_model: Path) -> None:
    beside = erased_beside(run(tiny_model, METHOD, epochs=3), "robust")
    choice = beside.tuned.choice
    assert choice is not None
    assert choice["aim"] == "robust"
    assert len(beside.history) == choice["chosen"]["epochs"]
    assert beside.method.editor.singular
    matrix = next(one for one in beside.maps.values() if isinstance(one, EmbeddingMap)).matrix
    assert float(torch.linalg.svdvals(matrix)[-1]) < 1e-9


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"two words": METHOD}, "letters, digits"),
        ({"best": "strong"}, "Evaluation.beside.best"),
        ({"best": 5}, "give a Method"),
    ],
)
def test_what_makes_no_sense_is_refused(method: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Evaluation(beside=method)


@pytest.mark.parametrize(
    ("method", "says"), [(Method(tokens="last"), "tokens: 'last'"), (Method(editor=TensorUCE()), "TensorUCE")]
)
def test_what_the_run_does_not_count_is_refused(method: Method, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_fits("other", method, METHOD)
