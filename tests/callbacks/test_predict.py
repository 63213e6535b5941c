"""``predict``: pictures that say what they are, the same in every batch, and runs that go on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.callbacks import PictureWriter
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.evaluation.background import Background
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling
from tests.helpers.command import Outcome, run_command, write_config

REPOSITORY = Path(__file__).resolve().parents[2]
Predict = Callable[..., Outcome]
WRITER = {"steps": 2, "batch_size": 3, "pictures_per_prompt": 2}
PROMPTS = (
    "prompt,concept,kind,seed,guidance_scale\nbomb,bomb,erased,,\nä rocket,rocket,preserved,7,2.5\nan axe,axe,,,\n"
)
# Dies when it has brought n files and folders to the disk and is about to do so with the next file: a picture.
DYING = """
import os, signal, stat, sys
from rece_lightning.__main__ import main
sync, calls = os.fsync, [0]
def dying(descriptor):
    calls[0] += 1
    if calls[0] > int(sys.argv[1]) and stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = dying
main(sys.argv[2:])
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def predict(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """``predict`` with a PictureWriter of some settings."""
    (tmp_path / "prompts.csv").write_text(PROMPTS, encoding="utf-8")

    def run(*arguments: str, code: int = 0, **writer: Any) -> Outcome:
        outcome = run_command(capsys, *command(tmp_path, tiny_model, **writer), *arguments)
        assert outcome.code == code, outcome.out + outcome.err
        return outcome

    return run


def command(place: Path, model: Path, **writer: Any) -> list[str]:
    callback = {"class_path": "PictureWriter", "init_args": {**WRITER, **writer}}
    path = write_config(place, model, trainer={"callbacks": [callback]})
    return ["predict", "--config", str(path), "--data.predict", str(place / "prompts.csv")]


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def pixels(folder: Path) -> dict[str, bytes]:
    return {path.name: Image.open(path).tobytes() for path in folder.glob("*.png")}


def test_pictures_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed starts from the same noise, to the bit; pixels agree to 1/255."""
    base = find_base("emoji")
    maker = PictureMaker.load(base, load_encoder(base), Placement(), torch.device("cpu"))
    noise: list[torch.Tensor] = []
    prepare = maker.pipeline.prepare_latents

    def recorded(*arguments: Any, **settings: Any) -> torch.Tensor:
        noise.append(prepare(*arguments, **settings))
        return noise[-1]

    monkeypatch.setattr(maker.pipeline, "prepare_latents", recorded)
    rows = [
        EvaluationPrompt(prompt, prompt) for prompt in ("bomb", "rocket", "a key", "an axe on a blue background") * 2
    ]
    seeds = [3, 1, 4, 1, 5, 9, 2, 6]
    made, started = [], []
    for size in (1, 3, 8):
        noise.clear()
        made.append(maker.make(rows, seeds, Sampling(steps=4, guidance_scale=4.0, batch_size=size)))
        started.append(torch.cat(noise))
    assert torch.equal(started[0], started[1])
    assert torch.equal(started[0], started[2])
    for other in made[1:]:
        assert float((other - made[0]).abs().max()) <= 1 / 255
    # The seeds do something.
    assert not torch.equal(started[0][0], started[0][4])


def test_every_picture_says_what_it_is(predict: Predict, tmp_path: Path) -> None:
    predict()
    folder = tmp_path / "runs/run/version_0/pictures"
    rows = index(folder)
    assert [(row["file"], row["prompt"], row["kind"], row["seed"], row["guidance_scale"]) for row in rows] == [
        ("00000.png", "bomb", "erased", "0", "7.5"),
        ("00001.png", "bomb", "erased", "1", "7.5"),
        ("00002.png", "ä rocket", "preserved", "7", "2.5"),
        ("00003.png", "an axe", "erased", "0", "7.5"),
        ("00004.png", "an axe", "erased", "1", "7.5"),
    ]
    with Image.open(folder / "00002.png") as picture:
        said = picture.text  # type: ignore[attr-defined]
    wanted = {"prompt": "ä rocket", "seed": "7", "guidance_scale": "2.5", "steps": "2", "concepts": "[]", "erasure": ""}
    assert wanted.items() <= said.items()
    assert {"base", "version", "scheduler"} <= said.keys()


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(
    predict: Predict, tmp_path: Path, tiny_model: Path
) -> None:
    program = [sys.executable, "-c", DYING, "9", *command(tmp_path, tiny_model)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "runs/run/version_0/pictures"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert 0 < len(before) < 5
    assert list(folder.glob(".*.tmp"))
    outcome = predict()
    assert f"{len(before)} of 5 pictures are there" in outcome.out
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert len(index(folder)) == 5
    assert not list(folder.glob(".*"))
    # Finished: the next call starts anew, and makes the same pictures, though in other batches than the rest was.
    predict()
    assert sorted(path.name for path in folder.parents[1].iterdir()) == ["version_0", "version_1"]
    anew = pixels(tmp_path / "runs/run/version_1/pictures")
    assert anew.keys() == pixels(folder).keys()
    for name, data in pixels(folder).items():
        assert max(abs(a - b) for a, b in zip(data, anew[name], strict=True)) <= 1


def test_only_what_is_whole_and_of_the_same_settings_stays(predict: Predict, tmp_path: Path) -> None:
    predict(folder="mine")
    folder, whole = tmp_path / "mine", pixels(tmp_path / "mine")
    (folder / "index.csv").unlink()
    cut, foreign, untouched = (folder / f"0000{number}.png" for number in (0, 1, 2))
    cut.write_bytes(cut.read_bytes()[:-20])
    Image.new("RGB", (8, 8)).save(foreign)
    time_before = untouched.stat().st_mtime_ns
    # Another batch is no other setting.
    outcome = predict(folder="mine", batch_size=1)
    assert "3 of 5 pictures are there" in outcome.out
    assert untouched.stat().st_mtime_ns == time_before
    assert index(folder)
    for name, data in pixels(folder).items():
        assert max(abs(a - b) for a, b in zip(data, whole[name], strict=True)) <= 1
    outcome = predict(folder="mine")
    assert "5 of 5 pictures are there" in outcome.out


def test_pictures_of_other_settings_are_neither_kept_nor_replaced(predict: Predict, tmp_path: Path) -> None:
    predict(folder="mine")
    before = pixels(tmp_path / "mine")
    outcome = predict(folder="mine", steps=3, code=2)
    assert "other prompts or settings" in outcome.err
    assert pixels(tmp_path / "mine") == before
    predict()
    (tmp_path / "runs/run/version_1/pictures/index.csv").unlink()
    predict(steps=3)
    assert (tmp_path / "runs/run/version_2/pictures/index.csv").is_file()
    # A folder of pictures that are nobody's.
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other/cat.png")
    assert "other pictures" in predict(folder="other", code=2).err


def test_a_picture_that_cannot_be_written_ends_the_run(predict: Predict, tmp_path: Path) -> None:
    predict(folder="mine")
    (tmp_path / "mine/index.csv").unlink()
    (tmp_path / "mine/00003.png").unlink()
    (tmp_path / "mine/00003.png").mkdir()
    outcome = predict(folder="mine", code=2)
    assert "00003.png cannot be written" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "mine/index.csv").exists()


def test_pictures_in_python_are_written_and_not_kept(tiny_model: Path, tmp_path: Path) -> None:
    module = RECE(pretrained=str(tiny_model), tune="off")
    data = ConceptData(concepts=["bomb"], predict=["bomb", "axe"])
    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    for steps, number in ((1, 4), (2, 4)):
        writer = PictureWriter(folder=f"steps-{steps}", steps=steps, pictures_per_prompt=2)
        trainer = Trainer(accelerator="cpu", callbacks=[writer], default_root_dir=tmp_path, **settings)
        assert not trainer.predict(module, data)
        assert len(index(tmp_path / f"steps-{steps}")) == number
    assert json.loads((tmp_path / "steps-2/settings.json").read_text())["settings"]["steps"] == 2


@pytest.mark.parametrize(
    ("setting", "value"), [("pictures_per_prompt", 0), ("steps", 0), ("guidance_scale", -1.0), ("scheduler", "DDIMm")]
)
def test_settings_that_cannot_be_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"PictureWriter.{setting}: {value!r}"):
        PictureWriter(**{setting: value})


def test_work_in_the_background_waits_and_loses_no_error() -> None:
    done: list[int] = []
    gate = threading.Event()
    work = Background(threads=1, waiting=2)
    for number in range(2):
        work.submit(lambda number=number: (gate.wait(), done.append(number)))  # type: ignore[misc]
    late = threading.Thread(target=lambda: work.submit(lambda: done.append(2)))
    late.start()
    time.sleep(0.05)
    # The queue is full: who hands in more has to wait.
    assert late.is_alive()
    gate.set()
    late.join()
    work.close()
    assert done == [0, 1, 2]
    failing = Background(threads=1)
    failing.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.close()
