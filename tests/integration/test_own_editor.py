"""CONTRIBUTING's recipe: an editor in a package of somebody's own goes everywhere and touches no file of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, ConfigurationError, Method, erase, load_pipeline
from rece_lightning.callbacks import Erase
from tests.helpers.command import Outcome, run_command

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "own_editors"
EDITOR = f"{PACKAGE}.shrink.Shrink"
SOURCE = '''
"""An editor of our own: every concept loses a share of itself, whatever its target."""

from dataclasses import dataclass

import torch

from rece_lightning.core import EmbeddingMap
from rece_lightning.core.editors import EditProblem, Editor


@dataclass(frozen=True)
class Shrink(Editor):
    """Ridge regression of the erased rows onto nothing.

    Args:
        share: of a concept that goes.
        ridge: weight of leaving the projections as they are.
    """

    share: float = 1.0
    ridge: float = 0.1

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        moments = problem.moments
        eye = torch.eye(problem.gram.width, dtype=torch.float64)
        system = moments.erased + moments.preserved + self.ridge * eye
        return EmbeddingMap(eye - self.share * torch.linalg.solve(system, moments.erased, left=False))
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside the project with the package in it, and runs of ours."""
    folder = tmp_path_factory.mktemp("own")
    (folder / PACKAGE).mkdir()
    (folder / PACKAGE / "__init__.py").write_text("")
    (folder / PACKAGE / "shrink.py").write_text(SOURCE)
    assert len(SOURCE.strip().splitlines()) <= 30
    return folder


@pytest.fixture
def rece(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command, run beside the package."""
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.chdir(home)
    return lambda *arguments: run_command(capsys, *arguments)


def apart(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command ``rece`` in a process of its own that has not imported the package."""
    return subprocess.run(
        # As an installed command is started: without the folder that it is called from on the path.
        [sys.executable, "-P", "-c", "from rece_lightning.__main__ import main; main()", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def config(home: Path) -> str:
    """A configuration that names the editor."""
    file = home / "own.yaml"
    method = {"editor": {"class_path": EDITOR, "init_args": {"share": 0.9}}, "derivation": {"scale": 1.0e-3}}
    data = {"concepts": ["bomb"], "preserve": [" ", "dog", "rose"]}
    data["validation"] = [{"prompt": "fox", "concept": "fox", "kind": "preserved"}]  # type: ignore[list-item]
    file.write_text(yaml.safe_dump({"model": {"method": method}, "data": data, "trainer": {"max_epochs": 2}}))
    return str(file)


@pytest.fixture
def run(home: Path, rece: Callable[..., Outcome]) -> Path:
    """The folder of a fit; all tests share it."""
    folder = home / "runs" / "own" / "version_0"
    if not folder.exists():
        done = rece("fit", "--config", config(home))
        assert done.code == 0, done.err
    return folder


def method_of_ours(monkeypatch: pytest.MonkeyPatch, home: Path) -> Method:
    """The method, its editor imported as a user imports it."""
    monkeypatch.syspath_prepend(str(home))
    from own_editors.shrink import Shrink  # type: ignore[import-not-found]

    return Method(editor=Shrink(share=0.9))


def test_a_fit_says_which_editor_it_was(run: Path) -> None:
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["model"]["method"]["editor"]["class_path"] == EDITOR
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["rece"]["method"]["editor"] == {"class_path": EDITOR, "init_args": {"share": 0.9, "ridge": 0.1}}


def test_the_command_line_sets_its_arguments(home: Path, rece: Callable[..., Outcome]) -> None:
    done = rece("fit", "--config", config(home), "--model.method.editor", EDITOR, "--model.method.editor.share",
                "0.5", "--trainer.default_root_dir", str(home / "half"))  # fmt: skip
    assert done.code == 0, done.err
    content = torch.load(next((home / "half").rglob("last.ckpt")), weights_only=True)
    assert content["rece"]["method"]["editor"]["init_args"]["share"] == 0.5
    wrong = rece("fit", "--config", config(home), "--model.method.editor", EDITOR, "--model.method.editor.shaer", "1")
    assert wrong.code == 2
    assert "shaer" in wrong.err
    assert "share" in wrong.err


def test_a_package_is_found_in_the_folder_that_the_command_is_called_from(home: Path, run: Path) -> None:
    named = ["--model.method.editor", EDITOR, "--model.method.editor.share", "0.5", "--print_config"]
    done = apart(home, "fit", "--config", config(home), *named)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["method"]["editor"]["init_args"]["share"] == 0.5
    elsewhere = apart(home / "runs", "fit", "--config", config(home), *named)
    assert elsewhere.returncode == 2
    assert "PYTHONPATH" in elsewhere.stderr


def test_an_export_needs_no_import_of_it(home: Path, run: Path) -> None:
    output = home / "delta.safetensors"
    done = apart(home, "export", "--ckpt_path", str(run), "--format", "delta", "--output", str(output))
    assert done.returncode == 0, done.stderr
    exported, written = load_file(output), load_file(run / "edited.safetensors")
    assert exported.keys() == written.keys()
    assert all(torch.equal(exported[name], written[name]) for name in written)


def test_apply_imports_what_the_user_names_alone(home: Path, run: Path, rece: Callable[..., Outcome]) -> None:
    arguments = ["apply", "--ckpt_path", str(run), "--pretrained", "emoji", "--format", "delta"]
    refused = apart(home, *arguments, "--output", str(home / "no.safetensors"))
    assert refused.returncode == 2
    assert "--editor" in refused.stderr
    done = rece(*arguments, "--output", str(home / "yes.safetensors"), "--editor", EDITOR)
    assert done.code == 0, done.err
    applied, written = load_file(home / "yes.safetensors"), load_file(run / "edited.safetensors")
    assert all(torch.allclose(applied[name].float(), written[name].float(), atol=1e-3) for name in written)


def test_a_stopped_run_goes_on(home: Path, run: Path, rece: Callable[..., Outcome]) -> None:
    done = rece("fit", "--config", config(home), "--ckpt_path", str(run), "--trainer.max_epochs", "3", "--overwrite")
    assert done.code == 0, done.err
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["rece"]["epochs"] == 3


def test_a_sweep_ranks_it_beside_ours(home: Path, rece: Callable[..., Outcome]) -> None:
    done = rece("sweep", "--config", config(home), "--grid", f"model.method.editor=UCE,{EDITOR}", "--grid",
                "model.method.editor.share=0.5,1", "--measure", "0", "--output", str(home / "sweep"))  # fmt: skip
    assert done.code == 0, done.err
    table = (home / "sweep" / "sweep.csv").read_text()
    assert table.count(EDITOR) >= 3
    assert '""UCE""' in table
    recommended = rece("fit", "--config", str(home / "sweep" / "recommended.yaml"), "--trainer.default_root_dir",
                       str(home / "again"))  # fmt: skip
    assert recommended.code == 0, recommended.err


def test_it_works_from_python(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of_ours(monkeypatch, home)
    pipeline = load_pipeline("emoji")
    name = next(name for name, _ in pipeline.unet.named_parameters() if "attn2.to_v" in name)
    before = pipeline.unet.get_parameter(name).clone()
    with erase(pipeline, "bomb", method=method):
        assert not torch.equal(pipeline.unet.get_parameter(name), before)
    assert torch.equal(pipeline.unet.get_parameter(name), before)
    assert Erase("bomb", method=method).plan.method == method


def test_load_from_checkpoint_finds_an_imported_one_and_imports_none(
    home: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_of_ours(monkeypatch, home)
    module = RECE.load_from_checkpoint(run / "checkpoints" / "epoch=1.ckpt")
    assert module.method.editor == method.editor
    module = RECE(method=method)
    data = ConceptData(concepts=["bomb"], preserve=[" ", "dog"])
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, accelerator="cpu", default_root_dir=home / "python")  # fmt: skip
    trainer.fit(module, data)
    assert module.erasure().change() > 0
    with pytest.raises(ConfigurationError, match="not imported"):
        Method.from_plain({"editor": {"class_path": "nobodys.package.Editor"}})
