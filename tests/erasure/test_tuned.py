"""Erasures whose settings are chosen: on a live pipeline, in a run, resumed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lightning.pytorch import Trainer

import rece_lightning
from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import UCE
from rece_lightning.core.robust import WITHIN
from rece_lightning.core.tuning import Tuning
from rece_lightning.erasure import plan, tuned
from rece_lightning.erasure.beside import erased_beside
from rece_lightning.erasure.everyday import COUNT, HELD_OUT, everyday
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.text_space import TEXT
from rece_lightning.vocabulary import vocabulary_words
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny import unets
from tests.helpers.tiny.pipelines import build


def pipeline_of(folder: Path) -> Any:
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def weights_of(pipeline: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipeline.unet.state_dict().items()}


def quiet(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )  # fmt: skip


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be chosen from here on."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it chose again")

    monkeypatch.setattr(tuned, "tune", never)
    monkeypatch.setattr(plan, "tune", never)


def test_one_line_without_settings_is_tuned_and_undone(tiny_model: Path) -> None:
    pipeline = pipeline_of(tiny_model)
    before = weights_of(pipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        erasure = rece_lightning.erase(pipeline, "bomb")
    assert erasure.tuning is not None
    assert erasure.tuning["aim"] == "balanced"
    assert erasure.tuning["tried"] > 10
    assert "preservation_drift" in erasure.figures
    assert erasure.figures["preservation_drift"] == pytest.approx(erasure.tuning["chosen"]["drift"])
    assert not torch.equal(weights_of(pipeline)[erasure.names[0]], before[erasure.names[0]])
    erasure.undo()
    assert all(torch.equal(value, before[name]) for name, value in weights_of(pipeline).items())


def test_a_live_erasure_is_the_run_with_the_same_choice(tiny_model: Path) -> None:
    pipeline = pipeline_of(tiny_model)
    preserve = [" ", "dog", "rose", "guitar", "pizza"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        erasure = rece_lightning.erase(pipeline, ["bomb", "axe"], preserve=preserve)
        module = RECE(str(tiny_model))
        trainer = quiet(enable_checkpointing=False)
        trainer.fit(module, ConceptData(["bomb", "axe"], preserve=preserve))
    choice = module.session.tuned.choice
    assert choice is not None
    assert erasure.tuning is not None
    assert choice["method"] == erasure.tuning["method"] == module.method.plain()
    assert len(module.history) == choice["chosen"]["epochs"] == trainer.max_epochs
    for name, maps in module.maps.items():
        torch.testing.assert_close(maps.of_layer(0), erasure.maps[name].of_layer(0), rtol=0, atol=1e-9)


def test_words_are_drawn_that_do_not_mean_what_is_erased(tiny_model: Path) -> None:
    loaded = LoadedModel((str(tiny_model), None, None, None))
    words = vocabulary_words(loaded.encoder.tokenizer)
    space = loaded.base.spaces[0]
    pairs = ConceptData(["bomb", "kitchen knife"]).pairs
    parts = list(everyday(loaded.encoder, [TEXT], loaded.gram(space), pairs, listed=["Guitar"]))
    preserved, held_out = ([w for part in parts for w in getattr(part, side)] for side in ("preserved", "held_out"))
    assert set(preserved).isdisjoint(held_out)
    assert {*preserved, *held_out} <= set(words) - {"bomb", "kitchen", "knife", "guitar"}
    assert len(held_out) == pytest.approx(len(preserved) / (HELD_OUT - 1), abs=len(parts))
    assert 100 < len(preserved) + len(held_out) <= COUNT
    # A word's own rows, compared as the definition says.
    gram = loaded.gram(space).total

    def two(text: str) -> torch.Tensor:
        encoded = loaded.encoder.encode([text])
        last = int(encoded.last_subject[0])
        return encoded.embedding(0)[[last, last + 1]].double()

    def distance(word: str, concept: str) -> float:
        difference, whole = two(word) - two(concept), two(concept) - two(" ")
        return float(((difference @ gram) * difference).sum() / ((whole @ gram) * whole).sum())

    for word in (*preserved[:20], *held_out[:5]):
        assert min(distance(word, "bomb"), distance(word, "kitchen knife")) >= WITHIN
    again = list(everyday(loaded.encoder, [TEXT], loaded.gram(space), pairs, listed=["Guitar"]))
    assert [part.preserved for part in again] == [part.preserved for part in parts]
    alone = list(everyday(loaded.encoder, [TEXT], loaded.gram(space), pairs, preserve=False))
    assert not any(part.preserved for part in alone)
    assert 30 < sum(len(part.held_out) for part in alone) <= COUNT // HELD_OUT


def test_a_run_draws_what_nobody_named_and_measures_on_others(tiny_model: Path) -> None:
    module = RECE(str(tiny_model))
    shown = [{"prompt": "anchor", "kind": "preserved"}]
    data = ConceptData(["bomb"], validation=shown)
    assert data.preserved == [" "]
    fit_quietly(module, data)
    assert data.preserved[0] == " "
    assert len(data.preserved) > 100
    assert "anchor" not in data.preserved  # what is measured is preserved by nobody
    assert data.held_out[0] == "anchor"
    assert set(data.held_out).isdisjoint(data.preserved)
    assert module.session.concepts["preserved"] == data.preserved
    named = ConceptData(["bomb"], preserve=[" ", "dog"], validation=shown)
    fit_quietly(RECE(str(tiny_model)), named)
    assert (named.preserved, named.held_out) == ([" ", "dog"], ["anchor"])
    off = ConceptData(["bomb"])
    fit_quietly(RECE(str(tiny_model), tune="off"), off)
    assert (off.preserved, off.held_out) == ([" "], [])


def test_a_resumed_run_goes_on_with_what_was_chosen(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data() -> ConceptData:
        return ConceptData(["bomb", "axe"])

    part = RECE(str(tiny_model))
    fit_quietly(part, data()).save_checkpoint(tmp_path / "part.ckpt")
    forbid(monkeypatch)
    state = torch.load(tmp_path / "part.ckpt", weights_only=True)["rece"]
    assert state["tuning"]["method"] == state["method"] == part.method.plain()
    assert state["tuning"]["asked"] == Method().plain()
    assert state["tuning"]["front"]
    goes_on = RECE(str(tiny_model))
    fit_quietly(goes_on, data(), resume=tmp_path / "part.ckpt", epochs=3)
    assert goes_on.method == part.method
    assert goes_on.session.tuned.choice == part.session.tuned.choice
    loaded = RECE.load_from_checkpoint(tmp_path / "part.ckpt", weights_only=True)
    assert loaded.method == part.method
    assert torch.equal(loaded.maps[TEXT].of_layer(0), part.maps[TEXT].of_layer(0))


def test_the_number_of_epochs_is_the_trainers_where_it_says_one(tiny_model: Path, tmp_path: Path) -> None:
    chosen = RECE(str(tiny_model))
    trainer = quiet(default_root_dir=tmp_path, enable_checkpointing=True)
    trainer.fit(chosen, ConceptData(["bomb"], preserve=[" ", "dog", "rose"]))
    assert chosen.session.tuned.choice is not None
    epochs = chosen.session.tuned.choice["chosen"]["epochs"]
    assert len(chosen.history) == trainer.max_epochs == epochs
    told = RECE(str(tiny_model))
    fit_quietly(told, ConceptData(["bomb"], preserve=[" ", "dog", "rose"]), epochs=3)
    assert len(told.history) == 3
    assert {one["epochs"] for one in told.session.tuned.choice["front"]} == {3}  # type: ignore[index]
    with pytest.raises(ConfigurationError, match=r"trainer\.max_epochs"):
        quiet(enable_checkpointing=False).fit(RECE(str(tiny_model), tune="off"), ConceptData(["bomb"]))


def test_another_aim_or_budget_is_another_run(tiny_model: Path, tmp_path: Path) -> None:
    data = {"concepts": ["bomb"], "preserve": [" ", "dog", "rose"]}
    module = RECE(str(tiny_model))
    fit_quietly(module, ConceptData(**data)).save_checkpoint(tmp_path / "one.ckpt")
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["rece"]
    for other, said in (
        (RECE(str(tiny_model), tune="robust"), "tune.aim: 'balanced' → 'robust'"),
        (RECE(str(tiny_model), drift_budget=0.9), "tune.drift_budget: None → 0.9"),
        (RECE(str(tiny_model), method=Method(editor=UCE(0.5)), tune="balanced"), "model.method.editor.erase_scale"),
        (RECE(str(tiny_model), tune="off"), "model.method"),
    ):
        with pytest.raises(ConfigurationError, match=said.replace(".", r"\.")):
            other.check_same_run(state)
    # What was chosen may be asked for by name.
    RECE(str(tiny_model), method=Method.from_plain(state["method"])).check_same_run(state)


def test_a_method_that_is_given_is_not_touched(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    module = RECE(str(tiny_model), method=Method())
    fit_quietly(module, ConceptData(["bomb"], preserve=[" ", "dog"]))
    assert module.method == Method()
    assert module.session.tuned.choice is None
    erasure = rece_lightning.erase(pipeline_of(tiny_model), "bomb", method=Method(), epochs=1)
    assert erasure.tuning is None
    assert module.hparams["tune"] == "off"


def test_robust_edits_values_alone_with_a_singular_map(tiny_model: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        erasure = rece_lightning.erase(pipeline_of(tiny_model), "bomb", tune="robust")
    assert erasure.tuning is not None
    assert erasure.tuning["aim"] == "robust"
    assert all("to_v" in name for name in erasure.names)
    matrix = erasure.maps[TEXT].of_layer(0)
    values = torch.linalg.svdvals(matrix)
    assert values[-1] < 1e-9 * values[0]


def test_a_user_is_told_when_even_the_best_setting_does_harm(tiny_model: Path) -> None:
    with pytest.warns(UserWarning, match="moves the keys and values of other prompts by .*preserve more prompts"):
        erasure = rece_lightning.erase(pipeline_of(tiny_model), "bomb", preserve=[" "])
    assert erasure.tuning is not None
    assert erasure.tuning["chosen"]["drift"] > 0.1


def test_tuning_of_a_budget_of_drift_reaches_every_door(tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"drift_budget: 1e-12: the least"):
        rece_lightning.erase(pipeline_of(tiny_model), "bomb", drift_budget=1e-12)
    with pytest.raises(ConfigurationError, match=r"drift_budget: 1e-12: the least"):
        fit_quietly(RECE(str(tiny_model), drift_budget=1e-12), ConceptData(["bomb"]))
    with pytest.raises(ConfigurationError, match=r"erase\.tune: unknown value 'some'"):
        rece_lightning.erase(pipeline_of(tiny_model), "bomb", tune="some")


@pytest.mark.parametrize(("layers", "kinds"), [(None, "v"), ("to_k", "kv")])
def test_robust_takes_values_where_there_are_some(tiny_model: Path, layers: str | None, kinds: str) -> None:
    session = ErasureSession(
        LoadedModel((str(tiny_model), None, None, None)), Method(layers=layers), tuning=Tuning("robust")
    )
    end = f"to_{kinds[0]}.weight"
    assert session.names
    assert all(name.endswith(end) for name in session.names)
    assert session.method.projections == kinds
    session.begin()
    assert session.method.projections == kinds


def test_robust_edits_what_is_neither_key_nor_value(tmp_path: Path) -> None:
    """In a run, on a live pipeline and beside another method, with the same choice."""
    pipeline = build("flux")
    pipeline.save_pretrained(tmp_path)
    preserve = ["dog", "rose", "guitar", "pizza"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = RECE(str(tmp_path), tune="robust")
        quiet(enable_checkpointing=False).fit(module, ConceptData(["bomb"], preserve=preserve))
        plain = RECE(str(tmp_path), tune="off")
        quiet(enable_checkpointing=False, max_epochs=1).fit(plain, ConceptData(["bomb"], preserve=preserve))
        beside = erased_beside(plain.session, "robust")
        erasure = rece_lightning.erase(pipeline, ["bomb"], preserve=preserve, tune="robust")
    assert erasure.tuning is not None
    for method in (module.method, beside.method, Method.from_plain(erasure.tuning["method"], "method")):
        assert method.editor.singular
        assert method.projections == "kv"
    assert set(module.session.names) == {"context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight"}
    assert set(erasure.names) == set(beside.names) == set(module.session.names)
    # Its checkpoint is taken again.
    again = RECE(str(tmp_path), tune="robust").session
    again.load_state_dict(module.session.state_dict())
    assert again.method.plain() == module.method.plain()


def test_robust_of_the_pooled_space_alone() -> None:
    """It is read by a map that is neither key nor value, also where the other space has both."""
    pipeline = unets.build("sdxl")
    erasure = rece_lightning.erase(pipeline, "bomb", preserve=["dog"], method=Method(spaces=["pooled"]), tune="robust")
    assert erasure.names == ["add_embedding.linear_1.weight"]


@pytest.mark.parametrize(("world", "kinds"), [("emoji", "v"), ("emoji-mmdit", "kv")])
def test_robust_of_the_embedded_worlds(world: str, kinds: str) -> None:
    session = RECE(world, tune="robust").session
    assert session.spaces
    assert session.method.projections == kinds
