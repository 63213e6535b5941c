"""The command as the tests run it: in this process, its output and exit code kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rece_lightning.__main__ import main

TRAINER = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left behind."""

    code: int
    out: str
    err: str


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Outcome:
    """Run the command; any exception but its exit goes through and fails the test."""
    capsys.readouterr()
    code: Any = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return Outcome(int(code or 0), captured.out, captured.err)


def write_config(
    folder: Path,
    pretrained: Path | str,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **others: Any,
) -> Path:
    """A small configuration that runs, but for what is asked to differ."""
    settings = {
        "model": {"pretrained": str(pretrained), "tune": "off", **(model or {})},
        "data": {"concepts": ["bomb"]} if data is None else dict(data),
        "trainer": {**TRAINER, **(trainer or {})},
        **others,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return path
