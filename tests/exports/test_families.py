"""Exports of families of transformers, each read back by who reads it: diffusers, or under the names of other tools."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.exports import export
from rece_lightning.exports.map import EmbeddingMap
from rece_lightning.models.denoisers import denoisers_of, together
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import build

NEAR = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@cache
def erased(folder: Path, name: str, *spaces: str) -> RECE:
    path = folder / name
    if not path.is_dir():
        build(name).save_pretrained(path)
    module = RECE(str(path), method=Method(spaces=spaces or None))
    data = ConceptData(["bomb", {"prompt": "axe", "target": "a spoon"}], preserve=[" ", "rocket"])
    fit_quietly(module, data, epochs=2)
    return module


def opened(path: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(path)


def parameters(pipeline: Any) -> dict[str, Tensor]:
    return dict(together(denoisers_of(pipeline)).named_parameters())


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "z_image"])
def test_a_pipeline_holds_the_edited_weights_and_the_others_as_they_were(
    folder: Path, tmp_path: Path, name: str
) -> None:
    module = erased(folder, name)

    export(module.erasure(), "pipeline", tmp_path / "edited")

    edited, original = parameters(opened(tmp_path / "edited")), parameters(opened(folder / name))
    wanted = dict(module.erasure().weights())
    for key, value in edited.items():
        assert torch.equal(value, wanted.get(key, original[key])), key


# Every family that diffusers has a loader for; of two denoisers see below.
@pytest.mark.parametrize(
    "name",
    ["sd3", "flux", "flux2_klein", "chroma", "qwen_image", "z_image", "lumina2", "auraflow", "cogview4", "hidream",
     "sana", "ltx", "cogvideox", "hunyuan_video"],
)  # fmt: skip
def test_diffusers_loads_the_lora(folder: Path, tmp_path: Path, name: str) -> None:
    module = erased(folder, name)

    export(module.erasure(), "lora", tmp_path / "lora")

    pipeline = opened(folder / name)
    pipeline.load_lora_weights(tmp_path / "lora")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    loaded = parameters(pipeline)
    for key, weight in module.erasure().weights():
        assert float((loaded[key] - weight).norm() / weight.norm()) < NEAR, key


def test_a_lora_of_two_denoisers_is_refused(folder: Path, tmp_path: Path) -> None:
    """Diffusers would load the half of it that is the first one's, and say nothing of the other."""
    with pytest.raises(ConfigurationError, match=r"lora: .*transformer, transformer_2.*one denoiser at a time"):
        export(erased(folder, "wan").erasure(), "lora", tmp_path / "lora")
    assert not list(tmp_path.iterdir())


def test_the_delta_and_the_map_are_the_same_erasure(folder: Path, tmp_path: Path) -> None:
    module = erased(folder, "flux")
    export(module.erasure(), "delta", tmp_path / "delta.safetensors")
    export(module.erasure(), "map", tmp_path / "map.safetensors")

    delta = safetensors.torch.load_file(tmp_path / "delta.safetensors")
    mapped, original = EmbeddingMap.load(tmp_path / "map.safetensors"), parameters(opened(folder / "flux"))
    rows, pooled = torch.randn(3, 24), torch.randn(3, 16)
    text, one_row = "context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight"
    assert set(delta) == {text, one_row}
    torch.testing.assert_close(rows @ delta[text].T, mapped(rows) @ original[text].T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        pooled @ delta[one_row].T, mapped.pooled(pooled) @ original[one_row].T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("flux", {"lora_unet_txt_in", "lora_unet_vector_in_in_layer"}),
        ("sd3", {"lora_unet_context_embedder", "lora_unet_y_embedder_mlp_0"}),
    ],
)
def test_other_tools_find_the_layers_under_the_original_names(
    folder: Path, tmp_path: Path, name: str, layers: set[str]
) -> None:
    export(erased(folder, name).erasure(), "kohya", tmp_path / "kohya.safetensors")

    keys = safetensors.torch.load_file(tmp_path / "kohya.safetensors")
    assert {key.split(".")[0] for key in keys} == layers


@pytest.mark.parametrize("format", ["kohya", "single-file"])
def test_a_format_that_no_tool_has_for_a_family_is_refused(folder: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not written for Z-Image; export delta, pipeline or lora\."):
        export(erased(folder, "z_image").erasure(), format, tmp_path / "file.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_map_of_what_lies_behind_a_projector_is_refused_and_of_the_entry_written(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"behind caption_projection.*spaces: \[entry\]"):
        export(erased(folder, "pixart_sigma").erasure(), "map", tmp_path / "map.safetensors")

    export(erased(folder, "pixart_sigma", "entry").erasure(), "map", tmp_path / "map.safetensors")
    assert EmbeddingMap.load(tmp_path / "map.safetensors").matrix.shape == (24, 24)
