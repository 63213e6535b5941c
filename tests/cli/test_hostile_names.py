"""Prompts, concepts and folders with brackets, braces and dollars through the command: nothing is interpreted."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.helpers.command import run_command, write_config

PROMPT = "[/b] $x^{$ {0}"
FOLDER = "[b]runs[bold] {0} $x$ %s * :bomb:"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / FOLDER
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "250")
    return folder


def test_a_whole_run_says_names_and_paths_as_they_are(
    place: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "concepts": [{"prompt": PROMPT, "target": "[i] {} $"}],
        "templates": ["{}", "a {} {x} of"],
        "validation": [{"prompt": PROMPT}, {"prompt": f"{PROMPT} kept", "kind": "preserved"}],
        "predict": [PROMPT],
    }
    pictures = {"class_path": "PictureWriter", "init_args": {"steps": 1}}
    shows = {"class_path": "Evaluation", "init_args": {"steps": 1, "metrics": []}}
    trainer = {"callbacks": [pictures, shows], "max_epochs": 1, "default_root_dir": str(place)}
    config = write_config(place, tiny_model, data=data, trainer=trainer)

    fit = run_command(capsys, "fit", "--config", config)
    assert fit.code == 0
    run = next(place.rglob("report.html")).parent
    for file in ("report.html", "edited.safetensors"):
        assert f"{run / file}\n" in fit.out

    said = run_command(capsys, "test", "--ckpt_path", run, "--certificate")
    assert said.code == 0
    assert PROMPT in said.out

    for _ in range(2):  # the second finds what the first made
        made = run_command(capsys, "predict", "--config", config, "--ckpt_path", run)
        assert made.code == 0
        folder = Path(made.out.strip().splitlines()[-1].split(": ", 1)[1])
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["prompt"] for row in csv.DictReader(stream)} == {PROMPT}

    output = place / "[i] {x}.safetensors"
    exported = run_command(capsys, "export", "--ckpt_path", run, "--format", "map", "--output", output)
    assert exported.code == 0
    assert f"written: {output}\n" in exported.out
