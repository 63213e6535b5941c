"""Every verb on families of transformers: fit with a certificate, sweep, apply to a fine-tune, scan."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.command import run_command, write_config
from tests.helpers.tiny.pipelines import build

FAMILIES = ["flux", "sd3", "pixart_sigma", "z_image", "wan"]
DATA = {"concepts": ["bomb"], "target": "spoon", "preserve": [" ", "dog"]}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / str(request.param)
    build(request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


PASSED = {
    "pixart_sigma": "caption_projection", "z_image": "cap_embedder.0",
    "wan": "condition_embedder.text_embedder",
}  # fmt: skip
"""Family → the first module that its rows pass before a reader."""


def tuned(model: Path, folder: Path, kept: tuple[str, ...] = ()) -> Path:
    """A fine-tune: other weights in every denoiser, but for those of modules whose names begin with ``kept``."""
    copy = shutil.copytree(model, folder)
    for file in sorted(copy.glob("transformer*/*.safetensors")):
        generator = torch.Generator().manual_seed(5)
        tensors = load_file(file)
        for key in sorted(tensors):
            if not key.startswith(kept):
                tensors[key] = tensors[key] + 0.1 * torch.randn(tensors[key].shape, generator=generator)
        save_file(tensors, file)
    return copy


def test_an_erasure_is_certified_and_applied_to_a_fine_tune(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("caption_", "cap_embedder.0", "condition_embedder.")  # what the text passes before the readers
    other = tuned(model, here / "tuned", kept)
    edits = {}
    for place, base in enumerate((model, other)):
        config = write_config(here, base, model={"certificate": 1.0}, data=DATA)
        outcome = run_command(capsys, "fit", "--config", config)
        assert outcome.code == 0, outcome.err
        edits[base] = here / f"runs/run/version_{place}"
        assert "ertificate" in (edits[base] / "report.html").read_text()

    outcome = run_command(
        capsys, "apply", "--ckpt_path", edits[model], "--pretrained", other, "--output", here / "applied.safetensors"
    )

    assert outcome.code == 0, outcome.err
    scratch, applied = load_file(edits[other] / "edited.safetensors"), load_file(here / "applied.safetensors")
    assert applied.keys() == scratch.keys()
    assert all(torch.equal(applied[name], weight) for name, weight in scratch.items())
    first = load_file(edits[model] / "edited.safetensors")
    assert any(not torch.equal(weight, first[name]) for name, weight in scratch.items())


def test_a_fine_tune_with_another_projector_is_refused(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows that were erased are those behind the first model's projector."""
    other = tuned(model, here / "tuned")
    assert run_command(capsys, "fit", "--config", write_config(here, model, data=DATA)).code == 0

    outcome = run_command(
        capsys, "apply", "--ckpt_path", here / "runs/run/version_0", "--pretrained", other, "--output",
        here / "applied.safetensors",
    )  # fmt: skip

    passed = PASSED.get(model.name)
    assert outcome.code == (0 if passed is None else 2), outcome.err
    if passed is not None:
        assert f"has another {passed}, which the text passes before what is edited" in outcome.err


def test_a_sweep_ranks_without_a_picture(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(here, model, data=DATA)

    outcome = run_command(
        capsys, "sweep", "--config", config, "--grid", "model.method.editor.lamb=0.1,1", "--output", here / "sweep"
    )

    assert outcome.code == 0, outcome.err
    assert len((here / "sweep" / "sweep.csv").read_text().strip().splitlines()) >= 3
