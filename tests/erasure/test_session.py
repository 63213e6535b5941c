"""A session through a file: it goes on as if nothing had happened, with its own concepts alone."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import (
    UCE,
    Derivation,
    EditProblem,
    EmbeddingMap,
    LayerMaps,
    ProjectedUCE,
    Projection,
    Robust,
    TensorUCE,
)
from rece_lightning.core.embedding_map import stored
from rece_lightning.erasure.finished import finished_session
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text import PromptEncoder
from rece_lightning.runs.checkpoints import read_checkpoint
from tests.helpers.erasures import make_xl_checkpoint
from tests.helpers.fits import fit_quietly
from tests.helpers.ranks import NAMES

METHOD = Method(editor=UCE(lamb=1.0), derivation=Derivation(0.01))
FEW, MANY = list(NAMES[:3]), list(NAMES[:150])
PRESERVED = [" ", *NAMES[200:230]]
METHODS = {
    "published": METHOD,
    "accumulate": replace(METHOD, accumulate=True),
    "first editor": replace(METHOD, first_editor=UCE(lamb=0.5), tokens="last"),
    "tensor": replace(METHOD, editor=TensorUCE(lamb=1.0)),
    "projection": replace(METHOD, editor=Projection(), projections="v"),
    "projected uce": replace(METHOD, editor=ProjectedUCE(lamb=1.0), projections="v"),
    "robust": replace(METHOD, robust=Robust(norms=(0.5,), ridges=(0.1,))),
}


def data_of(concepts: list[str]) -> ConceptData:
    return ConceptData(list(concepts), preserve=PRESERVED, validation=[{"prompt": NAMES[-1], "kind": "preserved"}])


def new_session(model: Path, method: Method) -> ErasureSession:
    return ErasureSession(LoadedModel((str(model), None, None, None)), method)


def counted(model: Path, method: Method, concepts: list[str]) -> ErasureSession:
    """All prompts, no epoch yet."""
    session, data = new_session(model, method), data_of(concepts)
    session.concepts = data.summary()
    for batch in data.batches():
        assert not session.count(batch)
    return session


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint is written and read."""
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    read: dict[str, Any] = torch.load(content, weights_only=True)
    return read


def assert_same(found: ErasureSession, wanted: ErasureSession) -> None:
    """Maps, figures and what a checkpoint would hold, bit for bit."""
    assert found.history == wanted.history
    assert found.description() == wanted.description()
    assert found.maps.keys() == wanted.maps.keys()
    for space, maps in found.maps.items():
        assert torch.equal(stored(maps), stored(wanted.maps[space]))
    one, other = found.statistics.state_dict()["spaces"], wanted.statistics.state_dict()["spaces"]
    for space, tensors in one.items():
        assert tensors.keys() == other[space].keys()
        assert all(torch.equal(tensor, other[space][name]) for name, tensor in tensors.items())


# Going on


@pytest.mark.parametrize("concepts", [FEW, MANY], ids=["rows", "moments"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_session_that_was_loaded_goes_on_as_one_that_was_not(
    tiny_model: Path, method: Method, concepts: list[str]
) -> None:
    whole = counted(tiny_model, method, concepts)
    stopped = counted(tiny_model, method, concepts)
    for _ in range(2):
        assert whole.step() == stopped.step()
    state = through_a_file(stopped.state_dict())
    for _ in range(2):
        whole.step()
    again = new_session(tiny_model, method)
    again.load_state_dict(state)
    assert again.was_loaded
    assert again.has_begun
    assert again.maps.keys() == stopped.maps.keys()
    for space, maps in again.maps.items():  # those of the file, before any epoch is run
        assert torch.equal(stored(maps), stored(stopped.maps[space]))
    for _ in range(2):
        again.step()
    assert len(again.history) == 4
    assert_same(again, whole)
    edited = dict(whole.erasure().weights())
    assert all(torch.equal(weight, edited[name]) for name, weight in again.erasure().weights())


def test_what_joined_goes_on_with_it(tiny_model: Path) -> None:
    """Through the file too: words, attacks that were found, neighbours."""

    def joined() -> ErasureSession:
        session = counted(tiny_model, METHODS["robust"], FEW)
        encoder = session.concept_encoder
        pairs = encoder.pairs(data_of(NAMES[3:6]).pairs)
        session.statistics.join(words=pairs, found=pairs, neighbours=encoder.rows(NAMES[6:9]))
        return session

    whole, stopped = joined(), joined()
    for _ in range(2):
        whole.step()
        stopped.step()
    again = new_session(tiny_model, METHODS["robust"])
    again.load_state_dict(through_a_file(stopped.state_dict()))
    assert again.step() == whole.step()
    assert_same(again, whole)


def test_every_text_space_goes_on(tmp_path: Path) -> None:
    model = make_xl_checkpoint(tmp_path / "xl")
    whole, stopped = counted(model, METHOD, FEW), counted(model, METHOD, FEW)
    for _ in range(2):
        whole.step()
        stopped.step()
    assert list(whole.maps) == ["text", "pooled"]
    again = new_session(model, METHOD)
    again.load_state_dict(through_a_file(stopped.state_dict()))
    again.step()
    whole.step()
    assert_same(again, whole)
    with pytest.raises(ConfigurationError, match="of the text spaces"):
        new_session(model, replace(METHOD, spaces=("text",))).load_state_dict(stopped.state_dict())


def test_epochs_run_anew_are_the_same_epochs(tiny_model: Path) -> None:
    session = counted(tiny_model, METHOD, FEW)
    before = [session.step() for _ in range(3)][-1]
    maps = stored(session.maps["text"])
    session.run_again()
    assert session.history[-1] == before
    assert len(session.history) == 3
    assert torch.equal(stored(session.maps["text"]), maps)


def test_before_the_first_epoch_there_is_no_erasure(tiny_model: Path) -> None:
    session = counted(tiny_model, METHOD, FEW)
    assert not session.has_begun
    assert session.first_maps is None
    for ask in (lambda: session.maps, session.erasure):
        with pytest.raises(ConfigurationError, match="Nothing was edited yet"):
            ask()


# A module that was loaded, and fitted


def saved(model: Path, file: Path, concepts: list[str], epochs: int = 2, method: Method = METHOD) -> RECE:
    module = RECE(str(model), method=method)
    fit_quietly(module, data_of(concepts), epochs=epochs).save_checkpoint(file)
    return module


def figures(module: RECE) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in module.history]


@pytest.mark.parametrize("concepts", [FEW, MANY], ids=["rows", "moments"])
def test_a_loaded_module_goes_on_with_its_concepts_and_counts_none_twice(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concepts: list[str]
) -> None:
    saved(tiny_model, tmp_path / "two.ckpt", concepts)
    whole = RECE(str(tiny_model), method=METHOD)
    fit_quietly(whole, data_of(concepts), epochs=4)
    module = RECE.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    encoded: list[str] = []
    encode = PromptEncoder.encode

    def watched(self: PromptEncoder, prompts: list[str]) -> Any:
        encoded.extend(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(PromptEncoder, "encode", watched)
    fit_quietly(module, data_of(concepts), epochs=2)
    assert encoded == []
    assert module.session.statistics.prompts == len(concepts)
    assert figures(module) == figures(whole)
    assert torch.equal(stored(module.maps["text"]), stored(whole.maps["text"]))
    assert module.session.description() == whole.session.description()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"concepts": [*FEW[1:], "dagger"]},
            f"{FEW[0]!r} is not among them any more, 'dagger' is new",
        ),
        ({"concepts": FEW[:2]}, f"{FEW[2]!r} is not among them any more"),
        ({"preserve": [" "]}, "preserves other prompts"),
        ({"target": "toy"}, "erases other concepts"),
    ],
    ids=["another", "fewer", "preserved", "target"],
)
def test_on_other_concepts_it_is_refused_with_what_differs(
    tiny_model: Path, tmp_path: Path, data: dict[str, Any], message: str
) -> None:
    saved(tiny_model, tmp_path / "two.ckpt", FEW)
    module = RECE.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    before = stored(module.maps["text"])
    others = ConceptData(**{"concepts": FEW, "preserve": PRESERVED, **data})
    with pytest.raises(ConfigurationError, match=r"^load_from_checkpoint: the checkpoint erases other") as refused:
        fit_quietly(module, others)
    assert message in str(refused.value)
    assert len(module.history) == 2
    assert torch.equal(stored(module.maps["text"]), before)


def test_a_module_of_its_own_begins_anew_at_every_fit(tiny_model: Path) -> None:
    module = RECE(str(tiny_model), method=METHOD)
    fit_quietly(module, data_of(MANY), epochs=2)
    fit_quietly(module, data_of(FEW), epochs=1)
    fresh = RECE(str(tiny_model), method=METHOD)
    fit_quietly(fresh, data_of(FEW), epochs=1)
    assert figures(module) == figures(fresh)
    assert module.session.statistics.prompts == len(FEW)
    assert torch.equal(stored(module.maps["text"]), stored(fresh.maps["text"]))


# Checkpoints of others


def former(content: dict[str, Any]) -> dict[str, Any]:
    """The same erasure in the layout of version 0.1.0."""
    rece = content["rece"]
    statistics = rece["statistics"]["spaces"]["text"]
    pairs = {name: statistics[f"erased.{name}"] for name in ("concept", "target", "last", "target_last", "weight")}
    settings = {"erase_scale": 1.0, "preserve_scale": 0.1, "lamb": 1.0, "regular_scale": 0.01, "editor": "uce"}
    return {
        **content,
        "hyper_parameters": {"pretrained": content["hyper_parameters"]["pretrained"], **settings},
        "rece": {
            "map": rece["erasers"]["text"]["map"],
            "evidence": {"pairs": pairs, "kept": list(statistics["preserved.rows"])},
            "probe": rece["statistics"]["probe"],
            "history": rece["history"],
            "epoch": rece["epochs"],
            **{key: rece[key] for key in ("base", "fingerprint", "concepts", "epochs", "version")},
            "settings": settings,
        },
    }


def test_a_checkpoint_of_the_former_layout_is_refused_in_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, tmp_path / "two.ckpt", FEW)
    file = tmp_path / "former.ckpt"
    torch.save(former(torch.load(tmp_path / "two.ckpt", weights_only=True)), file)
    said = []
    for ask in (
        lambda: read_checkpoint(file),
        lambda: RECE.load_from_checkpoint(file, weights_only=True),
        lambda: fit_quietly(RECE(str(tiny_model), method=METHOD), data_of(FEW), resume=file, epochs=3),
    ):
        with pytest.raises(ConfigurationError, match=r"ckpt_path: .*rece-lightning 0\.1\.0, and that ver") as refused:
            ask()
        said.append(str(refused.value))
    for text in said:
        assert text.endswith("erase anew with this one.")
        assert ". " not in text
        assert "\n" not in text


def test_a_layout_that_nobody_knows_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, tmp_path / "two.ckpt", FEW)
    content = torch.load(tmp_path / "two.ckpt", weights_only=True)
    content["rece"]["format"] = 99
    torch.save(content, tmp_path / "later.ckpt")
    with pytest.raises(ConfigurationError, match="its layout 99 is not known to this version"):
        read_checkpoint(tmp_path / "later.ckpt")


# A finished erasure


@dataclass(frozen=True)
class Forget(UCE):
    """An editor of a user's own: UCE, but halfway."""

    strength: float = 0.5

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        eye = torch.eye(problem.gram.width, dtype=torch.float64)
        return EmbeddingMap(eye + self.strength * (super().__call__(problem).matrix - eye))


@dataclass(frozen=True)
class ForgetByLayer(TensorUCE):
    """One with a map a layer."""

    def __call__(self, problem: EditProblem) -> LayerMaps:
        return super().__call__(problem)


@pytest.mark.parametrize("editor", [Forget(lamb=1.0), ForgetByLayer(lamb=1.0)], ids=["one map", "a map a layer"])
@pytest.mark.parametrize("place", ["editor", "first_editor"])
def test_a_finished_session_imports_no_editor_of_a_users_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: UCE, place: str
) -> None:
    beside = TensorUCE(lamb=1.0) if editor.per_layer else METHOD.editor
    method = replace(METHOD, **{"editor": beside, place: editor})
    module = saved(tiny_model, tmp_path / "two.ckpt", FEW, method=method)
    content = read_checkpoint(tmp_path / "two.ckpt")
    # The package that it came from is there, and whoever imports it would know.
    (tmp_path / "somebodys_package.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    plain = {**editor.plain(), "class_path": f"somebodys_package.{type(editor).__name__}"}
    content["rece"]["method"][place] = plain
    session = finished_session(content, (str(tiny_model), None, None, None), "two.ckpt")
    assert "somebodys_package" not in sys.modules
    assert torch.equal(stored(session.maps["text"]), stored(module.maps["text"]))
    edited = dict(module.erasure().weights())
    assert all(torch.equal(weight, edited[name]) for name, weight in session.erasure().weights())
    assert session.change() == module.session.change()
    assert session.description() == {**module.session.description(), "method": content["rece"]["method"]}
    assert session.description()["method"][place] == plain
    assert session.erased_prompts == FEW
    with pytest.raises(ConfigurationError, match=rf"the editor {plain['class_path']} is not imported, and a file"):
        session.step()
    assert "somebodys_package" not in sys.modules
    # Imported, it is the editor itself.
    content["rece"]["method"][place] = editor.plain()
    again = finished_session(content, (str(tiny_model), None, None, None), "two.ckpt")
    assert getattr(again.method, place) == editor
    again.step()
    assert len(again.history) == 3


def test_a_finished_session_can_go_on_without_a_trainer(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, tmp_path / "two.ckpt", FEW)
    session = finished_session(read_checkpoint(tmp_path / "two.ckpt"), (str(tiny_model), None, None, None), "two.ckpt")
    session.step()
    whole = saved(tiny_model, tmp_path / "three.ckpt", FEW, epochs=3)
    assert torch.equal(stored(session.maps["text"]), stored(whole.maps["text"]))
    assert session.description() == whole.session.description()
