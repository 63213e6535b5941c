"""The robust loop from a configuration to a map: on the embedded world, and on a small random model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from safetensors import safe_open
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import AdversarialPrompt, AttackStore
from rece_lightning.callbacks import ErasureCheckpoint, Export
from rece_lightning.core import UCE, Derivation, Editor, NullSpace, ProjectedUCE, Projection, Robust, TensorUCE
from rece_lightning.core.certificate import certify
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.certificates import ConceptCertificate, certificates
from rece_lightning.erasure.incremental import IncrementalErasure
from rece_lightning.erasure.transfer import transfer
from rece_lightning.vocabulary.expand import read_found
from rece_lightning.vocabulary.neighbours import mine
from tests.helpers.command import run_command, write_config

CONCEPTS = ["bomb", "axe"]
PRESERVED = [" ", "dog", "rose", "pizza", "guitar", "key", "door", "tent", "hammer"]
STAYS = "shield"
"""A validation prompt that should stay: the nearest word to ``bomb`` that does not mean it."""
ALL = {
    "norms": [0.5, 1.0], "ridges": [0.1], "templates": ["a photo of {}"], "synonyms": 3, "neighbours": 4, "weight": 0.5,
}  # fmt: skip
METHOD = Method(editor=UCE(lamb=10.0), derivation=Derivation(1e-3))
STOP: dict[str, Any] = {
    "monitor": "certificate", "mode": "max", "patience": 1000, "check_on_train_epoch_end": True,
}  # fmt: skip
"""Of ``EarlyStopping``, beside the certificate that is enough."""


def fit(
    place: Path | None = None,
    *,
    model: str = "emoji",
    epochs: int = 2,
    resume: Path | None = None,
    concepts: list[Any] = CONCEPTS,
    certificate: float | str | None = None,
    enough: float | None = None,
    robust: dict[str, Any] | None = None,
    **settings: Any,
) -> RECE:
    """Erase two weapons; checkpoints go into ``place``. It stops at a certificate that is ``enough``."""
    switches = None if robust is None else Robust(**robust)
    module = RECE(model, method=replace(METHOD, robust=switches, **settings), certificate=certificate)
    callbacks: list[Callback] = [EarlyStopping(**STOP, stopping_threshold=enough)] if enough is not None else []
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks, *([ErasureCheckpoint(dirpath=str(place))] if place else [])],
        enable_checkpointing=place is not None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ConceptData(concepts, preserve=PRESERVED, validation=[{"prompt": STAYS, "kind": "preserved"}])
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module


def matrix_of(module: RECE) -> torch.Tensor:
    return module.maps["text"].of_layer(0)


def certified(module: RECE, budgets: list[float]) -> list[ConceptCertificate]:
    session = module.session
    return certificates(session.erasure(), session.erased_prompts, session.pairs, budgets)


def figures(module: RECE) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in module.history]


@pytest.fixture(scope="module")
def published() -> RECE:
    return fit()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, published: RECE) -> Path:
    """A folder as ``RedTeam`` leaves it: a prompt and an embedding for ``bomb``, one of each for something else."""
    folder = tmp_path_factory.mktemp("attacked")
    store = AttackStore(folder)
    rows = published.session.encoder.encode(["bomb"]).embeddings[0]
    text = AdversarialPrompt("mma", "bomb", 0, "comic explosion firecracker", queries=1)
    store.add("one", [text, replace(text, concept="church", prompt="chapel"), replace(text, prompt="bomb")])
    sent = replace(text, attack="derived", prompt="bomb", embedding=1.5 * rows.roll(1, 0))
    store.add("two", [sent, replace(sent, concept="church", embedding=rows.flip(0))])
    return folder


# The switches


@pytest.mark.parametrize("key", [*ALL, "found"])
def test_every_switch_alone_changes_the_map(published: RECE, attacked: Path, key: str) -> None:
    if key == "weight":
        some, other = (fit(robust={"norms": [0.5], "weight": weight}) for weight in (0.5, 2.0))
        assert not torch.equal(matrix_of(some), matrix_of(other))
        return
    value = str(attacked) if key == "found" else ALL[key]
    assert not torch.equal(matrix_of(fit(robust={key: value})), matrix_of(published))


def test_without_switches_the_file_says_nothing_of_them(published: RECE) -> None:
    described = published.session.description()
    assert described["method"]["robust"] is None
    assert "robust" not in described["concepts"]
    assert published.hparams["method"]["robust"] is None


@pytest.mark.parametrize(
    "editor", [UCE(lamb=10.0), NullSpace(lamb=10.0), Projection()], ids=["uce", "null space", "projection"]
)
def test_all_switches_together_work_with_every_editor(editor: Editor, attacked: Path) -> None:
    module = fit(editor=editor, robust={**ALL, "found": str(attacked)}, epochs=3)
    assert len(module.history) == 3
    assert all(value == value for row in module.history for value in row.values())
    described = module.session.description()
    assert described["method"]["robust"] == {**ALL, "found": str(attacked)}
    # A text and an embedding about bomb: its own prompt is erased anyway, the others are about a church.
    assert described["concepts"]["robust"]["found"] == 2
    assert [row["prompt"] for row in described["concepts"]["erased"]] == CONCEPTS


def test_norms_take_reach_from_an_attacker_within_them() -> None:
    """What the switch is for: with λ₂ on the scale of the moments the certificate within the norms grows."""

    def reach(robust: dict[str, Any] | None) -> float:
        return min(one.bounds[1.0] for one in certified(fit(epochs=4, robust=robust), [1.0]))

    assert reach({"norms": [0.25, 0.5, 1, 2]}) > 1.2 * reach(None)


def test_synonyms_are_erased_with_their_concept(published: RECE) -> None:
    """Their keys and values come nearer to the target's than without the switch."""
    module = fit(epochs=1, robust={"synonyms": 3})
    words = module.session.description()["concepts"]["robust"]["synonyms"]
    assert set(words["bomb"]) <= set(next(item.synonyms for item in load_catalog().objects if item.name == "bomb"))
    gram = module.session.gram.total

    def left(maps: torch.Tensor, texts: list[str]) -> float:
        rows, target = module.session.encoder.encode(texts), module.session.encoder.encode([" "])
        last, end = rows.last_subject.tolist(), int(target.last_subject[0])
        own = torch.stack([row[place] for row, place in zip(rows.embeddings, last, strict=True)]).double()
        missed = own @ maps.mT - target.embeddings[0, end].double()
        return float(((missed @ gram) * missed).sum())

    texts = [word for found in words.values() for word in found]
    assert published.first_maps is not None
    assert left(matrix_of(module), texts) < 0.5 * left(published.first_maps["text"].of_layer(0), texts)


def test_neighbours_move_less(published: RECE) -> None:
    module = fit(robust={"neighbours": 6})
    words = module.session.description()["concepts"]["robust"]["neighbours"]
    assert len(words) == 12
    rows = module.session.encoder.encode(words).embeddings.double()

    def moved(maps: torch.Tensor) -> float:
        change = rows @ maps.mT - rows
        return float(((change @ module.session.gram.total) * change).sum())

    assert moved(matrix_of(module)) < 0.5 * moved(matrix_of(published))


# Mining


def test_mining_keeps_its_rule(published: RECE) -> None:
    encoder, gram = published.session.encoder, published.session.gram
    concepts = [("bomb", " "), ("axe", " "), ("water pistol", " ")]
    found = mine(encoder, gram, concepts, lambda: "", synonyms=5, neighbours=8, preserved=["gun", STAYS, "hammer"])
    own = {item.name: set(item.synonyms) for item in load_catalog().objects}
    assert set(found.synonyms[0]) == own["bomb"]
    assert {"handgun", "revolver"} <= set(found.synonyms[2])
    meant = {word for words in found.synonyms for word in words}
    assert not meant & {"gun", STAYS, "hammer", "bomb", "axe"}
    assert not set(found.neighbours) & {*meant, "gun", STAYS, "hammer", "bomb", "axe"}
    assert len(found.neighbours) == len(set(found.neighbours)) <= 24
    # Fewer are the nearest of more, and what is left out as a synonym does not become a neighbour.
    fewer = mine(encoder, gram, concepts, lambda: "", synonyms=1, neighbours=3, preserved=["gun", STAYS, "hammer"])
    assert [words[:1] for words in found.synonyms] == list(fewer.synonyms)
    assert set(fewer.neighbours) <= set(found.neighbours)
    nothing = mine(encoder, gram, concepts, lambda: "", synonyms=5, within=1e-9)
    assert nothing.synonyms == ((), (), ())


def test_a_concept_that_reads_as_its_target_has_no_neighbours(published: RECE) -> None:
    with pytest.raises(ConfigurationError, match="read alike"):
        mine(published.session.encoder, published.session.gram, [("bomb", "bomb")], lambda: "", synonyms=1)


# Going on


@pytest.mark.parametrize(
    ("editor", "accumulate"), [(METHOD.editor, False), (Projection(), True)], ids=["uce", "projection"]
)
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, attacked: Path, editor: Editor, accumulate: bool) -> None:
    settings: dict[str, Any] = {"editor": editor, "accumulate": accumulate}
    copy = Path(shutil.copytree(attacked, tmp_path / "attacked"))
    settings["robust"] = {**ALL, "found": str(copy)}
    whole = fit(tmp_path / "whole", epochs=3, **settings)
    shutil.rmtree(copy)  # a run that goes on needs it no more
    again = fit(tmp_path / "again", epochs=3, resume=tmp_path / "whole" / "epoch=0.ckpt", **settings)
    assert torch.equal(matrix_of(again), matrix_of(whole))
    assert figures(again) == figures(whole)
    assert again.session.description() == whole.session.description()
    for name in ("epoch=2.ckpt", "last.ckpt"):
        one, other = (
            torch.load(tmp_path / run / name, weights_only=True)["rece"]["statistics"]["spaces"]["text"]
            for run in ("whole", "again")
        )
        assert one.keys() == other.keys()
        assert {"words.concept", "words.weight", "found.concept", "neighbours.rows"} <= one.keys()
        for key, tensor in one.items():
            assert torch.equal(tensor, other[key]), key


def test_what_takes_more_room_than_its_moments_is_stored_as_moments(tmp_path: Path, tiny_model: Path) -> None:
    settings: dict[str, Any] = {
        "model": str(tiny_model),
        "robust": {"norms": [1.0], "synonyms": 40, "neighbours": 40, "within": 0.9},
    }
    whole = fit(tmp_path / "whole", epochs=3, **settings)
    stored = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["rece"]["statistics"]["spaces"]["text"]
    joined = {name for name in stored if name.startswith(("words.", "found.", "neighbours."))}
    moments = {f"words.{part}.{name}" for part in ("first", "whole") for name in ("erased", "cross", "target")}
    moments |= {name.replace("words", "found") for name in moments}
    assert joined == {*moments, "neighbours.moments", "words.count", "neighbours.count", "found.count"}
    again = fit(tmp_path / "again", epochs=3, resume=tmp_path / "whole" / "epoch=0.ckpt", **settings)
    assert torch.equal(matrix_of(again), matrix_of(whole))
    assert figures(again) == figures(whole)


def test_another_model_gets_what_joined_too(tmp_path: Path, published: RECE) -> None:
    """``apply`` runs the epochs anew from the checkpoint alone."""
    module = fit(tmp_path, robust=ALL)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(
        transfer(content, ("emoji", None, None, None)).erasure.maps["text"].of_layer(0), matrix_of(module)
    )


def test_a_run_goes_on_under_the_same_switches_alone(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1, robust=ALL)
    for robust in (None, {**ALL, "weight": 0.4}, {"norms": [0.5]}):
        with pytest.raises(ConfigurationError, match=r"model\.method\.robust.*: .* → "):
            fit(epochs=2, resume=tmp_path / "last.ckpt", robust=robust)


def test_a_published_run_goes_on_as_one(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    with pytest.raises(ConfigurationError, match=r"model\.method\.robust: None → "):
        fit(epochs=2, resume=tmp_path / "last.ckpt", robust=ALL)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1, robust={"synonyms": 2, "neighbours": 2})
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    stored = content["rece"]["statistics"]["spaces"]["text"]
    whole = stored["neighbours.rows"]
    for broken in (whole * float("nan"), whole[..., :3], whole[0], "text"):
        stored["neighbours.rows"] = broken
        torch.save(content, tmp_path / "broken.ckpt")
        with pytest.raises(ConfigurationError, match=r"rece\.statistics.*; give a checkpoint that RECE wrote"):
            RECE.load_from_checkpoint(tmp_path / "broken.ckpt", weights_only=True)
    stored["neighbours.rows"] = whole
    stored["words.weight"][0] = -1.0
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(ConfigurationError, match=r"a weight in rece\.statistics\.text\.words cannot be"):
        RECE.load_from_checkpoint(tmp_path / "broken.ckpt", weights_only=True)


def test_concepts_are_not_added_to_words_that_were_chosen_for_others() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.method\.robust"):
        IncrementalErasure(fit(epochs=1, robust={"synonyms": 1}).session)
    IncrementalErasure(fit(epochs=2, robust={"norms": [1.0]}).session).add(["dagger"])


# Stopping


def test_it_stops_at_the_certificate_and_not_before(tmp_path: Path) -> None:
    """Over embeddings of any norm, as the stored weights have it; the epochs are those of the published loop."""
    settings: dict[str, Any] = {"editor": Projection(), "epochs": 4, "certificate": "any"}
    whole = fit(enough=1e6, **settings)
    least = [row["certificate"] for row in whole.history]
    assert len(least) == 4
    assert least[1] > least[0]
    wanted = (least[0] + least[1]) / 2
    module = fit(tmp_path, enough=wanted, **settings)
    assert len(module.history) == 2
    assert torch.equal(matrix_of(module), matrix_of(fit(editor=Projection(), epochs=2)))
    found = min(one.bounds[None] for one in certified(module, []))
    assert found == module.history[-1]["certificate"] >= wanted
    assert (tmp_path / "last.ckpt").exists()


def test_a_budget_lets_an_editor_with_an_invertible_map_stop() -> None:
    module = fit(epochs=4, robust={"norms": [0.5, 1]}, certificate=0.5, enough=0.03)
    found = [row["certificate"] for row in module.history]
    assert found[-1] >= 0.03
    assert all(one < 0.03 for one in found[:-1])
    pairs = module.session.pairs["text"]
    rows = [torch.stack([getattr(pair, name) for pair in pairs]).double() for name in ("concept", "target")]
    exact = certify(module.session.gram, module.maps["text"], *rows, 0.5)
    # What the stored half-precision weights take off is little.
    assert float(exact.relative.min()) == pytest.approx(found[-1], rel=0.2)


def test_a_run_that_was_stopped_by_its_certificate_is_finished(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"editor": Projection(), "epochs": 4, "certificate": "any", "enough": 0.01}
    fit(tmp_path, **settings)
    with pytest.raises(ConfigurationError, match=r"EarlyStopping ended the run after 1 epochs"):
        fit(tmp_path, resume=tmp_path / "last.ckpt", **settings)


def test_a_run_that_died_after_its_certificate_gets_its_end_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    """With a budget so small that one epoch is enough: what is missing is written, no epoch is added."""
    monkeypatch.chdir(tmp_path)
    stop = {"class_path": "EarlyStopping", "init_args": {**STOP, "stopping_threshold": 1e-3}}
    config = write_config(
        tmp_path,
        tiny_model,
        model={"certificate": 1e-3, "method": {"robust": {"norms": [1.0]}}},
        trainer={"max_epochs": 4, "callbacks": [stop, {"class_path": "Export"}]},
    )
    first = run_command(capsys, "fit", "--config", config)
    assert first.code == 0, first.err
    run = Path("runs/run/version_0")
    assert (run / "checkpoints/epoch=0.ckpt").exists()
    assert not (run / "checkpoints/epoch=1.ckpt").exists()
    edited = load_file(run / "edited.safetensors")
    (run / "edited.safetensors").unlink()
    again = run_command(capsys, "fit", "--config", config, "--ckpt_path", "last")
    assert again.code == 0, again.err
    written = load_file(run / "edited.safetensors")
    assert all(torch.equal(weight, written[name]) for name, weight in edited.items())
    assert not (run / "checkpoints/epoch=1.ckpt").exists()


def test_the_command_line_refuses_a_key_and_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, tiny_model, model={"method": {"robust": {"synonims": 5}}})
    outcome = run_command(capsys, "fit", "--config", config)
    assert outcome.code == 2
    assert "model.method.robust.synonims: " in outcome.err
    assert "did you mean 'synonyms'?" in outcome.err
    assert not (tmp_path / "runs").exists()


# Refusals


@pytest.mark.parametrize(
    ("robust", "said"),
    [
        ({"norm": [1.0]}, r"model\.method\.robust\.norm: no such setting; did you mean 'norms'"),
        ({}, "switches nothing on"),
        ({"weight": 2.0}, "switches nothing on"),
        ("norms", r"model\.method\.robust: 'norms' is no Robust"),
        ({"norms": 1.0}, "list of numbers"),
        ({"norms": []}, "switches nothing on"),
        ({"norms": [0.0]}, r"robust\.norms: 0\.0"),
        ({"norms": [1, 1.0]}, "twice"),
        ({"ridges": ["small"]}, r"robust\.ridges"),
        ({"templates": ["a photo"]}, r"robust\.templates"),
        ({"synonyms": 0}, "switches nothing on"),
        ({"synonyms": -1}, r"robust\.synonyms: -1"),
        ({"synonyms": 2.5}, r"robust\.synonyms"),
        ({"neighbours": True}, r"robust\.neighbours"),
        ({"synonyms": 1, "within": -1}, r"robust\.within"),
        ({"norms": [1.0], "within": 0.2}, "only synonyms and neighbours"),
        ({"norms": [1.0], "weight": 0}, r"robust\.weight: 0"),
        ({"found": " "}, r"robust\.found"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_model(robust: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RECE("no such model", method={"robust": robust})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ("high", r"model\.certificate: 'high'"),
        (0, r"model\.certificate: 0"),
        (True, r"model\.certificate: True"),
        ("any", r"model\.certificate: any: UCE leaves a map that can be inverted.*give a number"),
    ],
)
def test_certificates_that_make_no_sense_are_refused_before_any_model(certificate: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RECE("no such model", certificate=certificate, tune="off")


def test_a_certificate_of_any_norm_needs_one_editor_that_takes_something_out_of_reach() -> None:
    for method in (Method(editor=ProjectedUCE()), Method(editor=UCE(), first_editor=ProjectedUCE())):
        RECE("no such model", method=method, certificate="any")
    module = fit(editor=UCE(), first_editor=ProjectedUCE(), epochs=3, certificate="any")
    least = [row["certificate"] for row in module.history]
    assert least[0] > 0.01
    # RECE's epochs behind it bring nothing back and take nothing more.
    assert least[1:] == pytest.approx(least[:1] * 2, rel=0.05)


def test_an_editor_with_a_map_a_layer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.method\.robust: TensorUCE takes every prompt apart"):
        Method(editor=TensorUCE(), robust=Robust(norms=(1.0,)))


def test_what_was_found_on_a_concept_counts_together_as_the_concept(attacked: Path) -> None:
    data = ConceptData([{"prompt": "bomb", "weight": 3.0}, "axe"], preserve=PRESERVED)
    found = read_found(str(attacked), data)
    assert [pair.prompt for pair in found.prompts] == ["comic explosion firecracker"]
    assert len(found.embeddings) == 1
    assert [pair.weight for pair in found.prompts] == [1.5]
    assert [one.weight for one in found.embeddings] == [1.5]


def test_a_folder_without_attacks_on_these_concepts_is_refused(tmp_path: Path, attacked: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.method\.robust\.found: .* has neither"):
        fit(robust={"found": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="but about bomb, church"):
        fit(robust={"found": str(attacked)}, concepts=["dagger"])


def test_an_embedding_of_another_model_is_refused(tmp_path: Path) -> None:
    sent = AdversarialPrompt("derived", "bomb", 0, "bomb", embedding=torch.zeros(77, 768))
    AttackStore(tmp_path).add("one", [sent])
    with pytest.raises(ConfigurationError, match=r"shape \[77, 768\]"):
        fit(robust={"found": str(tmp_path)})


def test_a_damaged_file_of_attacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adversarial_embeddings.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        fit(robust={"found": str(tmp_path)})


def test_the_file_of_edited_weights_says_what_joined(tmp_path: Path) -> None:
    module = RECE("emoji", method=replace(METHOD, robust=Robust(synonyms=2)))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, callbacks=[Export()], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(["bomb"], preserve=PRESERVED))
    with safe_open(tmp_path / "edited.safetensors", framework="pt") as file:
        assert "explosion" in file.metadata()["rece.concepts"]
