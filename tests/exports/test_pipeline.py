"""``pipeline``: ``from_pretrained`` gives the base model's tensors bit for bit, but for the edited ones."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from rece_lightning import RECE, ConfigurationError
from rece_lightning.exports import Erasure, export
from rece_lightning.exports.pipeline import loaded_files
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.exported import check_for_both, check_no_place

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def tensors_of(pipeline: Any) -> dict[str, Tensor]:
    """Every tensor of every part."""
    parts = [(part, getattr(pipeline, part, None)) for part in PARTS]
    return {f"{part}.{key}": value for part, module in parts if module for key, value in module.state_dict().items()}


def check(erasure: Erasure, folder: Path, dtype: torch.dtype, base: Path | None = None) -> None:
    """All tensors are the base's, the edited ones are the edited ones."""
    variant = erasure.base.variant
    made = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, variant=variant, local_files_only=True)
    unedited = DiffusionPipeline.from_pretrained(base or erasure.base.path, torch_dtype=dtype, variant=variant)
    edited = {f"unet.{name}": weight for name, weight in erasure.weights()}
    wanted = {**tensors_of(unedited), **edited}
    found = tensors_of(made)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor), name
    assert not any(torch.equal(edited[name], tensors_of(unedited)[name]) for name in edited)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("tiny", torch.float32),
        ("half", torch.float16),
        ("xl", torch.float32),
        ("per_layer", torch.float32),
        ("values_only", torch.float32),
        ("world", torch.float16),
    ],
)
def test_from_pretrained_gives_the_same_tensors(
    name: str, dtype: torch.dtype, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    record = export(erasure, "pipeline", tmp_path / "model")
    check(erasure, record.path, dtype)
    assert record.bytes == sum(file.stat().st_size for file in record.path.rglob("*") if file.is_file())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_equals_the_modules_own_pipeline(tiny_module: RECE, tiny: Erasure, tmp_path: Path) -> None:
    made = DiffusionPipeline.from_pretrained(export(tiny, "pipeline", tmp_path / "model").path)
    ours = tensors_of(tiny_module.pipeline())
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors_of(made).items())


def test_can_be_erased_from_again(tiny: Erasure, tmp_path: Path) -> None:
    found = find_base(str(export(tiny, "pipeline", tmp_path / "model").path))
    again = dict(found.read_projections())
    assert all(torch.equal(again[name], weight) for name, weight in tiny.weights())


def rewritten(erasure: Erasure, folder: Path, *, safe: bool, shard: str) -> Erasure:
    """The same erasure on the same model, saved another way."""
    pipeline = DiffusionPipeline.from_pretrained(erasure.base.path)
    pipeline.save_pretrained(folder, safe_serialization=safe)
    shutil.rmtree(folder / "unet")
    pipeline.unet.save_pretrained(folder / "unet", safe_serialization=safe, max_shard_size=shard)
    return replace(erasure, source=find_base(str(folder)))


@pytest.mark.parametrize(("safe", "shard"), [(False, "10GB"), (True, "60KB"), (False, "60KB")])
def test_pickled_and_sharded_models_work(tiny: Erasure, tmp_path: Path, safe: bool, shard: str) -> None:
    erasure = rewritten(tiny, tmp_path / "base", safe=safe, shard=shard)
    shards = list((tmp_path / "base" / "unet").glob("*-of-*"))
    assert bool(shards) == (shard == "60KB")
    folder = export(erasure, "pipeline", tmp_path / "model").path
    # Diffusers itself cannot read shards in PyTorch's format: the same model in one file is the measure.
    check(erasure, folder, torch.float32, tiny.base.path)
    assert not list((folder / "unet").glob("*.bin*"))


def test_a_checkpoint_file_becomes_a_folder(original_file: Erasure, tmp_path: Path) -> None:
    """In the file's own dtype, which need not be what its configuration says."""
    folder = export(original_file, "pipeline", tmp_path / "model").path
    made = tensors_of(DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, local_files_only=True))
    unedited = tensors_of(load_pipeline(original_file.base, dtype=torch.float16))
    edited = {f"unet.{name}": weight for name, weight in original_file.weights()}
    wanted = {**unedited, **edited}
    assert set(made) == set(wanted)
    assert all(torch.equal(made[name], tensor) for name, tensor in wanted.items())
    assert not any(torch.equal(edited[name], unedited[name]) for name in edited)
    check_for_both(original_file, folder)
    check_no_place(folder, original_file.base.path, original_file.base.configurations)
    [file] = (folder / "unet").glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        assert stored.get_tensor(original_file.names[0]).dtype == torch.float16
        assert json.loads(stored.metadata()["rece.fingerprint"]) == original_file.base.fingerprint()


def test_the_model_before_the_edit_stays_behind(tiny: Erasure, tmp_path: Path) -> None:
    """Other variants, other formats and whole checkpoints beside the parts are not copied."""
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    for name in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "whole.ckpt"):
        (base / name).write_bytes(b"the model before the edit")
    (base / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    erasure = replace(tiny, source=find_base(str(base)))
    folder = export(erasure, "pipeline", tmp_path / "model").path
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    plain = {str(file.relative_to(tiny.base.path)) for file in tiny.base.path.rglob("*") if file.is_file()}
    assert names == plain | {"README.md", "tokenizer/vocab.json", "tokenizer/merges.txt"}


def test_a_part_that_was_not_fetched_is_left_out(tiny: Erasure, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (base / "model_index.json").write_text(json.dumps(index))
    erasure = replace(tiny, source=find_base(str(base)))
    check(erasure, export(erasure, "pipeline", tmp_path / "model").path, torch.float32, tiny.base.path)


def test_links_of_a_cache_become_files(tiny: Erasure, tmp_path: Path) -> None:
    cache = tmp_path / "models--somebody--tiny"
    base = cache / "snapshots" / "0a1b2c"
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(tiny.base.path.rglob("*")):
        if file.is_file():
            link, blob = base / file.relative_to(tiny.base.path), cache / "blobs" / str(number)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, blob)
            link.symlink_to(Path(os.path.relpath(blob, link.parent)))
    erasure = replace(tiny, source=find_base(str(base)))
    before = {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()}
    folder = export(erasure, "pipeline", tmp_path / "model").path
    assert not any(file.is_symlink() for file in folder.rglob("*"))
    assert all(file.read_bytes() == content for file, content in before.items())
    check(erasure, folder, torch.float32)


def test_the_unets_file_says_what_was_erased(half: Erasure, tmp_path: Path) -> None:
    folder = export(half, "pipeline", tmp_path / "model").path
    with safe_open(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", framework="pt") as file:
        said = file.metadata()
    assert said["format"] == "pt"
    assert json.loads(said["rece.concepts"])["erased"][0]["prompt"] == "bomb"
    assert json.loads(said["rece.fingerprint"]) == half.base.fingerprint()


def test_a_failure_leaves_nothing_behind(tiny: Erasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rece_lightning.exports.pipeline.replace_tensors", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(tiny, "pipeline", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_an_export_is_replaced_when_asked_and_survives_a_failure(
    tiny: Erasure, half: Erasure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(half, "pipeline", tmp_path / "model").path
    with pytest.raises(ConfigurationError, match=r"exists; choose another place, or give --overwrite"):
        export(tiny, "pipeline", folder)
    with monkeypatch.context() as context:
        context.setattr("rece_lightning.exports.pipeline.replace_tensors", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(tiny, "pipeline", folder, overwrite=True)
    check(half, folder, torch.float16)
    export(tiny, "pipeline", folder, overwrite=True)
    check(tiny, folder, torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_export_is_never_replaced(tiny: Erasure, tmp_path: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.tex").write_text("years of work")
    for kind in ("pipeline", "lora"):
        with pytest.raises(ConfigurationError, match="holds something other than an export"):
            export(tiny, kind, mine, overwrite=True)
    assert (mine / "chapter.tex").read_text() == "years of work"


def test_the_base_model_is_never_replaced(tiny: Erasure, tmp_path: Path) -> None:
    """Not even where it is an export itself."""
    base = export(tiny, "pipeline", tmp_path / "base").path
    erasure = replace(tiny, source=find_base(str(base)))
    with pytest.raises(ConfigurationError, match="is the base model itself"):
        export(erasure, "pipeline", base, overwrite=True)
    assert (base / "model_index.json").is_file()


def test_one_format_and_one_variant_of_a_part_are_loaded() -> None:
    files = [
        Path(name)
        for name in (
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "model.fp16.safetensors",
            "pytorch_model.bin",
            "model.onnx",
        )
    ]
    assert loaded_files(files, None) == files[:3]
    assert loaded_files(files, "fp16") == [files[3]]
    assert loaded_files(files, "ema") == files[:3]
    assert loaded_files(files[4:], "fp16") == [files[4]]
