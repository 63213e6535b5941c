"""``map``: mapped embeddings on the original model give what the edited model gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rece_lightning
from rece_lightning import RECE, ConfigurationError, EmbeddingMap
from rece_lightning.exports import Erasure, export
from tests.helpers.erasures import edited_exactly, noise_of, original_of, pipeline_of


@pytest.mark.parametrize("name", ["tiny", "xl", "world"])
def test_keys_and_values_equal_the_edited_models(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    record = export(erasure, "map", tmp_path / "map.safetensors")
    mapped = rece_lightning.EmbeddingMap.load(record.path)
    original, edited = original_of(erasure), edited_exactly(erasure)
    for one in erasure.spaces:
        embeddings = torch.randn(3, 16, one.space.width, generator=torch.Generator().manual_seed(0))
        answers = (mapped if one.space.name == "text" else mapped.pooled)(embeddings).double()
        for key, reader in one.space.readers.items():
            before, after = reader.part(original[key]), reader.part(edited[key])
            exact = embeddings.double() @ after.mT
            assert (answers @ before.mT - exact).norm() < 1e-5 * exact.norm(), key
            assert (embeddings.double() @ before.mT - exact).norm() > 1e-3 * exact.norm()


def test_the_whole_unet_predicts_the_same(tiny_module: RECE, tiny: Erasure, tmp_path: Path) -> None:
    mapped = EmbeddingMap.load(export(tiny, "map", tmp_path / "map.safetensors").path)
    unet = pipeline_of(tiny).unet
    embeddings: list[torch.Tensor] = []

    def read_mapped(module: object, args: tuple, kwargs: dict) -> tuple:  # type: ignore[type-arg]
        sample, step, states = args
        embeddings.append(states)
        return (sample, step, mapped(states)), kwargs

    before = noise_of(unet)
    unet.register_forward_pre_hook(read_mapped, with_kwargs=True)
    after, wanted = noise_of(unet), noise_of(tiny_module.pipeline().unet)
    torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_and_shape_stay(tiny: Erasure, tmp_path: Path, dtype: torch.dtype) -> None:
    mapped = EmbeddingMap.load(export(tiny, "map", tmp_path / "map.safetensors").path)
    made = mapped(torch.ones(2, 5, tiny.text.space.width, dtype=dtype))
    assert made.shape == (2, 5, tiny.text.space.width)
    assert made.dtype == dtype


def test_is_refused_where_some_projections_were_not_edited(values_only: Erasure, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--format map: 4 of 8 .*attn2\.to_k\.weight"):
        export(values_only, "map", tmp_path / "map.safetensors")
    assert not list(tmp_path.iterdir())


def test_is_refused_for_tensor(per_layer: Erasure, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--format map: the editor keeps one map a layer"):
        export(per_layer, "map", tmp_path / "map.safetensors")
    assert not list(tmp_path.iterdir())


def test_embeddings_of_another_model_are_refused(tiny: Erasure, tmp_path: Path) -> None:
    mapped = EmbeddingMap.load(export(tiny, "map", tmp_path / "map.safetensors").path)
    with pytest.raises(ConfigurationError, match="7 wide, the map 24"):
        mapped(torch.ones(1, 7))


def test_files_that_hold_no_map_are_refused(tiny: Erasure, tmp_path: Path) -> None:
    delta = export(tiny, "delta", tmp_path / "delta.safetensors").path
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(delta.read_bytes()[:100])
    nan = tmp_path / "nan.safetensors"
    save_file({"map": torch.full((2, 2), torch.nan)}, nan)
    for path, says in ((delta, "holds no map"), (damaged, "no whole"), (tmp_path / "gone", "no whole"), (nan, "NaN")):
        with pytest.raises(ConfigurationError, match=says):
            EmbeddingMap.load(path)
