"""An extra never costs a run: one fault each, one warning, exit code 0, and everything else is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import Export, Report
from tests.helpers.command import Outcome, run_command, write_config

RUN = Path("runs/run/version_0")
NEEDED = ("edited.safetensors", "checkpoints/last.ckpt", "config.yaml")
PROMPTS = [{"prompt": "a bomb", "concept": "bomb", "kind": "erased"}]
EVALUATION = {"steps": 1, "pictures_per_prompt": 1, "detector": "EmojiDetector"}
Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Fit with callbacks, and check what no extra may cost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def fit(*callbacks: Any, model: Path = tiny_model, warnings: int = 1, **trainer: Any) -> Outcome:
        evaluates = any(isinstance(one, dict) and one["class_path"] == "Evaluation" for one in callbacks)
        data = {"concepts": ["bomb"], "validation": PROMPTS if evaluates else None}
        path = write_config(tmp_path, model, data=data, trainer={"callbacks": list(callbacks) or None, **trainer})
        outcome = run_command(capsys, "fit", "--config", path)
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("Warning: ") == warnings, outcome.err
        assert "Traceback" not in outcome.err
        assert all((RUN / name).is_file() for name in NEEDED)
        return outcome

    return fit


def evaluation(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "Evaluation", "init_args": {**EVALUATION, **arguments}}


@pytest.fixture
def wordless(tmp_path: Path, tiny_model: Path) -> Path:
    """A model whose tokenizer knows letters, and no word."""
    model = tmp_path / "wordless"
    shutil.copytree(tiny_model, model)
    file = model / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    # Without merges no two letters become one token; the numbers of all others stay.
    content["model"]["merges"] = []
    file.write_text(json.dumps(content))
    return model


def test_a_tokenizer_without_whole_words(run: Run, wordless: Path) -> None:
    said = run(model=wordless).err
    assert "list of words that still reach a concept" in said
    assert "no whole word" in said
    assert "Left out: " in (RUN / "report.html").read_text()


def test_a_plot_that_fails_costs_the_plot_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No input that reaches the plots makes them fail: the fault is put into the library that draws."""
    monkeypatch.setattr("rece_lightning.reporting.plots.Figure.savefig", failing("no fonts"))
    said = run(warnings=2).err
    assert "the curves of the epochs in the report is missing: OSError: no fonts" in said
    page = (RUN / "report.html").read_text()
    assert "Curves of the epochs" not in page
    assert "regeneration residual" in page.lower()


def failing(reason: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(reason)

    return fail


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ("callbacks.report.render_page", "report.html"),
        ("callbacks.report.export_costs", "what the export formats cost"),
        ("callbacks.report.print_tables", "the table in the terminal"),
        ("callbacks.report.PlainConsole", "the table in the terminal"),
        ("evaluation.results.outcome.draw_grid", "grid.png"),
        ("evaluation.results.outcome.save_sheet", "sheet-original"),
    ],
)
def test_a_part_that_fails_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, place: str, missing: str) -> None:
    monkeypatch.setattr(f"rece_lightning.{place}", failing("of the disk"))
    sheets = 5 if place.endswith("save_sheet") else 1
    assert missing in run(evaluation(), warnings=sheets).err
    assert (RUN / "report.html").is_file() == ("render_page" not in place)
    assert (RUN / "evaluation.csv").is_file()
    assert (RUN / "images/grid.png").is_file() == ("draw_grid" not in place)


def test_a_folder_in_the_reports_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in_the_way.py").write_text(
        "from lightning.pytorch import Callback\n"
        "from rece_lightning.runs.folder import run_folder\n"
        "class InTheWay(Callback):\n"
        "    def on_train_end(self, trainer, module):\n"
        "        (run_folder(trainer) / 'report.html' / 'x').mkdir(parents=True)\n"
        "        (run_folder(trainer) / 'images').write_text('x')\n"
    )
    said = run({"class_path": "in_the_way.InTheWay"}).err
    assert "report.html is missing" in said


def test_a_detector_that_fails_costs_the_measurements_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken_detector.py").write_text(
        "from collections.abc import Sequence\n"
        "from torch import Tensor\n"
        "from rece_lightning.metrics import EmojiDetector\n"
        "class Broken(EmojiDetector):\n"
        "    def detect(self, pictures: Tensor, concepts: Sequence[str]) -> Tensor:\n"
        "        raise RuntimeError('out of memory')\n"
    )
    said = run(evaluation(detector={"class_path": "broken_detector.Broken"})).err
    assert "what Evaluation draws and measures is missing: RuntimeError: out of memory" in said
    assert (RUN / "report.html").is_file()


def test_an_attack_that_fails_costs_the_attacks_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken_attack.py").write_text(
        "from rece_lightning.attacks import Attack\n"
        "class Broken(Attack):\n"
        "    name = 'broken'\n"
        "    def search(self, *arguments, **named): raise RuntimeError('out of memory')\n"
    )
    attack = {"attacks": [{"class_path": "broken_attack.Broken"}], "detector": "EmojiDetector", "steps": 1}
    said = run({"class_path": "RedTeam", "init_args": attack}).err
    assert "what RedTeam finds is missing: RuntimeError: out of memory" in said
    assert (RUN / "report.html").is_file()


LOGGER = """
from lightning.pytorch.loggers.logger import Logger
class Remote(Logger):
    # As W&B's and MLflow's: a place and a name, no folder of its own, no version before it begins.
    def __init__(self, save_dir: str = '.', fails: str = ''):
        super().__init__()
        self._save_dir, self.fails, self.heard = save_dir, fails, []
    save_dir = property(lambda self: self._save_dir)
    name = property(lambda self: 'project')
    version = property(lambda self: None)
    @property
    def experiment(self):
        if self.fails == 'experiment': raise ConnectionError('no key')
    def log_metrics(self, metrics, step=None):
        if self.fails == 'metrics': raise ConnectionError('server gone')
        self.heard.append(metrics)
    def log_hyperparams(self, params, *args, **kwargs):
        if self.fails == 'hyperparams': raise TypeError('cannot be written')
    def finalize(self, status):
        if self.fails == 'finalize': raise ConnectionError('server gone')
"""


def remote(fails: str = "") -> dict[str, Any]:
    Path("remote_logger.py").write_text(LOGGER)
    return {"class_path": "remote_logger.Remote", "init_args": {"fails": fails}}


@pytest.mark.parametrize("fails", ["metrics", "hyperparams", "finalize"])
def test_a_logger_that_fails_costs_its_log_alone(run: Run, fails: str) -> None:
    assert "what Remote logs is missing from now on" in run(logger=remote(fails)).err
    assert (RUN / "report.html").is_file()


def test_a_logger_that_fails_costs_its_log_alone_in_python_too(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    remote()
    logger = import_module("remote_logger").Remote(fails="metrics")
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=logger, enable_progress_bar=False, enable_checkpointing=False,
        callbacks=[Export(), Report()], log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(RECE(str(tiny_model), tune="off"), ConceptData(["bomb"]))
    assert capsys.readouterr().err.count("Warning: what Remote logs is missing from now on") == 1
    assert all((tmp_path / name).is_file() for name in ("edited.safetensors", "report.html"))


def test_a_logger_that_cannot_begin_is_told_before_any_work(
    run: Run, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, tiny_model, trainer={"logger": remote("experiment")})
    outcome = run_command(capsys, "fit", "--config", path)
    assert outcome.code == 2
    assert "error: trainer.logger: Remote cannot begin (ConnectionError: no key)" in outcome.err
    assert not Path("runs").exists()


# Every run has a folder of its own, whatever its loggers


@pytest.mark.parametrize("kind", ["remote", "several", "csv", "true", "none", "false"])
def test_every_run_has_a_folder_of_its_own(run: Run, kind: str) -> None:
    csv = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    logger = {
        "remote": remote(), "several": [remote(), csv], "csv": csv, "true": True, "none": None, "false": False,
    }[kind]  # fmt: skip
    run({"class_path": "ModelCheckpoint"}, logger=logger, warnings=0)
    run({"class_path": "ModelCheckpoint"}, logger=logger, warnings=0)
    first, second = (RUN.with_name(name) for name in ("version_0", "version_1"))
    assert {path.name for path in RUN.parent.iterdir()} == {"version_0", "version_1"}
    names = [
        {path.relative_to(run).as_posix().split("tfevents")[0] for path in run.rglob("*")} for run in (first, second)
    ]
    assert names[0] == names[1]
    assert "checkpoints/epoch=1-step=2.ckpt" in names[0]
    assert all(
        torch.equal(value, load_file(second / NEEDED[0])[key]) for key, value in load_file(first / NEEDED[0]).items()
    )
    assert {path.name for path in Path().iterdir()} <= {"runs", "logs", "run.yaml", "remote_logger.py", "__pycache__"}


def test_a_run_of_a_remote_logger_goes_on_in_its_folder(
    run: Run, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(logger=remote(), warnings=0)
    path = write_config(tmp_path, tiny_model, trainer={"logger": remote(), "max_epochs": 3})
    outcome = run_command(capsys, "fit", "--config", path, "--ckpt_path", "last", "--overwrite")
    assert outcome.code == 0, outcome.err
    assert f"{RUN} goes on after 2 of 3 epochs" in outcome.out
    assert (RUN / "checkpoints/epoch=2.ckpt").is_file()
    assert [one.name for one in RUN.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize("verb", ["validate", "predict"])
def test_other_verbs_have_folders_of_their_own_too(
    run: Run, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    run(logger=remote(), warnings=0)
    data = {"concepts": ["bomb"], "validation": PROMPTS, "predict": ["a bomb"]}
    callbacks = [evaluation(), {"class_path": "PictureWriter", "init_args": {"steps": 1, "pictures_per_prompt": 1}}]
    path = write_config(tmp_path, tiny_model, data=data, trainer={"logger": remote(), "callbacks": callbacks})
    outcome = run_command(capsys, verb, "--config", path, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in RUN.parent.iterdir()} == {"version_0", "version_1"}
