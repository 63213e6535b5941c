"""Bad input ends in one message that names field, value and remedy, in exit code 2, and before a model is loaded."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.files import write_atomically
from rece_lightning.models.text import PromptEncoder
from tests.helpers.command import run_command, write_config

EVALUATION = "rece_lightning.callbacks.Evaluation"
EMOJI_DETECTOR = {"class_path": "rece_lightning.metrics.EmojiDetector"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run ``fit`` on a configuration and return the message that it must end with, no model loaded."""

    def run(*arguments: str | Path, may_load: bool = False, pretrained: Path | str | None = None, **config: Any) -> str:
        def load(*_: Any, **__: Any) -> PromptEncoder:
            raise AssertionError("the text encoder was loaded before the mistake was found")

        path = write_config(tmp_path, tiny_model if pretrained is None else pretrained, **config)
        with monkeypatch.context() as patch:
            if not may_load:
                patch.setattr("rece_lightning.erasure.loaded.load_encoder", load)
            outcome = run_command(capsys, "fit", "--config", path, *arguments)
        return message_of(outcome.code, outcome.out, outcome.err)

    return run


def message_of(code: int, out: str, err: str) -> str:
    assert code == 2, out + err
    assert "Traceback" not in out + err
    assert err.count("error: ") == 1
    return err.split("error: ", 1)[1]


def assert_names(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, f"{part!r} is not in: {message}"


def test_the_configuration_that_every_case_departs_from_runs(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_command(capsys, "fit", "--config", write_config(tmp_path, tiny_model))
    assert outcome.code == 0
    assert (tmp_path / "runs/run/version_0/edited.safetensors").is_file()


# Configurations and names


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("nudty.yaml", ["'nudty.yaml'", "did you mean 'nudity.yaml'?", "van_gogh.yaml"]),
        ("xyzzy", ["'xyzzy'", "emoji.yaml", "objects.yaml"]),
        ("/no/such/folder/mine.yaml", ["/no/such/folder/mine.yaml", "unsafe.yaml", "or a path"]),
    ],
)
def test_a_missing_config_lists_those_that_ship(
    capsys: pytest.CaptureFixture[str], given: str, parts: list[str]
) -> None:
    outcome = run_command(capsys, "fit", "--config", given)
    assert_names(message_of(outcome.code, outcome.out, outcome.err), "--config", *parts)


def test_a_name_like_no_configuration_gets_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them end in .yaml, which makes none of them likely."""
    outcome = run_command(capsys, "fit", "--config", "nope.yaml")
    assert "did you mean" not in message_of(outcome.code, outcome.out, outcome.err)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"model: [", ["no valid YAML", "line 1"]),
        (b"- model", ["holds no settings", "--print_config"]),
        (b"", ["holds no settings", "--print_config"]),
        ("data: {concepts: [é]}".encode("latin-1"), ["not UTF-8", "save it as UTF-8"]),
        (b"model:\ndata: {concepts: [bomb]}", ["model: None", "no mapping", "leave it out"]),
        (b"trainer: 4", ["trainer: 4", "no mapping"]),
    ],
)
def test_a_config_that_is_no_mapping_of_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, parts: list[str]
) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    outcome = run_command(capsys, "fit", "--config", "own.yaml")
    assert_names(message_of(outcome.code, outcome.out, outcome.err), "own.yaml", *parts)


def test_a_config_with_a_byte_order_mark_runs(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, tiny_model)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert run_command(capsys, "fit", "--config", path).code == 0


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_command(capsys, "fitt")
    assert_names(message_of(outcome.code, outcome.out, outcome.err), "'fitt'", "did you mean 'fit'?", "predict")


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("model", "lambd", "model.method.editor.lamb"),
        ("model", "lam", "model.method.editor.lamb"),
        ("model", "revison", "model.revision"),
        ("model", "revis", "model.revision"),  # argparse would take it for an abbreviation
        ("model", "regulariser", "model.method.derivation.regularizer"),
        ("model", "method.lamb", "model.method.editor.lamb"),
        ("model", "method.token", "model.method.tokens"),
        ("model", "method.derivation.scal", "model.method.derivation.scale"),
        ("data", "concept", "data.concepts"),
        ("data", "preserved", "data.preserve"),
        ("trainer", "max_epoch", "trainer.max_epochs"),
        ("modle", "lamb", "model"),
    ],
)
def test_an_unknown_key_names_the_nearest(refused: Callable[..., str], section: str, key: str, near: str) -> None:
    present = {"data": {"concepts": ["bomb"]}}.get(section, {})
    nested: Any = 1
    for name in reversed(key.split(".")):
        nested = {name: nested}
    in_yaml = refused(**{section: {**present, **nested}})
    on_the_command_line = refused(f"--{section}.{key}", "1")
    for message in (in_yaml, on_the_command_line, refused(f"--{section}.{key}=1")):
        assert_names(message, f"{section}.{key}: no such setting", f"did you mean '{near}'?")


FORMER = [
    ("lamb", 0.1, "model.method.editor.lamb"),
    ("erase_scale", 1.0, "model.method.editor.erase_scale"),
    ("preserve_scale", 1.0, "model.method.editor.preserve_scale"),
    ("regular_scale", 0.1, "model.method.derivation.scale"),
    ("regularizer", "norm", "model.method.derivation.regularizer"),
    ("surrogate_items", "both", "model.method.derivation.surrogate_items"),
    ("technique", "tensor", "model.method.editor"),
    ("editor", "projection", "model.method.editor"),
    ("erased_rank", 2, "model.method.editor.rank"),
    ("shrinkage", 5, "model.method.editor.shrinkage"),
    ("null_space_threshold", 0.1, "model.method.editor.threshold"),
    ("augmented_rank", 2, "model.method.editor.augmented_rank"),
    ("accumulate", True, "model.method.accumulate"),
    ("first_edit", {"lamb": 0.5}, "model.method.first_editor"),
    ("tokens", "all", "model.method.tokens"),
    ("projections", "v", "model.method.projections"),
    ("layers", "^up", "model.method.layers"),
    ("robust", {"synonyms": 5}, "model.method.robust"),
    ("robust", {"certificate": 0.15}, "model.certificate"),
    ("robust", {"budget": 1.0}, "model.certificate"),
    ("robust", {"attacks": ["cce"]}, "between_epochs of the callback RedTeam"),
]


@pytest.mark.parametrize(("key", "value", "now"), FORMER, ids=[f"{key}={value}" for key, value, _ in FORMER])
def test_a_key_of_the_former_layout_ends_in_the_new_one(
    refused: Callable[..., str], key: str, value: Any, now: str
) -> None:
    in_yaml = refused(model={key: value})
    name = f"{key}.{next(iter(value))}" if isinstance(value, dict) else key
    inner = str(next(iter(value.values()))) if isinstance(value, dict) else str(value)
    on_the_command_line = refused(f"--model.{name}", inner)
    for message in (in_yaml, on_the_command_line):
        assert message.startswith(f"model.{key}")
        assert_names(message, f"model.{name}: it is {now}")
        assert message.count("\n") == 1


def test_the_former_switches_of_a_robust_loop_where_the_others_are_now(refused: Callable[..., str]) -> None:
    for message in (
        refused(model={"method": {"robust": {"certificate": 0.15}}}),
        refused("--model.method.robust.certificate", "0.15"),
    ):
        assert_names(message, "model.method.robust.certificate: it is model.certificate now", "EarlyStopping")


def test_a_former_argument_of_erase(refused: Callable[..., str]) -> None:
    callback = {"class_path": "rece_lightning.callbacks.Erase", "init_args": {"concepts": "bomb", "lamb": 1.0}}
    assert_names(refused(trainer={"callbacks": [callback]}), "Erase.lamb: it is Erase.method.editor.lamb now.")


def test_an_argument_without_dashes_is_refused(refused: Callable[..., str]) -> None:
    assert_names(refused("lamb"), "'lamb'", "--model.method.editor.lamb 0.1")


def test_a_setting_without_its_value_is_refused(refused: Callable[..., str]) -> None:
    for key in ("model.attacker_scale", "model.method.derivation.scale", "model.method.editor"):
        assert_names(refused(f"--{key}"), f"{key}: no value", f"--{key} VALUE")


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("derivation.regularizer", "norms", "norm"),
        ("derivation.regularizer", "surogate", "surrogate"),
        ("derivation.surrogate_items", "frist", "first"),
        ("tokens", "alligned", "aligned"),
        ("projections", "kvs", "kv"),
        ("editor", "UC", "UCE"),
        ("editor", "projecton", "Projection"),
        ("editor", "uce", "UCE"),  # a name of the former layout
        ("editor", "null_space", "NullSpace"),
        ("first_editor", "TensrUCE", "TensorUCE"),
    ],
)
def test_an_unknown_choice_names_the_nearest(refused: Callable[..., str], key: str, value: str, near: str) -> None:
    for message in (refused(model={"method": method(key, value)}), refused(f"--model.method.{key}", value)):
        assert_names(message, key, f"'{value}'", f"did you mean '{near}'?", "Valid:")


def method(key: str, value: Any) -> dict[str, Any]:
    """``model.method`` with one value; an argument of the editor stands below ``init_args``."""
    *way, last = key.split(".")
    if way and way[0].endswith("editor"):
        return {way[0]: {"class_path": "UCE", "init_args": {last: value}}}
    nested: dict[str, Any] = {last: value}
    for name in reversed(way):
        nested = {name: nested}
    return nested


@pytest.mark.parametrize(
    ("editor", "arguments", "parts"),
    [
        ({"class_path": "UCE", "init_args": {"lam": 1}}, (), ["model.method.editor.lam: UCE", "did you mean 'lamb'?"]),
        (None, ("editor.lam", "1"), ["model.method.editor.lam: UCE", "did you mean 'lamb'?"]),
        (
            None,
            ("editor.shrinkage", "5"),
            ["editor.shrinkage: UCE has no such", "Projection have; give --model.method.editor ProjectedUCE"],
        ),
        ({"class_path": "no.such.Editor"}, (), ["model.method.editor", "'no.such.Editor'", "PYTHONPATH"]),
        (
            {"class_path": "rece_lightning.core.gram.Gramm"},
            (),
            ["model.method.editor", "unknown class 'rece_lightning.core.gram.Gramm'", "UCE"],
        ),
        (
            {"class_path": "torch.optim.sgd.SDG"},
            (),
            ["model.method.editor", "module torch.optim.sgd has no class 'SDG'", "did you mean 'SGD'?"],
        ),
        ({"class_path": "pathlib.Path"}, (), ["model.method.editor", "pathlib.Path"]),
    ],
)
def test_an_editor_that_makes_no_sense(
    refused: Callable[..., str], editor: Any, arguments: tuple[str, ...], parts: list[str]
) -> None:
    model = {} if editor is None else {"method": {"editor": editor}}
    assert_names(refused(*(f"--model.method.{arguments[0]}", *arguments[1:]) if arguments else (), model=model), *parts)


@pytest.mark.parametrize(
    ("entry", "given", "near"),
    [
        ({"class_path": "Exprot"}, "Exprot", "Export"),
        ({"class_path": "rece_lightning.callbacks.Reprot"}, "Reprot", "Report"),
        ("Evalution", "Evalution", "Evaluation"),
    ],
)
def test_an_unknown_callback_names_the_nearest(refused: Callable[..., str], entry: Any, given: str, near: str) -> None:
    name = entry if isinstance(entry, str) else entry["class_path"]
    in_yaml = refused(trainer={"callbacks": [{"class_path": "Export"}, entry]})
    for message in (in_yaml, refused(f"--trainer.callbacks+={name}")):
        assert_names(message, "trainer.callbacks: unknown", given, f"did you mean '{near}'?", "DevicePlacement")


def test_an_unknown_logger_names_the_nearest(refused: Callable[..., str]) -> None:
    assert_names(refused(trainer={"logger": "CSVLoger"}), "trainer.logger", "'CSVLoger'", "did you mean 'CSVLogger'?")


@pytest.mark.parametrize(
    ("callback", "arguments", "parts"),
    [
        ("Export", {"file": "a"}, ["Export.file", "did you mean 'filename'?"]),
        ("Export", {"filename": "a.bin"}, ["Export.filename", "'a.bin'", ".safetensors"]),
        ("Evaluation", {"steps": "abc"}, ["Evaluation.steps", "'abc'", "a whole number"]),
        ("Evaluation", {"steps": 0}, ["steps: 0", "1 or more"]),
        ("Evaluation", {"guidance_scale": math.nan}, ["guidance_scale: nan", "0 or more"]),
        ("Evaluation", {"pictures_per_prompt": 0}, ["pictures_per_prompt: 0", "1 or more"]),
        ("Evaluation", {"detector": {"class_path": "NoSuch"}}, ["Evaluation.detector", "'NoSuch'", "class path"]),
        ("ErasureCheckpoint", {"monitor": "residual"}, ["monitor", "'residual'", "'regeneration_residual'?"]),
        ("ErasureCheckpoint", {"monitor": "certificate"}, ["monitor", "no certificate is logged", "model.certificate"]),
        ("ErasureCheckpoint", {"monitor": "pooled/norm_ratio"}, ["monitor", "no text space 'pooled'", ": none."]),
        ("DevicePlacement", {"algebra": "gpux"}, ["algebra", "'gpux'", "cpu"]),
    ],
)
def test_an_argument_of_a_callback_that_makes_no_sense(
    refused: Callable[..., str], callback: str, arguments: dict[str, Any], parts: list[str]
) -> None:
    assert_names(refused(trainer={"callbacks": [{"class_path": callback, "init_args": arguments}]}), *parts)


# Tables


TABLES = [
    ("no column", b"prmpt,target\nbomb,toy\n", ["no column 'prompt'", "did you mean 'prmpt'?"]),
    ("empty", b"", ["is empty", "column 'prompt'"]),
    ("header alone", b"prompt,target\n", ["a header and no row", "at least one"]),
    ("blank prompt", b"prompt,target\nbomb,toy\n  ,toy\n", ["line 3", "blank prompt", "delete the row"]),
    ("latin-1", "prompt\ncafé\n".encode("latin-1"), ["not UTF-8", "save it as UTF-8"]),
    ("utf-16", "prompt\ncafé\n".encode("utf-16"), ["not UTF-8", "save it as UTF-8"]),
    ("utf-16 without a mark", "prompt\ncafe\n".encode("utf-16-le"), ["not UTF-8", "save it as UTF-8"]),
]


@pytest.mark.parametrize("field", ["concepts", "preserve", "validation"])
@pytest.mark.parametrize(("content", "parts"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
def test_a_table_that_cannot_be_read(
    refused: Callable[..., str], tmp_path: Path, field: str, content: bytes, parts: list[str]
) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    assert_names(refused(data={"concepts": ["axe"], field: "table.csv"}), f"data.{field}", "table.csv", *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"prompt,weight\nbomb,much\n", ["weight", "'much'", "'bomb'", "no number"]),
        (b"prompt,weight\nbomb,nan\n", ["weight", "nan", "finite number greater than 0"]),
        (b"prompt,weight\nbomb,-1\n", ["weight", "-1.0", "finite number greater than 0"]),
        (b"prompt,templates\nbomb,painting\n", ["templates", "'painting'", "'{}' once"]),
    ],
)
def test_a_cell_that_makes_no_sense(
    refused: Callable[..., str], tmp_path: Path, content: bytes, parts: list[str]
) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    assert_names(refused(data={"concepts": "table.csv"}), "data.concepts", *parts)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ({"concepts": "none.csv"}, ["data.concepts", "none.csv", "No such file"]),
        ({"concepts": "./"}, ["data.concepts", "'./'", ".csv"]),
        ({"concepts": ["bomb"], "preserve": "none.csv"}, ["data.preserve", "none.csv", "No such file"]),
        ({"concepts": ["bomb"], "preserve": "dog"}, ["data.preserve", "'dog'", "a list of prompts"]),
        ({"concepts": ["bomb"], "validation": "prompts.csv"}, ["data.validation", "prompts.csv", "No such file"]),
    ],
)
def test_a_table_that_is_not_there(refused: Callable[..., str], setting: dict[str, Any], parts: list[str]) -> None:
    assert_names(refused(data=setting), *parts)


def test_tables_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    for name, text in (("erase", "prompt,target\ncafé,toy\n"), ("keep", "prompt\nrocket\n"), ("see", "prompt\ndog\n")):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8-sig")
    data = ConceptData("erase.csv", preserve="keep.csv", validation="see.csv")
    assert [(pair.prompt, pair.target) for pair in data.pairs] == [("café", "toy")]
    assert data.preserved == ["rocket"]
    assert [row.prompt for row in data.validation] == ["dog"]


# Concepts


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({}, ["required", "--data.concepts"]),
        ({"concepts": None}, ["required", "--data.concepts"]),
        ({"concepts": []}, ["[]", "at least one"]),
        ({"concepts": ""}, ["blank prompt ''"]),
        ({"concepts": ["bomb", " "]}, ["data.concepts[1]", "blank prompt ' '"]),
        ({"concepts": [{"target": "toy"}]}, ["data.concepts[0]", "blank prompt None"]),
        ({"concepts": [5]}, ["'5'", "text (in quotes)"]),
        ({"concepts": {"prompt": "bomb"}}, ["{'prompt': 'bomb'}", "a list"]),
        ({"concepts": [{"prompt": "bomb", "wieght": 2}]}, ["'wieght'", "did you mean 'weight'?"]),
        ({"concepts": [{"prompt": "bomb", "target": None}]}, ["target None", "' ' for the empty one"]),
        ({"concepts": [{"prompt": "bomb", "templates": 5}]}, ["templates: 5", "no list"]),
        ({"concepts": ["bomb", {"prompt": "bomb", "target": "toy"}]}, ["'bomb'", "two targets", "keep one"]),
    ],
)
def test_concepts_that_cannot_be_erased(refused: Callable[..., str], data: dict[str, Any], parts: list[str]) -> None:
    assert_names(refused(data=data), "data.concepts", *parts)


@pytest.mark.parametrize("value", ["null", "[]"])
def test_no_concepts_on_the_command_line(refused: Callable[..., str], value: str) -> None:
    assert_names(refused("--data.concepts", value), "data.concepts", value, "at least one")


@pytest.mark.parametrize("concepts", [None, 5, {"prompt": "bomb"}, [5], [None]])
def test_no_concepts_in_python(concepts: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^data\.concepts"):
        ConceptData(concepts=concepts)


@pytest.mark.parametrize(
    ("concepts", "preserve", "named"),
    [
        (["axe", "bomb"], [" ", "Bomb "], "'Bomb '"),
        ([{"prompt": "twemoji", "templates": ["{} style"]}], ["rocket", "twemoji style"], "'twemoji style'"),
    ],
)
def test_a_concept_that_is_also_preserved(
    refused: Callable[..., str], concepts: list[Any], preserve: list[str], named: str
) -> None:
    message = refused(data={"concepts": concepts, "preserve": preserve})
    assert_names(message, "data.preserve", named, "data.concepts", "take it out")


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("preserve", 3, ["'3'", "a list"]),
        ("preserve", [3], ["'3'", "text (in quotes)"]),
        ("templates", ["painting"], ["'painting'", "'{}' once"]),
        ("templates", [], ["empty list", "'{}'"]),
        ("batch_size", 0, ["0", "1 or more"]),
        ("batch_size", "many", ["'many'", "a whole number"]),
        ("target", 5, ["'5'", "text (in quotes)"]),
    ],
)
def test_another_setting_of_the_data_that_makes_no_sense(
    refused: Callable[..., str], key: str, value: Any, parts: list[str]
) -> None:
    assert_names(refused(data={"concepts": ["bomb"], key: value}), f"data.{key}", *parts)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": " "}, ["blank prompt ' '"]),
        ({"prompt": "axe", "kind": "kept"}, ["kind", "'kept'", "erased, preserved"]),
        ({"prompt": "axe", "sed": 3}, ["'sed'", "did you mean 'seed'?"]),
        ({"prompt": "axe", "seed": "x"}, ["seed", "'x'", "no number"]),
        ({"prompt": "axe", "seed": -1}, ["seed", "-1", "0 or more"]),
        ({"prompt": "axe", "seed": 1.5}, ["seed", "1.5", "whole number"]),
        ({"prompt": "axe", "seed": math.nan}, ["seed", "nan", "whole number"]),
        ({"prompt": "axe", "guidance_scale": -1}, ["guidance_scale", "-1", "0 or greater"]),
        ({"prompt": "axe", "guidance_scale": math.inf}, ["guidance_scale", "inf", "finite"]),
    ],
)
def test_a_prompt_to_generate_for_names_its_row(
    refused: Callable[..., str], row: dict[str, Any], parts: list[str]
) -> None:
    message = refused(data={"concepts": ["bomb"], "validation": ["bomb", row]})
    assert_names(message, "data.validation[1]", *parts)


def test_a_concept_that_the_detector_does_not_know_names_its_row(refused: Callable[..., str]) -> None:
    message = refused(
        data={"concepts": ["bomb"], "validation": ["bomb", {"prompt": "an axe", "concept": "axxe"}]},
        trainer={"callbacks": [{"class_path": EVALUATION, "init_args": {"detector": EMOJI_DETECTOR}}]},
    )
    assert_names(message, "data.validation[1]", "'an axe'", "'axxe'", "did you mean 'axe'?")


def test_a_concept_too_long_is_cut_with_a_warning_and_the_run_goes_on(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "bomb dog fox frog turtle fish snail rose bread cookie brick wood tent axe rocket pizza"
    path = write_config(tmp_path, tiny_model, data={"concepts": [{"prompt": "bomb", "target": long}, long]})
    outcome = run_command(capsys, "fit", "--config", path)
    assert outcome.code == 0
    assert outcome.out.count("Warning") == 1
    assert_names(outcome.out, repr(long), "longer than the tokenizer takes", "cut: 'rocket pizza'")
    assert (tmp_path / "runs/run/version_0/edited.safetensors").is_file()


# Numbers


POSITIVE = ("method.editor.erase_scale", "method.derivation.scale", "attacker_scale")
NOT_NEGATIVE = ("method.editor.preserve_scale", "method.editor.lamb")


@pytest.mark.parametrize("key", [*POSITIVE, *NOT_NEGATIVE])
def test_a_weight_that_makes_no_sense(refused: Callable[..., str], key: str) -> None:
    inner = key.removeprefix("method.")
    named = ".".join(key.split(".")[-2:]).replace("editor.", "UCE.")

    def model(value: Any) -> dict[str, Any]:
        return {key: value} if inner == key else {"method": method(inner, value)}

    for value, shown in ((-0.5, "-0.5"), (math.nan, "nan"), (math.inf, "inf"), ("abc", "'abc'"), (True, "True")):
        assert_names(refused(model=model(value)), named, shown, "number")
    for value in ("-1", "nan", "inf", "abc"):
        assert_names(refused(f"--model.{key}={value}"), named, value, "number")
    if key in POSITIVE:
        assert_names(refused(model=model(0)), named, "0", "greater than 0")


@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, "much"])
def test_a_concepts_weight_that_makes_no_sense(refused: Callable[..., str], value: Any) -> None:
    message = refused(data={"concepts": ["axe", {"prompt": "bomb", "weight": value}]})
    assert_names(message, "data.concepts[1]: weight", str(value), "finite number greater than 0")


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"lamb": 1}, ["model.method.first_editor", "its class is not named", "class_path: UCE"]),
        ({"class_path": "UCE", "init_args": {"lam": 1}}, ["first_editor.lam: UCE", "did you mean 'lamb'?"]),
        ({"class_path": "UCE", "init_args": {"lamb": -1}}, ["UCE.lamb", "-1", "finite number"]),
        ({"class_path": "UCE", "init_args": {"erase_scale": 0}}, ["UCE.erase_scale", "0", "greater than 0"]),
        ({"class_path": "UCE", "init_args": {"lamb": "abc"}}, ["UCE.lamb", "'abc'", "number"]),
        ("TensorUCE", ["model.method.first_editor", "does not go with UCE"]),
        (5, ["model.method.first_editor", "'5'"]),
    ],
)
def test_a_first_editor_that_makes_no_sense(refused: Callable[..., str], value: Any, parts: list[str]) -> None:
    assert_names(refused(model={"method": {"first_editor": value}}), *parts)


def test_no_lamb_where_the_system_is_singular_says_what_to_raise(refused: Callable[..., str]) -> None:
    model = {"method": method("editor.lamb", 0)}
    assert_names(refused(model=model, may_load=True), "singular", "lamb (λ₂)", "greater than 0")


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("method.tokens", 5, ["'5'", "text (in quotes)"]),
        ("method.tokens", None, ["None", "aligned"]),
        ("method.accumulate", "maybe", ["'maybe'", "true or false"]),
        ("method.spaces", "text", ["'text'", "a list"]),
        ("method.spaces", ["txt"], ["'txt'", "did you mean 'text'?"]),
        ("method", 5, ["5 is no mapping", "{projections: v}"]),
        ("method", None, ["None is no mapping", "leave it out"]),
        ("method.derivation", 0.1, ["0.1 is no mapping", "{scale: 0.1}"]),
        ("method.editor", 0.1, ["0.1"]),
        ("pretrained", 5, ["'5'", "text (in quotes)"]),
        ("certificate", "every", ["'every'"]),
        ("certificate", -1, ["-1"]),
    ],
)
def test_a_value_of_another_type(refused: Callable[..., str], key: str, value: Any, parts: list[str]) -> None:
    inner = key.removeprefix("method.")
    model = {key: value} if inner == key else {"method": {inner: value}}
    assert_names(refused(model=model), f"model.{key}", *parts)


# The trainer


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (0, ["0"]),
        (-1, ["-1 never ends"]),
        (-2, ["-2"]),
        ("abc", ["'abc'", "a whole number"]),
        (1.5, ["'1.5'", "a whole number"]),
    ],
)
def test_a_number_of_epochs_that_cannot_be(refused: Callable[..., str], value: Any, parts: list[str]) -> None:
    assert_names(refused(trainer={"max_epochs": value}), "trainer.max_epochs", *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({}, ["trainer.max_epochs: 1000", "left out", "1 is UCE alone"]),
        ({"max_epochs": -1}, ["trainer.max_epochs: -1 never ends", "1 is UCE alone"]),
        ({"max_epochs": 0}, ["trainer.max_epochs: 0", "1 is UCE alone"]),
        ({"max_epochs": 1, "precision": "bf16-mixed"}, ["trainer.precision", "'bf16-mixed'", "32-true"]),
        ({"max_epochs": 1, "precision": "64-true"}, ["trainer.precision", "'64-true'", "32-true"]),
        ({"max_epochs": 1, "limit_train_batches": 1}, ["trainer.limit_train_batches: 1", "left out"]),
        ({"max_epochs": 1, "max_steps": 0}, ["trainer.max_steps: 0", "left out"]),
    ],
)
def test_a_trainer_made_in_python(
    tmp_path: Path, tiny_model: Path, arguments: dict[str, Any], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rece_lightning.erasure.loaded.load_encoder", None)  # not callable: it must not come to that
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **arguments
    )
    with pytest.raises(ConfigurationError) as caught:
        trainer.fit(RECE(pretrained=str(tiny_model), tune="off"), ConceptData(concepts=["bomb"]))
    assert_names(str(caught.value), *parts)


@pytest.mark.parametrize("value", ["16-mixed", "bf16-mixed", "16-true", "64-true"])
def test_a_precision_that_rounds_the_algebra(refused: Callable[..., str], value: str) -> None:
    assert_names(refused(trainer={"precision": value}), "trainer.precision", f"'{value}'", "32-true")


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("accelerator", "tpuu", ["'tpuu'", "cpu"]),
        ("devices", 0, ["devices=0"]),
        ("strategy", "ddp", ["trainer.strategy: 'ddp'", "strategy: auto"]),
        ("strategy", "foo", ["'foo'", "auto"]),
    ],
)
def test_what_lightning_refuses_is_one_message_too(
    refused: Callable[..., str], key: str, value: Any, parts: list[str]
) -> None:
    assert_names(refused(trainer={key: value}), "trainer", *parts)


# The base model


@pytest.fixture
def broken(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the model, to break."""
    return shutil.copytree(tiny_model, tmp_path / "broken")


UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def change_tensor(file: Path, ending: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> str:
    """Replace the first tensor whose name ends so; ``None`` drops it. Returns its name."""
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith(ending))
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    return name


def test_a_place_that_holds_no_model(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("model.ckpt", "model.txt"):
        (tmp_path / name).write_text("x")
    assert_names(refused(pretrained=tmp_path / "empty"), "model.pretrained", "model_index.json is missing", "Give")
    assert_names(
        refused(pretrained=tmp_path / "model.ckpt"), "model.pretrained", "model.ckpt", "no PyTorch file", "Fetch"
    )
    assert_names(refused(pretrained=tmp_path / "model.txt"), "model.pretrained", "is a file", "'.txt'", "folder")
    assert_names(
        refused(pretrained=tmp_path / "none"), "model.pretrained", "no folder", "Give a diffusers folder", "emoji"
    )
    assert_names(refused(pretrained="emojy"), "model.pretrained: 'emojy'", "emoji")


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae", "tokenizer", "scheduler"])
def test_a_model_that_lacks_a_part(refused: Callable[..., str], broken: Path, part: str) -> None:
    shutil.rmtree(broken / part)
    assert_names(refused(pretrained=broken), "model.pretrained", str(broken), f"lacks {part}/", "copy the model whole")
    (broken / part).mkdir()
    assert_names(refused(pretrained=broken), "model.pretrained", str(broken), f"{part}/", "copy the model whole")


@pytest.mark.parametrize("file", [UNET, TEXT, VAE])
def test_a_weight_file_that_is_missing_cut_short_or_empty(refused: Callable[..., str], broken: Path, file: str) -> None:
    content = (broken / file).read_bytes()
    for length in (len(content) // 2, len(content) - 1, 4, 0):
        (broken / file).write_bytes(content[:length])
        assert_names(refused(pretrained=broken), "model.pretrained", str(broken / file), "cut short", "fetch it again")
    (broken / file).unlink()
    assert_names(refused(pretrained=broken), "model.pretrained", Path(file).name, "copy the model whole")


def test_a_configuration_that_is_no_json(refused: Callable[..., str], broken: Path) -> None:
    (broken / "unet/config.json").write_text("{")
    assert_names(refused(pretrained=broken), "model.pretrained", "unet/config.json", "JSON", "fetch it again")


@pytest.mark.parametrize(
    "change", [lambda weight: weight[:, :-1], lambda weight: weight[:-1], lambda weight: weight[0], lambda weight: None]
)
def test_projections_of_a_wrong_shape(refused: Callable[..., str], broken: Path, change: Any) -> None:
    name = change_tensor(broken / UNET, "attn2.to_v.weight", change)
    layer = name.removesuffix(".to_v.weight")
    assert_names(refused(pretrained=broken), "model.pretrained", layer, "shapes", "Copy the model anew")


def test_parts_of_different_models(refused: Callable[..., str], broken: Path) -> None:
    file = broken / "text_encoder/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_size": 32}))
    assert_names(refused(pretrained=broken), "model.pretrained", "24 wide", "32", "different models")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_projections_that_are_no_numbers(refused: Callable[..., str], broken: Path, value: float) -> None:
    name = change_tensor(
        broken / UNET, "attn2.to_k.weight", lambda weight: weight.index_fill(1, torch.tensor([3]), value)
    )
    message = refused(pretrained=broken, may_load=True)
    assert_names(message, "model.pretrained", UNET, name, "NaN or infinite", "fetch")


@pytest.mark.parametrize(
    "change", [lambda weight: weight[:, :-1], lambda weight: None, lambda weight: weight * math.nan]
)
def test_a_text_encoder_that_does_not_fit_its_configuration(
    refused: Callable[..., str], broken: Path, change: Any
) -> None:
    change_tensor(broken / TEXT, "token_embedding.weight", change)
    message = refused(pretrained=broken, may_load=True)
    assert_names(message, "model.pretrained", str(broken))
    assert "fetch the file again" in message or "copy the model anew" in message


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_the_pickle_of_these_tests_does_execute_when_opened(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", [UNET, TEXT, VAE])
@pytest.mark.parametrize("name", [None, "pytorch_model.bin", "diffusion_pytorch_model.ckpt"])
def test_a_pickle_with_code_in_place_of_safetensors_is_refused_unexecuted(
    refused: Callable[..., str], broken: Path, tmp_path: Path, file: str, name: str | None
) -> None:
    """Under a name that pickles have, one that no part has, or that of the safetensors file."""
    (broken / file).unlink()
    place = broken / file if name is None else (broken / file).parent / name
    torch.save({"weight": torch.zeros(1), "more": Malice(tmp_path / "executed")}, place)
    message = refused(pretrained=broken)
    if name is None:
        assert_names(message, "no safetensors file", "fetch it again")
    elif file == TEXT and name == "pytorch_model.bin":
        assert_names(message, name, "could execute code; nothing in it was executed", "Fetch the safetensors file")
    else:
        assert_names(message, name, "not how diffusers names it", "fetch the safetensors file")
    assert_names(message, "model.pretrained", str(broken))
    assert not (tmp_path / "executed").exists()


def test_a_pickle_of_tensors_is_as_good_as_safetensors(
    tmp_path: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(load_file(broken / UNET), (broken / UNET).with_suffix(".bin"))
    expected = run_command(capsys, "fit", "--config", write_config(tmp_path, broken))
    (broken / UNET).unlink()
    found = run_command(capsys, "fit", "--config", write_config(tmp_path, broken))
    assert (expected.code, found.code) == (0, 0)
    before, after = (load_file(tmp_path / f"runs/run/version_{i}/edited.safetensors") for i in range(2))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("content", ["pickle", "hello", "foreign", "cut"])
def test_a_checkpoint_that_rece_did_not_write(refused: Callable[..., str], tmp_path: Path, content: str) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(Malice(tmp_path / "executed") if content == "pickle" else {"state_dict": {}}, file)
    if content == "hello":
        file.write_text("hello")
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    message = refused("--ckpt_path", file)
    assert_names(message, "--ckpt_path", str(file), "give a checkpoint that RECE wrote")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("given", ["/no/such/run", "best"])
def test_a_checkpoint_that_is_not_there(refused: Callable[..., str], given: str) -> None:
    assert_names(refused("--ckpt_path", given), "--ckpt_path", given, "give a folder")


# Layers


@pytest.mark.parametrize("projections", ["kv", "v"])
def test_a_layer_expression_that_matches_nothing_shows_what_exists(
    refused: Callable[..., str], projections: str
) -> None:
    message = refused(model={"method": {"layers": "decoder", "projections": projections}})
    assert_names(
        message, "model.method.layers", "'decoder'", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_"
    )


def test_a_layer_expression_that_is_none(refused: Callable[..., str], tmp_path: Path) -> None:
    """Known before the base model is looked for."""
    message = refused(model={"method": {"layers": "up_blocks("}}, pretrained=tmp_path / "none")
    assert_names(message, "model.method.layers", "'up_blocks('", "'^up_blocks'")


# What is written


def test_a_folder_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path) -> None:
    """Below a regular file: even root cannot make a folder there."""
    (tmp_path / "file").write_text("x")
    place = str(tmp_path / "file" / "runs")
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": place}}
    checkpoint = {"class_path": "ErasureCheckpoint", "init_args": {"dirpath": place}}
    assert_names(
        refused(trainer={"default_root_dir": place}), "trainer.default_root_dir", place, "choose another folder"
    )
    assert_names(refused(trainer={"logger": logger}), place, "cannot be written", "choose another folder")
    assert_names(refused(trainer={"callbacks": [checkpoint]}), "ErasureCheckpoint.dirpath", place, "another folder")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("fails_at", ["epoch=0.ckpt", "epoch=1.ckpt", "edited.safetensors"])
def test_a_full_disk_leaves_whole_files_or_none(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        if fails_at in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = refused(may_load=True)
    assert_names(message, fails_at, "No space left", "free some space")
    run = tmp_path / "runs/run/version_0"
    assert not list(run.rglob(fails_at))
    assert_only_whole_files(run)


def assert_only_whole_files(run: Path) -> None:
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]
    for path in run.rglob("*.ckpt"):
        assert torch.load(path, weights_only=True)["rece"]["epochs"] >= 1
    for path in run.rglob("*.safetensors"):
        assert load_file(path)


@pytest.fixture
def full_disk(tmp_path: Path) -> Any:
    """A file system of 64 KiB, where the machine lets us mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_up(refused: Callable[..., str], full_disk: Path) -> None:
    message = refused(trainer={"default_root_dir": str(full_disk / "runs"), "max_epochs": 4}, may_load=True)
    assert_names(message, str(full_disk), "No space left", "free some space")
    assert_only_whole_files(full_disk)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_file_half_written_goes_and_the_former_one_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("former")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("last.ckpt", "former")]


def test_ctrl_c_leaves_whole_checkpoints(tmp_path: Path, tiny_model: Path) -> None:
    path = write_config(tmp_path, tiny_model, trainer={"max_epochs": 999})
    process = subprocess.Popen(
        [sys.executable, "-m", "rece_lightning", "fit", "--config", path],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        # A shell's job in the background hands down that Ctrl-C is ignored, and so would a suite that runs in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    run = tmp_path / "runs/run/version_0"
    give_up = time.monotonic() + 120
    while not (run / "checkpoints/epoch=2.ckpt").exists() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert len(list(run.rglob("epoch=*.ckpt"))) >= 3
    assert_only_whole_files(run)
