"""A run that was stopped goes on in its own folder, loses nothing, and never replaces a result unasked."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import ErasureCheckpoint, Export
from rece_lightning.files import discard_temporaries
from tests.helpers.command import Outcome, run_command, write_config
from tests.helpers.models import make_checkpoint

EPOCHS = 5
RUN = Path("runs/run/version_0")
MONITOR = {"class_path": "ErasureCheckpoint", "init_args": {"monitor": "regeneration_residual", "mode": "max"}}
EVALUATION = {
    "class_path": "Evaluation",
    "init_args": {"steps": 1, "pictures_per_prompt": 1, "every_n_epochs": 1, "guidance_scale": 1.0},
}

Fit = Callable[..., Outcome]


@pytest.fixture
def fit(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fit:
    """Run ``fit`` (or another verb) on a small configuration in an empty folder; it must end well unless told."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, verb: str = "fit", code: int = 0, **config: Any) -> Outcome:
        config = {"model": {"method": {"accumulate": True}}, **config}
        config["trainer"] = {"max_epochs": EPOCHS, **config.get("trainer", {})}
        outcome = run_command(capsys, verb, "--config", write_config(tmp_path, tiny_model, **config), *arguments)
        assert outcome.code == code, outcome.err
        assert "Traceback" not in outcome.err
        return outcome

    return run


def stop_after(run: Path, epochs: int, *, last: bool = True) -> None:
    """Bring a finished run's folder into the state in which a process that died after so many epochs left it."""
    for name in ("edited.safetensors", "report.html", "evaluation.csv", "images"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (run / "checkpoints/last.ckpt").unlink()
    for epoch in range(epochs, EPOCHS):
        (run / f"checkpoints/epoch={epoch}.ckpt").unlink()
    if last and epochs:
        shutil.copy(run / f"checkpoints/epoch={epochs - 1}.ckpt", run / "checkpoints/last.ckpt")
    # The logger hears of an epoch after its checkpoint is written.
    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    with (run / "metrics.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows[: max(epochs, 1)])
    (run / ".epoch=9.ckpt.999999999.tmp").write_text("half")


def metrics(run: Path) -> list[dict[str, str]]:
    """Rows of ``metrics.csv`` without the figures that differ from run to run: seconds and memory."""
    with (run / "metrics.csv").open(newline="") as stream:
        return [
            {key: value for key, value in row.items() if not key.endswith("_seconds") and not key.startswith("memory/")}
            for row in csv.DictReader(stream)
        ]


def maps(run: Path) -> torch.Tensor:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["rece"]["erasers"]["text"]["map"]


def content_of(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def assert_equal_runs(run: Path, whole: Path) -> None:
    first, second = load_file(whole / "edited.safetensors"), load_file(run / "edited.safetensors")
    assert list(first) == list(second)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert torch.equal(maps(run), maps(whole))
    assert metrics(run) == metrics(whole)
    assert (run / "report.html").is_file()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        path.name for path in (whole / "checkpoints").iterdir()
    }
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]


@pytest.fixture
def whole(fit: Fit, tmp_path: Path) -> Path:
    """An uninterrupted run, moved to where no run looks for it; the folder ``runs`` holds a copy."""
    fit()
    return Path(shutil.copytree(RUN, tmp_path / "whole"))


# Going on


@pytest.mark.parametrize("epochs", range(EPOCHS + 1))
def test_a_run_stopped_after_any_epoch_equals_the_uninterrupted_one(fit: Fit, whole: Path, epochs: int) -> None:
    stop_after(RUN, epochs)
    outcome = fit("--ckpt_path", "last")
    said = {0: "starting in it at epoch 0", EPOCHS: "writing what is missing"}
    assert f"{RUN} " in outcome.out
    assert said.get(epochs, f"goes on after {epochs} of {EPOCHS} epochs") in outcome.out
    assert_equal_runs(RUN, whole)
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize("value", [str(RUN), f"{RUN}/checkpoints", f"{RUN}/checkpoints/epoch=1.ckpt"])
def test_a_folder_and_a_file_name_the_run(fit: Fit, whole: Path, value: str) -> None:
    stop_after(RUN, 2)
    fit("--ckpt_path", value)
    assert_equal_runs(RUN, whole)
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_the_newest_whole_checkpoint_counts(fit: Fit, whole: Path) -> None:
    """The process died between ``epoch=2.ckpt`` and ``last.ckpt``; a damaged file is passed over."""
    stop_after(RUN, 3)
    shutil.copy(RUN / "checkpoints/epoch=1.ckpt", RUN / "checkpoints/last.ckpt")
    (RUN / "checkpoints/epoch=3.ckpt").write_bytes((RUN / "checkpoints/epoch=2.ckpt").read_bytes()[:999])
    outcome = fit("--ckpt_path", "last")
    assert "goes on after 3 of 5" in outcome.out
    assert "epoch=3.ckpt is damaged" in outcome.err
    assert_equal_runs(RUN, whole)


def test_the_last_epoch_reaches_last_ckpt_where_the_end_alone_is_left(fit: Fit, whole: Path) -> None:
    stop_after(RUN, 5)
    shutil.copy(RUN / "checkpoints/epoch=3.ckpt", RUN / "checkpoints/last.ckpt")
    fit("--ckpt_path", "last")
    assert_equal_runs(RUN, whole)


def test_an_earlier_checkpoint_takes_the_run_back(fit: Fit, whole: Path) -> None:
    stop_after(RUN, 4)
    fit("--ckpt_path", RUN / "checkpoints/epoch=0.ckpt", trainer={"max_epochs": 3})
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {
        "epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt",
    }  # fmt: skip
    assert torch.equal(
        maps(RUN), torch.load(whole / "checkpoints/epoch=2.ckpt", weights_only=True)["rece"]["erasers"]["text"]["map"]
    )
    assert [row["epoch"] for row in metrics(RUN) if row["epoch"]] == ["0", "1", "2"]


def test_a_run_goes_on_from_elsewhere_and_after_a_move(fit: Fit, whole: Path, tmp_path: Path) -> None:
    stop_after(RUN, 2)
    moved = tmp_path / "moved"
    shutil.move(RUN, moved)
    fit("--ckpt_path", moved)
    assert_equal_runs(moved, whole)
    assert not list(RUN.parent.iterdir())


def test_a_resumed_run_without_loggers_goes_on_in_its_folder(fit: Fit, tmp_path: Path) -> None:
    settings = {"trainer": {"logger": False, "default_root_dir": "out"}}
    fit(**settings)
    edited = load_file("out/edited.safetensors")
    for name in ("edited.safetensors", "report.html", "checkpoints/last.ckpt", "checkpoints/epoch=4.ckpt"):
        Path("out", name).unlink()
    assert "out goes on after 4 of 5" in fit("--ckpt_path", "last", **settings).out
    again = load_file("out/edited.safetensors")
    assert all(torch.equal(weight, again[name]) for name, weight in edited.items())
    assert {path.name for path in tmp_path.iterdir()} == {"out", "run.yaml"}


def test_tensorboard_has_every_epoch_once(fit: Fit, whole: Path) -> None:
    stop_after(RUN, 3)
    fit("--ckpt_path", "last")
    events = EventAccumulator(str(RUN)).Reload()
    first = EventAccumulator(str(whole)).Reload()
    for tag in ("regeneration_residual", "weight_change"):
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [(e.step, e.value) for e in first.Scalars(tag)]


def test_the_configuration_is_that_of_the_last_part(fit: Fit, whole: Path) -> None:
    stop_after(RUN, 2)
    fit("--ckpt_path", "last", "--overwrite", trainer={"max_epochs": 4, "callbacks": [MONITOR]})
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 4
    assert config["ckpt_path"] is None
    assert "overwrite" not in config
    # It leads back to the folder of its runs.
    fit("--config", RUN / "config.yaml")
    assert sorted(path.name for path in RUN.parent.iterdir()) == ["version_0", "version_1"]


def test_last_is_the_newest_run_of_fit(fit: Fit, whole: Path) -> None:
    """The other verbs open folders of their own beside it."""
    stop_after(RUN, 2)
    fit("--ckpt_path", "last", verb="validate", data={"concepts": ["bomb"], "validation": ["bomb"]})
    assert (RUN.parent / "version_1").is_dir()
    fit("--ckpt_path", "last")
    assert_equal_runs(RUN, whole)


def test_last_without_a_run_starts_one(fit: Fit) -> None:
    outcome = fit("--ckpt_path", "last")
    assert "there is no run in runs/run yet" in outcome.out
    assert (RUN / "report.html").is_file()
    outcome = fit("--ckpt_path", "last", verb="validate", code=2, trainer={"default_root_dir": "elsewhere"})
    assert "no run of fit in elsewhere" in outcome.err


# The best


def test_best_is_the_best_by_the_monitored_figure(fit: Fit) -> None:
    watched = {**MONITOR, "init_args": {**MONITOR["init_args"], "save_top_k": -1}}
    settings: dict[str, Any] = {"trainer": {"callbacks": [watched]}}
    fit(**settings)
    figures = [float(row["regeneration_residual"]) for row in metrics(RUN) if row["epoch"]]
    best = max(range(EPOCHS), key=figures.__getitem__)
    shutil.move(RUN, RUN.with_name("version_7"))
    outcome = fit("--ckpt_path", "best", "--overwrite", **settings)
    left = EPOCHS - best - 1
    assert (f"goes on after {best + 1} of" if left else "writing what is missing") in outcome.out
    fit("--ckpt_path", "best", verb="validate", data={"concepts": ["bomb"], "validation": ["bomb"]}, **settings)


def test_only_the_best_stays_over_a_stop(fit: Fit, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"trainer": {"callbacks": [MONITOR]}}
    fit(**settings)
    names = {path.name for path in (RUN / "checkpoints").iterdir()}
    fit("--trainer.max_epochs", "3", **settings)
    second = RUN.with_name("version_1").rename(RUN.with_name("version_5"))  # remembered paths follow
    fit("--ckpt_path", "last", "--overwrite", **settings)
    assert {path.name for path in (second / "checkpoints").iterdir()} == names
    assert torch.equal(maps(second), maps(RUN))
    assert metrics(second) == metrics(RUN)


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_best_without_a_monitor_says_how_to_set_one(fit: Fit, verb: str) -> None:
    fit(trainer={"max_epochs": 1})
    outcome = fit("--ckpt_path", "best", verb=verb, code=2)
    for part in ("--ckpt_path: best", "no figure was monitored", "ErasureCheckpoint", "monitor: regeneration_residual"):
        assert part in outcome.err


# The end


@pytest.mark.parametrize("missing", ["edited.safetensors", "report.html", "last.ckpt and both"])
def test_the_end_that_is_missing_is_written_and_nothing_else(
    fit: Fit, whole: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(RUN, EPOCHS)
    kept = {"edited.safetensors": "report.html", "report.html": "edited.safetensors"}.get(missing)
    if kept:
        shutil.copy(whole / kept, RUN / kept)
    if missing.startswith("last"):
        (RUN / "checkpoints/last.ckpt").unlink()
    written = (RUN / "checkpoints/epoch=4.ckpt").stat().st_mtime_ns, (RUN / (kept or "config.yaml")).stat().st_mtime_ns

    def no_epoch(module: RECE) -> None:
        raise AssertionError("an epoch ran")

    with monkeypatch.context() as patch:
        patch.setattr(RECE, "_edit", no_epoch)
        fit("--ckpt_path", "last")
    assert_equal_runs(RUN, whole)
    assert (RUN / "checkpoints/epoch=4.ckpt").stat().st_mtime_ns == written[0]
    if kept == "edited.safetensors":
        assert (RUN / kept).stat().st_mtime_ns == written[1]


@pytest.mark.parametrize("epochs", [2, EPOCHS])
def test_pictures_of_a_stopped_run_are_all_there(fit: Fit, epochs: int) -> None:
    prompts = ["bomb", {"prompt": "rocket", "kind": "preserved"}]
    settings: dict[str, Any] = {
        "data": {"concepts": ["bomb"], "validation": prompts},
        "trainer": {"callbacks": [EVALUATION]},
    }
    fit(**settings)
    counts, grid = (RUN / "evaluation.csv").read_bytes(), (RUN / "images/grid.png").read_bytes()
    stop_after(RUN, epochs)
    fit("--ckpt_path", "last", **settings)
    assert (RUN / "evaluation.csv").read_bytes() == counts
    assert (RUN / "images/grid.png").read_bytes() == grid
    assert b"epoch_1" in counts
    assert b"rece_derived" in counts


def test_a_finished_run_is_refused(fit: Fit, whole: Path) -> None:
    before = content_of(RUN)
    message = fit("--ckpt_path", "last", code=2).err
    for part in ("5 epochs already", "trainer.max_epochs is 5", "higher", "validate"):
        assert part in message
    message = fit("--ckpt_path", "last", code=2, trainer={"max_epochs": 6}).err
    for part in ("edited.safetensors exists", "--overwrite"):
        assert part in message
    assert "5 epochs already" in fit("--ckpt_path", "last", code=2, trainer={"max_epochs": 3}).err
    assert content_of(RUN) == before
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_more_epochs_replace_a_result_when_told(fit: Fit, whole: Path) -> None:
    fit("--ckpt_path", "last", "--overwrite", trainer={"max_epochs": 7})
    fit(trainer={"max_epochs": 7, "default_root_dir": "fresh"})
    assert_equal_runs(RUN, Path("fresh/version_0"))


def test_a_report_of_fewer_epochs_is_not_taken_for_the_end(
    fit: Fit, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was to replace its report died before it did."""

    def dies(**_: Any) -> str:
        raise SystemExit(3)  # an error would cost the page alone

    with monkeypatch.context() as patch:
        patch.setattr("rece_lightning.callbacks.report.render_page", dies)
        fit("--ckpt_path", "last", "--overwrite", code=3, trainer={"max_epochs": 6})
    assert "writing what is missing" in fit("--ckpt_path", "last", trainer={"max_epochs": 6}).out
    assert "6 epochs already" in fit("--ckpt_path", "last", code=2, trainer={"max_epochs": 6}).err


def test_a_finished_run_writes_its_end_again_when_told(fit: Fit, whole: Path) -> None:
    (RUN / "edited.safetensors").write_text("damaged")
    assert "edited.safetensors exists" in fit("--ckpt_path", "last", code=2).err
    fit("--ckpt_path", "last", "--overwrite")
    assert_equal_runs(RUN, whole)


def test_a_result_of_fewer_epochs_is_not_taken_for_the_end(fit: Fit, whole: Path) -> None:
    """A run that was to replace its result died before it did."""
    fit("--ckpt_path", "last", "--overwrite", trainer={"max_epochs": 6})
    shutil.copy(whole / "edited.safetensors", RUN / "edited.safetensors")
    (RUN / "report.html").unlink()
    message = fit("--ckpt_path", "last", code=2, trainer={"max_epochs": 6}).err
    assert "edited.safetensors exists" in message
    fit("--ckpt_path", "last", "--overwrite", trainer={"max_epochs": 6})
    assert not torch.equal(*(next(iter(load_file(run / "edited.safetensors").values())) for run in (RUN, whole)))


# What is refused leaves no trace


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"model": {"method": {"editor": {"class_path": "UCE", "init_args": {"lamb": 0.3}}}}},
            ["model.method.editor.lamb: 0.1 → 0.3", "model.method.accumulate: True → False"],
        ),
        ({"data": {"concepts": ["axe"]}}, ["other concepts"]),
        ({"pretrained": True}, ["model.pretrained", "differ", "Give the base"]),
    ],
    ids=["settings", "concepts", "base"],
)
def test_another_run_is_refused_before_any_work(
    fit: Fit, whole: Path, tmp_path: Path, change: dict[str, Any], parts: list[str]
) -> None:
    stop_after(RUN, 2)
    before = content_of(RUN)
    arguments: tuple[str | Path, ...] = ()
    if change.pop("pretrained", None):
        arguments = ("--model.pretrained", make_checkpoint(tmp_path / "other", seed=12))
    message = fit("--ckpt_path", "last", *arguments, code=2, **change).err
    for part in parts:
        assert part in message
    assert content_of(RUN) == before
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_a_base_model_that_is_not_there_leaves_no_folder(fit: Fit, tmp_path: Path) -> None:
    for verb in ("fit", "validate"):
        fit("--model.pretrained", tmp_path / "none", verb=verb, code=2)
    known = {"class_path": "Evaluation", "init_args": {"detector": "rece_lightning.metrics.EmojiDetector"}}
    unknown = {"concepts": ["bomb"], "validation": [{"prompt": "x", "concept": "no such thing"}]}
    assert "no such thing" in fit(code=2, data=unknown, trainer={"callbacks": [known]}).err
    assert not Path("runs").exists()


def test_a_new_run_never_replaces_one_unasked(fit: Fit) -> None:
    settings: dict[str, Any] = {"trainer": {"logger": False, "default_root_dir": "out", "max_epochs": 2}}
    fit(**settings)
    before = content_of(Path("out"))
    assert "edited.safetensors exists" in fit(code=2, **settings).err
    for name in ("edited.safetensors", "report.html"):
        Path("out", name).unlink()
    assert "config.yaml is another run's" in fit(code=2, **settings).err
    assert content_of(Path("out")) == {key: value for key, value in before.items() if Path("out", key).exists()}
    fit("--overwrite", "--model.method.editor.lamb", "0.4", **settings)
    after = content_of(Path("out"))
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in ("edited.safetensors", "checkpoints/epoch=0.ckpt"))


def test_two_runs_never_share_a_folder(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    from rece_lightning.runs import folder as run_folder

    real, calls = run_folder.next_version, []

    def late(root: Path) -> Path:
        folder = real(root)
        calls.append(folder)
        if len(calls) == 2:  # the first only looks
            folder.mkdir()
            (folder / "config.yaml").write_text("of another run")
        return folder

    monkeypatch.setattr(run_folder, "next_version", late)
    monkeypatch.setattr("rece_lightning.cli.start.next_version", late)
    fit(trainer={"max_epochs": 1})
    assert (RUN / "config.yaml").read_text() == "of another run"
    assert {path.name for path in RUN.iterdir()} == {"config.yaml"}
    assert (RUN.with_name("version_1") / "report.html").is_file()
    assert {path.name for path in RUN.parent.iterdir()} == {"version_0", "version_1"}


def test_temporaries_of_living_processes_stay(tmp_path: Path) -> None:
    alive, dead = tmp_path / ".last.ckpt.1.tmp", tmp_path / "below" / ".last.ckpt.999999999.tmp"
    dead.parent.mkdir()
    for path in (alive, dead, tmp_path / ".writable", tmp_path / "a.tmp"):
        path.write_text("x")
    discard_temporaries(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {alive.name, "a.tmp"}


# From Python


def test_a_trainer_of_the_users_own_resumes_and_finishes(tiny_model: Path, tmp_path: Path) -> None:
    def fit(epochs: int, resume: Path | None, root: str = "out") -> None:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=CSVLogger(tmp_path, "logs"),
            default_root_dir=tmp_path / root,
            enable_progress_bar=False,
            callbacks=[ErasureCheckpoint(), Export()],
        )
        trainer.fit(RECE(str(tiny_model), tune="off"), ConceptData(["bomb"]), ckpt_path=resume, weights_only=True)

    logs = tmp_path / "logs"
    fit(3, None)
    fit(3, logs / "version_0/checkpoints/epoch=1.ckpt")
    fit(3, logs / "version_0/checkpoints/epoch=2.ckpt")
    whole = load_file(logs / "version_0/edited.safetensors")
    for version in (1, 2):
        again = load_file(logs / f"version_{version}/edited.safetensors")
        assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
        assert torch.equal(maps(logs / f"version_{version}"), maps(logs / "version_0"))
