"""``rece fit`` of a baseline that is trained: its folder, its files, and how it goes on."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.helpers.command import Outcome, run_command

Command = Callable[..., Outcome]
FILES = {"config.yaml", "edited.safetensors", "metrics.csv", "checkpoints"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(capsys, *arguments)


def write(folder: Path, model: Path, epochs: int = 1, **trainer: Any) -> Path:
    path = folder / "ca.yaml"
    settings = {
        "model": {
            "class_path": "ConceptAblation",
            "init_args": {
                "pretrained": str(model), "pictures": 2, "steps": 2, "batch_size": 2, "batches": 2,
                "learning_rate": 0.01,
            },
        },
        "data": {"concepts": [{"prompt": "bomb", "target": "rose"}]},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "enable_progress_bar": False, **trainer},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_a_fit_goes_on_in_its_own_folder_and_ends_as_one_that_was_never_stopped(
    command: Command, tmp_path: Path, tiny_model: Path
) -> None:
    assert command("fit", "--config", write(tmp_path, tiny_model, 1)).code == 0
    first = tmp_path / "runs" / "ca" / "version_0"
    assert {file.name for file in first.iterdir()} >= {
        "config.yaml",
        "edited.safetensors",
        "metrics.csv",
        "checkpoints",
    }
    stopped = load_file(first / "edited.safetensors")
    config = write(tmp_path, tiny_model, 2)
    outcome = command("fit", "--config", config, "--ckpt_path", "last", "--overwrite")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in first.parent.iterdir()] == ["version_0"]
    assert command("fit", "--config", config).code == 0
    whole, resumed = (load_file(first.parent / f"version_{n}" / "edited.safetensors") for n in (1, 0))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], stopped[name]) for name in whole)
    with (first / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["weight_change"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["trained"]["epochs"] == 2


def test_a_finished_run_that_lacks_its_file_alone_gets_it(command: Command, tmp_path: Path, tiny_model: Path) -> None:
    config = write(tmp_path, tiny_model)
    assert command("fit", "--config", config).code == 0
    file = tmp_path / "runs" / "ca" / "version_0" / "edited.safetensors"
    weights = load_file(file)
    file.unlink()
    outcome = command("fit", "--config", config, "--ckpt_path", file.parent)
    assert outcome.code == 0, outcome.err
    again = load_file(file)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    refused = command("fit", "--config", config, "--ckpt_path", "last")
    assert refused.code == 2
    assert "has 1 epochs already" in refused.err


def test_lightnings_own_options_are_a_baselines_too(command: Command, tmp_path: Path, tiny_model: Path) -> None:
    config = write(tmp_path, tiny_model, precision="bf16-mixed", accumulate_grad_batches=2, gradient_clip_val=1.0)
    logger = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs")
    assert command("fit", "--config", config, *logger).code == 0
    tried = command("fit", "--config", config, "--trainer.fast_dev_run", "true")
    assert tried.code == 0
    assert len(list((tmp_path / "runs" / "ca").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validate",), "a baseline is trained with fit.*--model.adapter RUN/edited.safetensors"),
        (("fit", "--ckpt_path", "last"), "there is no checkpoint in"),
        (("fit", "--model.kind", "both"), "model.kind: .*both.*model"),
        (("fit", "--model.parameters", "keys"), "model.parameters: .*keys"),
        (("fit", "--model.pretrained", "./nowhere"), "model.pretrained: './nowhere'"),
        (("fit", "--model.rate", "1"), "model.rate|rate: no such"),
        (("fit", "--trainer.max_epochs", "x"), "trainer.max_epochs"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    command: Command, tmp_path: Path, tiny_model: Path, arguments: tuple[str, ...], message: str
) -> None:
    verb, *rest = arguments
    outcome = command(verb, "--config", write(tmp_path, tiny_model), *rest)
    assert outcome.code == 2
    assert re.search(message, outcome.err), outcome.err
    assert outcome.err.count("error:") == 1
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_an_edit_is_refused(command: Command, tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "other.ckpt"
    torch.save({"rece": {}, "state_dict": {}}, file)
    outcome = command("fit", "--config", write(tmp_path, tiny_model), "--ckpt_path", file)
    assert outcome.code == 2
    assert "holds nothing that a baseline trained" in outcome.err
