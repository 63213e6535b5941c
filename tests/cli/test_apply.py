"""``rece apply``: one erasure on other models with the same text encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from rece_lightning.models.families.unet import text_projection
from rece_lightning.runs.checkpoints import read_checkpoint
from tests.helpers.command import Outcome, run_command, write_config
from tests.helpers.models_original import make_folder, make_original

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "sd1", "sd1")


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with another U-Net, as a fine-tune has."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("tuned") / "model")
    tensors = load_file(folder / UNET)
    generator = torch.Generator().manual_seed(5)
    save_file(
        {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in tensors.items()},
        folder / UNET,
    )
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    return fit(here, base, capsys)


def fit(folder: Path, base: Path, capsys: pytest.CaptureFixture[str], **model: object) -> Path:
    config = write_config(folder, base, model=model, data={"concepts": ["nudity"], "preserve": [" ", "a cat"]})
    outcome = run_command(capsys, "fit", "--config", config)
    assert outcome.code == 0, outcome.err
    return max((folder / "runs/run").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def apply(capsys: pytest.CaptureFixture[str], run: Path, other: Path, output: Path, *more: str) -> Outcome:
    return run_command(capsys, "apply", "--ckpt_path", run, "--pretrained", other, "--output", output, *more)


def test_it_equals_the_erasure_from_scratch(
    here: Path, run: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = apply(capsys, run, tuned, here / "other.safetensors")
    assert outcome.code == 0, outcome.err
    assert "regeneration residual" in outcome.out
    assert "preservation drift" in outcome.out
    scratch = load_file(fit(here, tuned, capsys) / "edited.safetensors")
    applied = load_file(here / "other.safetensors")
    assert applied.keys() == scratch.keys()
    for name, weight in scratch.items():
        assert torch.equal(applied[name], weight)


def test_a_reused_map_is_the_map_of_the_checkpoint(
    here: Path, run: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(capsys, run, tuned, here / "other.safetensors", "--reuse-map").code == 0
    matrix = read_checkpoint(run / "checkpoints/last.ckpt")["rece"]["erasers"]["text"]["map"]
    original = load_file(tuned / UNET)
    for name, weight in load_file(here / "other.safetensors").items():
        torch.testing.assert_close(weight, (original[name].double() @ matrix).float(), rtol=0, atol=0)
    recomputed = here / "recomputed.safetensors"
    assert apply(capsys, run, tuned, recomputed).code == 0
    fresh, reused = load_file(recomputed), load_file(here / "other.safetensors")
    assert any(not torch.equal(weight, reused[name]) for name, weight in fresh.items())


def test_on_an_inpainting_model_as_a_folder(
    here: Path, run: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_folder(here / "inpainting", "sd1-inpainting", seed=3)
    shutil.rmtree(other / "text_encoder")
    shutil.copytree(base / "text_encoder", other / "text_encoder")
    outcome = apply(capsys, run, other, here / "erased")
    assert outcome.code == 0, outcome.err
    before = DiffusionPipeline.from_pretrained(other, safety_checker=None).unet.state_dict()
    after = DiffusionPipeline.from_pretrained(here / "erased", safety_checker=None).unet.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    shapes = {name: tuple(weight.shape) for name, weight in before.items()}
    assert changed == {name for name in before if text_projection(name, shapes, {})}


def test_on_a_checkpoint_file(here: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same model in another layout: nothing differs, and the erasure is the run's own."""
    file = make_original(here / "model.safetensors", "sd1")
    assert apply(capsys, run, file, here / "other.safetensors").code == 0
    own = load_file(run / "edited.safetensors")
    for name, weight in load_file(here / "other.safetensors").items():
        assert torch.equal(weight, own[name])


def test_a_text_encoder_in_half_precision_is_the_same_one(
    here: Path, run: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tuned, here / "half")
    save_file({name: tensor.half() for name, tensor in load_file(tuned / TEXT).items()}, other / TEXT)
    outcome = apply(capsys, run, other, here / "other.safetensors")
    assert outcome.code == 0, outcome.err
    assert "as rounding does" in " ".join(outcome.out.split())


def test_another_text_encoder_is_refused(
    here: Path, run: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tuned, here / "other")
    tensors = load_file(other / TEXT)
    generator = torch.Generator().manual_seed(6)
    save_file(
        {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in tensors.items()},
        other / TEXT,
    )
    outcome = apply(capsys, run, other, here / "other.safetensors")
    assert outcome.code == 2
    assert "another text encoder" in outcome.err
    assert "run fit on this model" in outcome.err
    assert not (here / "other.safetensors").exists()


def test_a_map_a_layer_cannot_be_reused(
    here: Path, base: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(here, base, capsys, method={"editor": "TensorUCE"})
    outcome = apply(capsys, run, tuned, here / "other.safetensors", "--reuse-map")
    assert outcome.code == 2
    assert "--reuse-map" in outcome.err
    assert "TensorUCE" in outcome.err
    assert apply(capsys, run, tuned, here / "other.safetensors").code == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--pretrained: not given"]),
        (["--pretrained", "nowhere/at/all"], ["model.pretrained", "nowhere"]),
        (["--pretrained", "emoji", "--format", "lorra"], ["--format", "lora"]),
    ],
)
def test_mistakes(
    here: Path, run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    outcome = run_command(capsys, "apply", "--ckpt_path", run, "--output", here / "x.safetensors", *arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err
