"""``model.tune`` in the command: chosen where no method is given, told in the run's files, resumed without a choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.core import Method
from rece_lightning.erasure import tuned
from tests.helpers.command import run_command, write_config

RUN = Path("runs/run/version_0")


def configured(folder: Path, model: Path, **settings: object) -> Path:
    """Without a method, a list and a number of epochs, unless told."""
    path = write_config(folder, model, data={"concepts": ["bomb"], "preserve": [" ", "dog", "rose"]})
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    del plain["model"]["tune"], plain["trainer"]["max_epochs"]
    plain["model"] |= settings
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return path


def test_a_run_chooses_tells_and_goes_on(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = configured(tmp_path, tiny_model)
    outcome = run_command(capsys, "fit", "--config", config)
    assert outcome.code == 0, outcome.err
    assert "tuned (balanced): " in outcome.out
    written = yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))
    assert (written["model"]["tune"], written["trainer"]["max_epochs"]) == ("balanced", None)
    content = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    tuning = content["rece"]["tuning"]
    assert content["rece"]["epochs"] == tuning["chosen"]["epochs"]
    assert tuning["method"] == content["rece"]["method"] != Method().plain()
    page = (RUN / "report.html").read_text(encoding="utf-8")
    assert "How the settings were chosen" in page
    assert tuning["reason"].split(":")[0] in page
    assert json.loads((RUN / "tuning.json").read_text())["chosen"] == tuning["chosen"]
    assert tuning["rule"].split("(1")[0] in page

    def never(*_: object) -> None:
        raise AssertionError("it chose again")

    monkeypatch.setattr(tuned, "tune", never)
    (RUN / "edited.safetensors").unlink()
    (RUN / "report.html").unlink()
    again = run_command(capsys, "fit", "--config", config, "--ckpt_path", RUN)
    assert again.code == 0, again.err
    assert "has all" in again.out
    assert (RUN / "edited.safetensors").exists()
    finished = run_command(capsys, "fit", "--config", config, "--ckpt_path", RUN)
    assert finished.code == 2
    assert "epochs already" in finished.err
    other = run_command(capsys, "fit", "--config", configured(tmp_path, tiny_model, tune="robust"), "--ckpt_path", RUN)
    assert other.code == 2
    assert "tune.aim: 'balanced' → 'robust'" in other.err


def test_a_method_in_the_configuration_stands_and_the_report_says_what_else_there_was(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"editor": {"class_path": "UCE", "init_args": {"lamb": 0.5}}}
    config = configured(tmp_path, tiny_model, method=given)
    outcome = run_command(capsys, "fit", "--config", config, "--trainer.max_epochs", "2")
    assert outcome.code == 0, outcome.err
    written = yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))
    assert written["model"]["tune"] == "off"
    state = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["rece"]
    assert "tuning" not in state
    assert state["method"]["editor"]["init_args"]["lamb"] == 0.5
    page = (RUN / "report.html").read_text(encoding="utf-8")
    assert "What tuning would have chosen" in page
    assert "This run kept the settings that it was given" in page


@pytest.mark.parametrize("name", ["nudity", "unsafe", "van_gogh", "objects"])
def test_published_configurations_say_that_they_stay(name: str) -> None:
    written = yaml.safe_load((PACKAGE / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert written["model"]["tune"] in (False, "off")  # YAML reads a bare off as false


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model.tune", "balance"), "model.tune: unknown value 'balance'; did you mean 'balanced'"),
        (("--model.drift_budget", "-1"), "model.drift_budget: -1"),
        (("--model.tune", "off", "--model.drift_budget", "0.1"), "model.drift_budget: 0.1: only tuning reads it"),
        (("--model.drift_budget", "1e-12"), "model.drift_budget: 1e-12: the least"),
    ],
)
def test_bad_values_end_in_one_message(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_command(capsys, "fit", "--config", configured(tmp_path, tiny_model), *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_a_bare_off_runs_the_defaults(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_command(capsys, "fit", "--config", configured(tmp_path, tiny_model, tune=False))
    assert outcome.code == 0, outcome.err
    written = yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))
    assert (written["model"]["tune"], written["trainer"]["max_epochs"]) == ("off", 4)
    state = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["rece"]
    assert state["method"] == Method().plain()
    assert state["epochs"] == 4
