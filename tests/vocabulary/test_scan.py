"""The vocabulary scan on the embedded world, against one word at a time by the model's own encoder."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core import UCE, Editor, Projection, TensorUCE
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.certificates import certificates
from rece_lightning.vocabulary import scan, vocabulary_words
from rece_lightning.vocabulary.rows import cached_rows, subject_rows
from tests.helpers.command import run_command

PRESERVED = [" ", "dog", "rose", "pizza", "guitar", "key", "door", "tent"]


def fitted(folder: Path, editor: Editor) -> tuple[RECE, Path]:
    """An erasure of two weapons, and its checkpoint."""
    module = RECE(pretrained="emoji", method=Method(editor=editor))
    data = ConceptData(concepts=["bomb", "water pistol"], preserve=PRESERVED)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, next(folder.rglob("*.ckpt"))


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> tuple[RECE, Path]:
    return fitted(tmp_path_factory.mktemp("projected"), Projection())


def test_words_are_single_tokens_of_the_tokenizer(projected: tuple[RECE, Path]) -> None:
    tokenizer = projected[0].session.encoder.tokenizer
    words = vocabulary_words(tokenizer)
    assert {"bomb", "gun", "pistol", "axe"} <= set(words)
    assert len(words) == len(set(words)) > 500
    for word in random.Random(0).sample(words, 50):
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1


def test_short_batches_give_the_rows_of_whole_prompts(projected: tuple[RECE, Path]) -> None:
    """In any batch, in the order of the prompts, whatever their lengths."""
    encoder = projected[0].session.encoder
    prompts = ["a photo of bomb", "bomb", "an axe in twemoji style on a blue background", " ", "a water pistol"]
    whole = encoder.encode(prompts)
    expected = torch.stack([
        torch.stack([rows[last], rows[last + 1]])
        for rows, last in zip(whole.embeddings, whole.last_subject.tolist(), strict=True)
    ])  # fmt: skip
    for batch in (1, 2, 5):
        torch.testing.assert_close(subject_rows(encoder, prompts, batch).float(), expected, rtol=2e-3, atol=2e-3)


def test_distances_are_those_of_keys_and_values_word_by_word(projected: tuple[RECE, Path], tmp_path: Path) -> None:
    """With the projections themselves, in place of Gram matrices."""
    module, _ = projected
    words = ["gun", "revolver", "rocket", "bomb", "church"]
    found = scan(module.session, words=words, cache=tmp_path)
    assert found.concepts == ("bomb", "water pistol")
    before = dict(module.base.read_projections(module.session.names))
    after = {name: weight.double() @ module.maps["text"].of_layer(0) for name, weight in before.items()}

    def rows(text: str) -> torch.Tensor:
        encoded = module.session.encoder.encode([f"a photo of {text}"])
        last = int(encoded.last_subject[0])
        return encoded.embeddings[0, last : last + 2].double()

    def distance(word: str, weights: dict[str, torch.Tensor], other: str) -> float:
        return sum(
            float((rows(word) @ weights[name].double().mT - rows(other) @ before[name].double().mT).square().sum())
            for name in module.session.names
        )

    sizes = [distance(concept, before, " ") for concept in found.concepts]
    for place, word in enumerate(words):
        for index, (concept, size) in enumerate(zip(found.concepts, sizes, strict=True)):
            close: dict[str, Any] = {"rel": 0.01, "abs": 0.003}
            assert float(found.before[place, index]) == pytest.approx(distance(word, before, concept) / size, **close)
            assert float(found.after[place, index]) == pytest.approx(distance(word, after, concept) / size, **close)
        moved = distance(word, after, word) / sorted(sizes)[0]
        assert float(found.change[place]) == pytest.approx(moved, rel=0.01, abs=0.003)


def test_nearest_and_hurt_words_are_in_order_and_nobody_named_them(
    projected: tuple[RECE, Path], tmp_path: Path
) -> None:
    found = scan(projected[0].session, cache=tmp_path, beam=2, words=["gun", "bomb", "rocket", "door", "pistol", "axe"])
    for place in range(2):
        nearest = found.nearest(place, 6)
        assert [row[2] for row in nearest] == sorted(row[2] for row in nearest)
    # On the original model a concept's own word is the concept itself.
    assert dict((row[0], row[1]) for row in found.nearest(0, 6))["bomb"] < 1e-3
    hurt = found.hurt(6)
    assert {row[0] for row in hurt} == {"gun", "rocket", "door", "axe"}
    assert [row[1] for row in hurt] == sorted((row[1] for row in hurt), reverse=True)
    assert len(found.pairs) == 4
    alone = scan(projected[0].session, cache=tmp_path, words=[found.pairs[0][1]])
    assert float(alone.after[0, 0]) == pytest.approx(found.pairs[0][2], rel=1e-6)


def test_vocabulary_is_encoded_once_for_a_text_encoder(projected: tuple[RECE, Path], tmp_path: Path) -> None:
    """Another encoder, another list of words, and a damaged file are no hits."""
    encoder = projected[0].session.encoder
    rows, found = cached_rows(encoder, "one", ["bomb", "axe"], tmp_path)
    assert not found
    (file,) = tmp_path.iterdir()
    again, found = cached_rows(encoder, "one", ["bomb", "axe"], tmp_path)
    assert found
    assert torch.equal(rows, again)
    assert not cached_rows(encoder, "other", ["bomb", "axe"], tmp_path)[1]
    assert not cached_rows(encoder, "one", ["axe", "bomb"], tmp_path)[1]
    file.write_bytes(file.read_bytes()[:-8])
    repaired, found = cached_rows(encoder, "one", ["bomb", "axe"], tmp_path)
    assert not found
    # Encoded once more: the same but for what a network rounds.
    torch.testing.assert_close(repaired, rows, rtol=1e-3, atol=1e-4)
    save_file({"rows": torch.zeros_like(rows)}, file, {"vocabulary": "something else"})
    repaired, found = cached_rows(encoder, "one", ["bomb", "axe"], tmp_path)
    assert not found
    torch.testing.assert_close(repaired, rows, rtol=1e-3, atol=1e-4)
    assert torch.equal(load_file(file)["rows"], repaired)


def test_projection_is_certified_and_uce_is_not(projected: tuple[RECE, Path], tmp_path: Path) -> None:
    """Every bound lies below what an attack reaches; without a budget only the singular map has one."""
    uce, _ = fitted(tmp_path, UCE())
    for module, singular in ((projected[0], True), (uce, False)):
        session = module.session
        for row in certificates(session.erasure(), session.erased_prompts, session.pairs, (0.5, 1.0)):
            assert (row.bounds[None] > 0.01) is singular
            for budget, reached in row.residuals.items():
                assert row.bounds[budget] <= reached
                assert row.bounds[None] <= row.bounds[budget] * (1 + 1e-9) or row.holds_to < budget
            assert row.error < 1e-6


def test_checkpoint_of_the_editor_goes_on_and_another_editor_is_refused(projected: tuple[RECE, Path]) -> None:
    module, checkpoint = projected
    loaded = RECE.load_from_checkpoint(checkpoint, weights_only=True)
    assert torch.equal(loaded.maps["text"].of_layer(0), module.maps["text"].of_layer(0))
    described = loaded.session.description()["method"]["editor"]
    assert described == {"class_path": "Projection", "init_args": {"rank": None, "shrinkage": 3.0}}
    with pytest.raises(ConfigurationError, match=r"model\.method\.editor: 'Projection' → 'UCE'"):
        RECE.load_from_checkpoint(checkpoint, weights_only=True, method=Method())
    with pytest.raises(ConfigurationError, match=r"model\.method\.editor\.shrinkage: 3\.0 → 1\.0"):
        RECE.load_from_checkpoint(checkpoint, weights_only=True, method=Method(editor=Projection(shrinkage=1.0)))


def test_verbs_print_tables_for_a_checkpoint(
    projected: tuple[RECE, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    command: list[str | Path] = [
        "test",
        "--ckpt_path",
        projected[1],
        "--certificate",
        "--scan",
        "--cache",
        tmp_path,
        "--words",
        "3",
    ]
    found = run_command(capsys, *command, "--budgets", "0.5,2")
    assert found.code == 0, found.err
    for text in ("‖c'‖ ≤ 0.5‖c‖", "any norm", "water pistol", "Words nearest to 'bomb'", "encoding"):
        assert text in found.out
    assert "from the cache" in run_command(capsys, *command).out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--budgets", "one"], "--budgets"),
        (["--budgets=-1"], "budget"),
        (["--template", "no place"], "--template"),
        (["--words", "0"], "--words"),
        (["--scam"], "--scan"),
    ],
)
def test_mistakes_are_named(
    projected: tuple[RECE, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    found = run_command(
        capsys, "test", "--ckpt_path", projected[1], "--certificate", "--scan", "--cache", tmp_path, *arguments
    )
    assert found.code == 2
    assert named in found.err


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rank": 0}, r"Projection\.rank: 0"),
        ({"rank": 2.5}, r"Projection\.rank: 2\.5"),
        ({"shrinkage": 0.0}, r"Projection\.shrinkage: 0"),
    ],
)
def test_settings_that_the_editor_cannot_use_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Projection(**settings)


def test_an_editor_with_a_map_a_layer_cannot_begin() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.method\.first_editor: .* does not go with Projection"):
        Method(editor=Projection(), first_editor=TensorUCE())
