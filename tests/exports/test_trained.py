"""What a baseline trained, in the formats that hold it: read back by diffusers, against the weights themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from rece_lightning import load_pipeline
from rece_lightning.baselines import ConceptAblation
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.erasure.trained_weights import TrainedWeights
from rece_lightning.exports import export
from rece_lightning.runs.trained import find_former, trained_weights
from tests.helpers.baselines import SMALL, data_of, fit
from tests.helpers.command import run_command
from tests.helpers.models import make_checkpoint
from tests.helpers.models_original import make_folder, make_original


def run_of(model: Path, folder: Path, **settings: Any) -> Path:
    """A trained run; its folder."""
    given = {**SMALL, "learning_rate": 0.02, "pictures": 2, "steps": 1, **settings}
    module = ConceptAblation(str(model), **given)
    fit(module, data_of(), ErasureCheckpoint(dirpath=str(folder / "checkpoints")), default_root_dir=folder)
    return folder


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tiny_model, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(run: Path) -> TrainedWeights:
    former = find_former(str(run), run)
    assert former is not None
    return trained_weights(former)


def unlike(unet: Any, trained: TrainedWeights) -> float:
    """Largest difference from the trained weights, as a share of the largest change."""
    old = dict(trained.original())
    moved = max(float((trained.tensors[name] - old[name]).abs().max()) for name in old)
    assert moved > 1e-3
    return max(float((unet.get_parameter(name) - trained.tensors[name]).abs().max()) for name in old) / moved


def test_the_pipeline_and_the_delta_are_the_trained_model(trained: TrainedWeights, tmp_path: Path) -> None:
    record = export(trained, "pipeline", tmp_path / "pipeline")
    pipeline = DiffusionPipeline.from_pretrained(record.path)
    assert unlike(pipeline.unet, trained) == 0
    untouched = load_pipeline(trained.base).unet.state_dict()
    others = {name: weight for name, weight in pipeline.unet.state_dict().items() if name not in trained.tensors}
    assert all(torch.equal(weight, untouched[name]) for name, weight in others.items())
    card = (record.path / "README.md").read_text(encoding="utf-8")
    assert "It was trained (CA) with rece-lightning" in card
    assert "closed form" not in card
    delta = load_file(export(trained, "delta", tmp_path / "delta.safetensors").path)
    assert all(torch.equal(delta[name], tensor) for name, tensor in trained.tensors.items())


def test_the_single_file_is_the_trained_model(tmp_path: Path) -> None:
    configs = make_folder(tmp_path / "configs", "sd1")
    file = make_original(tmp_path / "model.safetensors", "sd1")
    module = ConceptAblation(str(file), config=str(configs), **{**SMALL, "pictures": 2, "steps": 1})
    fit(module, data_of(), ErasureCheckpoint(dirpath=str(tmp_path / "run" / "checkpoints")), default_root_dir=tmp_path)
    former = find_former(str(tmp_path / "run"), tmp_path)
    assert former is not None
    trained = trained_weights(former)
    record = export(trained, "single-file", tmp_path / "erased.safetensors")
    unet = StableDiffusionPipeline.from_single_file(str(record.path), config=str(configs)).unet
    old = dict(trained.original())
    assert all(torch.equal(unet.get_parameter(name), tensor.to(old[name])) for name, tensor in trained.tensors.items())


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_a_lora_is_the_trained_model_at_scale_one(trained: TrainedWeights, tmp_path: Path, format: str) -> None:
    record = export(trained, format, tmp_path / "lora.safetensors")
    pipeline = load_pipeline(trained.base)
    pipeline.load_lora_weights(str(record.path))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    assert unlike(pipeline.unet, trained) < 1e-4
    assert record.error < 1e-5
    small = export(trained, format, tmp_path / "small.safetensors", rank=2)
    assert small.rank == 2
    assert 1e-3 < small.error < 1
    with safe_open(small.path, framework="pt") as file:
        said = file.metadata()
    assert "not trained" not in str(said)
    assert "closed form" not in str(said)


def test_a_lora_of_what_is_no_matrix_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    run = run_of(tiny_model, tmp_path / "run", parameters="cross")
    former = find_former(str(run), run)
    assert former is not None
    trained = trained_weights(former)
    with pytest.raises(ConfigurationError, match=r"a LoRA holds changes of matrices.*\.bias.*keys_values"):
        export(trained, "lora", tmp_path / "lora")
    with pytest.raises(ConfigurationError, match="no map on prompt embeddings does what was trained"):
        export(trained, "map", tmp_path / "map.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_the_command_exports_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pipeline"
    outcome = run_command(capsys, "export", "--ckpt_path", run, "--format", "pipeline", "--output", output)
    assert outcome.code == 0, outcome.err
    assert (output / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    outcome = run_command(capsys, "apply", "--ckpt_path", run, "--pretrained", "emoji", "--output", tmp_path / "other")
    assert outcome.code == 2
    assert "holds no erasure" in outcome.err


def test_a_checkpoint_is_refused_on_another_base(run: Path, tmp_path: Path) -> None:
    former = find_former(str(run), run)
    assert former is not None
    with pytest.raises(BaseModelError, match="the checkpoint was made from"):
        trained_weights(former, str(make_checkpoint(tmp_path / "other", seed=4)))


def test_a_tensor_without_a_place_is_refused(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["state_dict"]["denoiser.elsewhere.weight"] = torch.zeros(2, 2)
    torch.save(content, tmp_path / "strange.ckpt")
    former = find_former(str(tmp_path / "strange.ckpt"), tmp_path)
    assert former is not None
    with pytest.raises(ConfigurationError, match=r"elsewhere\.weight \[2, 2\] has no place"):
        trained_weights(former)
