"""A denoiser in many shards: the readers are read where they lie, by header and offset, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.exports import write_delta
from rece_lightning.models.weights import SafetensorsWeights
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import build

READERS = {"context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight"}


@pytest.fixture(params=["flux", "sd3"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """The same model, its transformer in one file and in shards."""
    pipeline = build(request.param)
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    pipeline.save_pretrained(whole)
    pipeline.save_pretrained(sharded)
    for file in (sharded / "transformer").glob("*.safetensors"):
        file.unlink()
    pipeline.transformer.save_pretrained(sharded / "transformer", max_shard_size="20KB")
    assert len(list((sharded / "transformer").glob("*.safetensors"))) > 5
    return whole, sharded


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """Tensors that are read from files, in their order: the reading itself is as it is."""
    seen: list[tuple[Path, str]] = []

    reading = SafetensorsWeights._tensor

    def noting(self: SafetensorsWeights, name: str) -> torch.Tensor:
        seen.append((self._homes[name], name))
        return reading(self, name)

    monkeypatch.setattr(SafetensorsWeights, "_tensor", noting)
    return seen


def fitted(folder: Path) -> RECE:
    module = RECE(str(folder), method=Method())
    fit_quietly(module, ConceptData(["bomb"]), epochs=2)
    return module


def test_an_erasure_reads_two_matrices_and_builds_no_transformer(
    folders: tuple[Path, Path], read: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, sharded = folders
    expected = dict(fitted(whole).erasure().weights())
    read.clear()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a transformer was built")

    for kind in ("FluxTransformer2DModel", "SD3Transformer2DModel"):
        monkeypatch.setattr(getattr(diffusers, kind), "__init__", never)
    # What is in the other shards is never looked at: their bytes may be anything.
    index = json.loads((sharded / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    homes = {index["weight_map"][name] for name in READERS}
    for file in (sharded / "transformer").glob("*.safetensors"):
        if file.name not in homes:
            _scribble(file)

    module = fitted(sharded)
    write_delta(module.erasure(), tmp_path / "delta.safetensors", {})

    of_transformer = [(file, name) for file, name in read if file.parent.name == "transformer"]
    assert {name for _, name in of_transformer} == READERS
    assert {file.name for file, _ in of_transformer} == homes
    for name, weight in load_file(tmp_path / "delta.safetensors").items():
        assert torch.equal(weight, expected[name])


def _scribble(file: Path) -> None:
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header:] = b"\xff" * (len(content) - header)  # NaN in every dtype
    file.write_bytes(content)
