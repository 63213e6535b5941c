"""FLUX.1 and Stable Diffusion 3 as ComfyUI keeps them: the transformer alone in a file, its encoders in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.cli.inspect import description, size
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.exports import export
from rece_lightning.exports.map import EmbeddingMap
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import check_draws
from rece_lightning.models.transformer_file import MARKS
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.pipelines import build

PREFIX = "model.diffusion_model."
ORIGINAL = {
    # As ComfyUI's and diffusers' conversions have them.
    "flux": {"context_embedder": "txt_in", "time_text_embed.text_embedder.linear_1": "vector_in.in_layer"},
    "sd3": {"context_embedder": "context_embedder", "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0"},
}


def original(family: str, transformer: Path, prefix: str = "") -> dict[str, Tensor]:
    """The readers under their makers' names; of the blocks one is enough, they are only carried along."""
    stored = load_file(transformer / "diffusion_pytorch_model.safetensors")
    found = {MARKS[family]: torch.randn(48, 16).bfloat16(), "final_layer.linear.bias": torch.randn(7)}
    for own, other in ORIGINAL[family].items():
        found |= {f"{other}.{kind}": stored[f"{own}.{kind}"] for kind in ("weight", "bias")}
    return {prefix + name: tensor for name, tensor in found.items()}


@pytest.fixture(params=[("flux", ""), ("flux", PREFIX), ("sd3", ""), ("sd3", PREFIX)], ids=str)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """Family, diffusers folder, and the file that holds the same transformer."""
    family, prefix = request.param
    folder, file = tmp_path / "folder", tmp_path / "transformer.safetensors"
    build(family).save_pretrained(folder)
    tensors = original(family, folder / "transformer", prefix)
    if prefix:  # a whole checkpoint holds more, which nothing reads
        tensors["first_stage_model.decoder.conv_in.weight"] = torch.randn(3, 3)
    save_file(tensors, file, {"modelspec.title": "mine"})
    return family, folder, file


def fitted(pretrained: Path, text_encoders: Path | None = None) -> RECE:
    module = RECE(str(pretrained), method=Method(), text_encoders=None if text_encoders is None else str(text_encoders))
    fit_quietly(module, ConceptData([{"prompt": "bomb", "target": "a spoon"}]), epochs=2)
    return module


def test_a_file_is_erased_as_the_folder_is_and_written_in_its_own_layout(
    model: tuple[str, Path, Path], tmp_path: Path
) -> None:
    family, folder, file = model
    of_folder, of_file = fitted(folder), fitted(file, folder)
    expected = dict(of_folder.erasure().weights())
    found = dict(of_file.erasure().weights())
    assert found.keys() == expected.keys() == {f"{name}.weight" for name in ORIGINAL[family]}
    for name, weight in found.items():
        assert torch.equal(weight, expected[name])
    assert of_file.session.loaded.fingerprint == of_folder.session.loaded.fingerprint

    export(of_file.erasure(), "single-file", tmp_path / "edited.safetensors")
    before, after = load_file(file), load_file(tmp_path / "edited.safetensors")
    assert list(after) == list(before)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in before) else ""
    edited = {f"{prefix}{other}.weight": expected[f"{own}.weight"] for own, other in ORIGINAL[family].items()}
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, edited.get(name, before[name]))
        assert (name in edited) == (not torch.equal(tensor, before[name]))
    with safe_open(tmp_path / "edited.safetensors", framework="pt") as stored:
        assert "rece.fingerprint" in stored.metadata()
    # What was written opens again, and is another model.
    assert find_base(str(tmp_path / "edited.safetensors"), config=str(folder)).fingerprint() != (
        of_file.session.loaded.fingerprint
    )


def test_loras_delta_and_map_of_it_fit_the_model(model: tuple[str, Path, Path], tmp_path: Path) -> None:
    family, folder, file = model
    module = fitted(file, folder)
    erasure, weights = module.erasure(), dict(module.erasure().weights())
    export(erasure, "delta", tmp_path / "delta.safetensors")
    for name, weight in load_file(tmp_path / "delta.safetensors").items():
        assert torch.equal(weight, weights[name])
    export(erasure, "kohya", tmp_path / "kohya.safetensors")
    layers = {name.split(".")[0] for name in load_file(tmp_path / "kohya.safetensors")}
    assert layers == {f"lora_unet_{other.replace('.', '_')}" for other in ORIGINAL[family].values()}
    export(erasure, "lora", tmp_path / "lora.safetensors")
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for name, weight in weights.items():
        torch.testing.assert_close(pipeline.transformer.get_parameter(name), weight, rtol=1e-4, atol=1e-5)
    export(erasure, "map", tmp_path / "map.safetensors")
    assert set(EmbeddingMap.load(tmp_path / "map.safetensors").further) == {"pooled"}


def test_a_checkpoint_of_it_opens_again(model: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, folder, file = model
    module = fitted(file, folder)
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = RECE.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    for (name, weight), (_, other) in zip(again.erasure().weights(), module.erasure().weights(), strict=True):
        assert torch.equal(weight, other), name


def test_what_is_said_of_it(model: tuple[str, Path, Path]) -> None:
    family, folder, file = model
    base = find_base(str(file), config=str(folder))
    said = "\n".join(description(base))
    assert "space text" in said
    assert "space pooled" in said
    prefix = next((PREFIX for name in load_file(file) if name.startswith(PREFIX)), "")
    own = [tensor for name, tensor in load_file(file).items() if name.startswith(prefix)]
    assert f"of the denoiser's {size(sum(tensor.nbytes for tensor in own))}," in said
    assert f"{sum(tensor.numel() for tensor in own):,} parameters, stored as bfloat16, float32" in said
    assert (base.family, base.layout, base.encoders[0]) == (family, "single_file", "text_encoder")


def test_mistakes_are_one_sentence(model: tuple[str, Path, Path], tmp_path: Path) -> None:
    family, folder, file = model
    other = tmp_path / "other"
    build("chroma").save_pretrained(other)
    for config, says in ((None, "give model.text_encoders FOLDER"), (tmp_path, "no folder with a model_index.json"),
                         (other, "Chroma")):  # fmt: skip
        with pytest.raises(BaseModelError, match=r"text_encoders") as refused:
            find_base(str(file), config=None if config is None else str(config))
        assert says in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"model.text_encoders.*beside model.config"):
        RECE(str(file), config="sd1", text_encoders=str(folder))
    base = find_base(str(file), config=str(folder))
    with pytest.raises(ConfigurationError, match="transformer's file alone"):
        check_draws(base)
    module = fitted(file, folder)
    with pytest.raises(
        ConfigurationError, match=r"whole diffusers folder.*export delta, single-file, lora, kohya or map\."
    ):
        export(module.erasure(), "pipeline", tmp_path / "out")

    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith(f"{ORIGINAL[family]['context_embedder']}.weight"))
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, file)
    with pytest.raises(BaseModelError, match=r"stored as F8_E4M3 .*its LoRA or its map"):
        find_base(str(file), config=str(folder))


def test_a_folder_of_text_encoders_that_lost_one(tmp_path: Path) -> None:
    folder, file = tmp_path / "sd3", tmp_path / "sd3.safetensors"
    build("sd3").save_pretrained(folder)
    save_file(original("sd3", folder / "transformer"), file)
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    with pytest.warns(UserWarning, match=r"lacks text_encoder_3/ \(T5\)"):
        find_base(str(file), config=str(folder))
