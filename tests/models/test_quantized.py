"""Quantized denoisers are refused before anything heavy, with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rece_lightning
from rece_lightning import Method
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.find import find_base
from rece_lightning.models.quantized import WAY_OUT
from tests.helpers.tiny.pipelines import build

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def flux(tmp_path: Path) -> Path:
    build("flux").save_pretrained(tmp_path)
    return tmp_path


def refused(path: Path) -> str:
    with pytest.raises(BaseModelError) as error:
        find_base(str(path))
    message = str(error.value)
    assert message.startswith("model.pretrained: ")
    assert WAY_OUT in message
    return message


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "in 4 bits by bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "in 8 bits by bitsandbytes"),
        ({"quant_method": "torchao", "quant_type": "int8wo"}, "quantized by torchao"),
        ({"quant_method": "quanto", "weights_dtype": "int8"}, "quantized by quanto"),
        ("gguf", "quantized by a quantizer"),
    ],
)
@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_a_part_that_a_quantizer_wrote(flux: Path, part: str, entry: Any, says: str) -> None:
    file = flux / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": entry}))
    message = refused(flux)
    assert says in message
    assert str(file) in message


FORMS = {
    # bitsandbytes: two weights a byte, in one column; eight bits beside a row of scales.
    "U8": lambda weight: torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
    "I8": lambda weight: weight.to(torch.int8),
    "F8_E4M3": lambda weight: weight.to(torch.float8_e4m3fn),
    "F8_E5M2": lambda weight: weight.to(torch.float8_e5m2),
}


@pytest.mark.parametrize("stored", FORMS)
@pytest.mark.parametrize("reader", ["context_embedder", "time_text_embed.text_embedder.linear_1"])
def test_readers_in_few_bits(flux: Path, stored: str, reader: str) -> None:
    file = flux / "transformer" / WEIGHTS
    weights = load_file(file)
    weights[f"{reader}.weight"] = FORMS[stored](weights[f"{reader}.weight"])
    save_file(weights, file)
    message = refused(flux)
    assert f"{reader}.weight is stored as {stored} (" in message
    assert ("round an edit away" in message) == stored.startswith("F8")


def test_another_layer_in_few_bits_does_not_matter(flux: Path) -> None:
    """The readers alone are edited; what runs the rest is not asked for."""
    file = flux / "transformer" / WEIGHTS
    weights = load_file(file)
    weights["proj_out.weight"] = weights["proj_out.weight"].to(torch.float8_e4m3fn)
    save_file(weights, file)
    assert find_base(str(flux)).family == "flux"


def test_names_that_a_quantizer_splits(flux: Path) -> None:
    file = flux / "transformer" / WEIGHTS
    weights = load_file(file)
    weight = weights.pop("context_embedder.weight")
    weights |= {"context_embedder.weight._data": weight.to(torch.int8), "context_embedder.weight._scale": weight[:, :1]}
    save_file({name: one.contiguous() for name, one in weights.items()}, file)
    assert "context_embedder" in refused(flux)


def test_gguf_files_and_folders(flux: Path, tmp_path: Path) -> None:
    for name in ("flux1-dev-Q4_K_S.gguf", "flux1-dev.safetensors"):
        file = tmp_path / name
        file.write_bytes(b"GGUF\x03\x00\x00\x00")
        assert f"{file} is GGUF" in refused(file)
        file.unlink()
    (flux / "transformer" / WEIGHTS).rename(flux / "transformer" / "flux1-dev.gguf")
    assert "flux1-dev.gguf is GGUF" in refused(flux)


class EightBits(nn.Linear):
    """As quantizers' layers: the weight is unpacked when it computes."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype), self.bias)


def replaced(layer: nn.Linear) -> None:
    layer.__class__ = EightBits


def cast(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)


@pytest.mark.parametrize("change", [replaced, cast])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_pipeline_in_memory_is_left_as_it_is(name: str, change: Any) -> None:
    pipeline = build(name)
    change(pipeline.transformer.context_embedder)
    before = {key: value.clone() for key, value in pipeline.transformer.state_dict().items()}
    with pytest.raises(ConfigurationError, match="context_embedder") as error:
        rece_lightning.erase(pipeline, "a bomb", method=Method(), epochs=1)
    assert "quantized" in str(error.value)
    assert WAY_OUT in str(error.value)
    for key, value in pipeline.transformer.state_dict().items():
        assert torch.equal(value.float(), before[key].float())
