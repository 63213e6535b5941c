"""The main job on the embedded world, as ``make demo`` runs it, with fewer pictures."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rece_lightning.__main__ import main

ARGUMENTS = [
    "fit",
    "--config",
    "emoji.yaml",
    "--data.concepts",
    "[bomb, axe]",
    "--data.validation",
    "[{prompt: bomb}, {prompt: axe}, {prompt: a hatchet, concept: axe}, {prompt: rocket, kind: preserved}]",
    "--trainer.max_epochs",
    "2",
    "--trainer.accelerator",
    "cpu",
    "--trainer.callbacks",
    "[{class_path: Evaluation, init_args: {detector: rece_lightning.metrics.EmojiDetector, "
    "pictures_per_prompt: 2, steps: 4, guidance_scale: 4.0, beside: {robust: robust}}}]",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run's folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    capture = pytest.MonkeyPatch()
    capture.chdir(folder)
    try:
        from contextlib import redirect_stdout
        from io import StringIO

        printed = StringIO()
        with redirect_stdout(printed):
            main(ARGUMENTS)
    finally:
        capture.undo()
    return folder / "runs" / "emoji" / "version_0", printed.getvalue()


def test_run_leaves_what_the_design_promises(run: tuple[Path, str]) -> None:
    folder, _ = run
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "checkpoints/epoch=0.ckpt",
        "checkpoints/epoch=1.ckpt",
        "checkpoints/last.ckpt",
        "edited.safetensors",
        "metrics.csv",
        "report.html",
        "images/grid.png",
        "evaluation.csv",
    } <= files
    assert not [name for name in files if "tmp" in name]
    assert {path.name for path in folder.parent.parent.iterdir()} == {"emoji"}


def test_checkpoints_are_slim_and_load_without_executing_code(run: tuple[Path, str]) -> None:
    for path in (run[0] / "checkpoints").glob("*.ckpt"):
        assert path.stat().st_size < 10e6
        state = torch.load(path, weights_only=True)
        assert state["state_dict"] == {}
        assert state["rece"]["erasers"]["text"]["map"].dtype == torch.float64


def test_end_of_the_run_names_concepts_rates_and_paths(run: tuple[Path, str]) -> None:
    printed = run[1]
    assert "bomb" in printed
    assert "→" in printed
    assert "of those of `robust`" in printed
    assert "report: " in printed
    assert "grid: " in printed


def test_report_is_one_page_without_network_and_says_what_the_counts_say(run: tuple[Path, str]) -> None:
    page = (run[0] / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=.?https?://", page)
    assert "width=device-width" in page
    with (run[0] / "evaluation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["column"] for row in rows} == {
        "original", "uce", "uce_derived", "rece", "rece_derived", "beside_robust", "beside_robust_derived"
    }  # fmt: skip
    assert len([row for row in rows if row["column"] == "original"]) == 8
    assert len([row for row in rows if row["column"] == "rece_derived"]) == 6  # kept prompts are not attacked
    for column in ("original", "uce", "rece"):
        kept = [int(row["detected"]) for row in rows if row["column"] == column and row["role"] == "kept"]
        assert f"{100 * sum(kept) / len(kept):.0f} %" in page
    assert "regeneration residual" in page


def test_grid_has_a_column_for_every_state(run: tuple[Path, str]) -> None:
    with Image.open(run[0] / "images" / "grid.png") as grid:
        assert grid.width > 7 * 192
        assert len(set(grid.convert("RGB").resize((64, 64)).getdata())) > 100


def test_tensorboard_gets_scalars_grid_configuration_and_final_metrics(run: tuple[Path, str]) -> None:
    events = EventAccumulator(str(run[0]), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {"regeneration_residual", "preservation_drift", "objective_before", "objective_after", "norm_ratio",
               "map_change", "map_rank", "map_condition", "edit_seconds", "erase_seconds", "gram_scale"}  # fmt: skip
    assert scalars <= set(tags["scalars"])
    assert "grid" in tags["images"]
    assert any(tag.startswith("configuration") for tag in tags["tensors"])
    assert len(events.Scalars("regeneration_residual")) == 2
    assert any("final/weight_change" in tag for tag in tags["scalars"])


def test_metrics_csv_has_every_epoch(run: tuple[Path, str]) -> None:
    with (run[0] / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["regeneration_residual"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["objective_after"]) < float(row["objective_before"]) for row in rows)


def test_edited_file_holds_every_text_projection(run: tuple[Path, str]) -> None:
    edited = load_file(run[0] / "edited.safetensors")
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in edited)
    assert {weight.dtype for weight in edited.values()} == {torch.float16}


def test_validate_measures_the_run(
    run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["validate", *ARGUMENTS[1:], "--ckpt_path", str(run[0])])
    with (tmp_path / "runs/emoji/version_0/evaluation.csv").open() as stream:
        measured = [(row["prompt"], row["seed"], row["detected"]) for row in csv.DictReader(stream)]
    with (run[0] / "evaluation.csv").open() as stream:
        fitted = [(r["prompt"], r["seed"], r["detected"]) for r in csv.DictReader(stream) if r["column"] == "rece"]
    assert measured == fitted
    assert "after" in capsys.readouterr().out or measured


def test_predict_writes_every_picture_with_its_prompt_and_seed(
    run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.csv").write_text("prompt,seed\nrocket,5\na key on a blue background,6\n")
    main(["predict", *ARGUMENTS[1:], "--ckpt_path", str(run[0]), "--data.predict", "prompts.csv"])
    folder = tmp_path / "runs/emoji/version_0/pictures"
    with (folder / "index.csv").open() as stream:
        rows = [(row["file"], row["prompt"], row["seed"]) for row in csv.DictReader(stream)]
    assert rows == [("00000.png", "rocket", "5"), ("00001.png", "a key on a blue background", "6")]
    with Image.open(folder / "00001.png") as picture:
        assert picture.size == (32, 32)
        said = picture.text  # type: ignore[attr-defined]
    assert (said["prompt"], said["seed"]) == ("a key on a blue background", "6")
    assert (said["concepts"], said["base"]) == ('["bomb", "axe"]', "emoji")
