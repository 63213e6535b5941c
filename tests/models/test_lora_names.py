"""The names that LoRA files give to a model's layers: the same LoRA under every spelling is the same LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rece_lightning import BaseModelError
from rece_lightning.models.adapter import open_adapter
from rece_lightning.models.find import find_base
from rece_lightning.models.original.unet import PREFIX, unet_names
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.erasures import make_xl_checkpoint
from tests.helpers.models import make_checkpoint

FAMILIES = ("sd1", "sdxl")
TEXT = "encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"sd1": make_checkpoint(folder / "sd1", seed=5), "sdxl": make_xl_checkpoint(folder / "sdxl", seed=5)}


def spelled(spelling: str, part: str, layer: str, original: dict[str, str], family: str) -> str:
    """A layer's name in a file, as its writers write it."""
    if part != "unet":
        whole = f"text_model.{layer}"
        second = part.endswith("_2")
        if spelling in ("kohya", "kohya, original blocks"):
            te = {"sd1": "te", "sdxl": "te2" if second else "te1"}[family]
            return f"lora_{te}_{whole.replace('.', '_')}"
        clip = "clip_g" if second else "clip_l"
        if spelling == "the original layout" and not second:
            prefix = {"sd1": "cond_stage_model", "sdxl": "conditioner.embedders.0"}[family]
            return f"{prefix}.transformer.{whole}"
        return f"{part}.{whole}" if spelling == "diffusers" else f"text_encoders.{clip}.transformer.{whole}"
    block = original[f"{layer}.weight"].removeprefix(PREFIX).removesuffix(".weight")
    return {
        "diffusers": f"unet.{layer}",
        "kohya": f"lora_unet_{layer.replace('.', '_')}",
        "kohya, original blocks": f"lora_unet_{block.replace('.', '_')}",
        "ComfyUI": f"diffusion_model.{block}",
        "the original layout": f"{PREFIX}{block}",
    }[spelling]


def fused(folder: Path, family: str, spelling: str, factors: str, file: Path) -> dict[str, Tensor]:
    """All weights after a LoRA of this spelling was put into a model."""
    pipeline: Any = load_pipeline(find_base(str(folder)))
    encoders = {name: getattr(pipeline, name) for name in ("text_encoder", "text_encoder_2") if hasattr(pipeline, name)}
    original = unet_names([name for name, _ in pipeline.unet.named_parameters()])
    layers = [("unet", name) for name, _ in pipeline.unet.named_modules() if name.endswith(("attn2.to_v", "conv1"))]
    layers += [
        ("unet", name) for name, _ in pipeline.unet.named_modules() if name.endswith(("ff.net.0.proj", "to_out.0"))
    ]
    layers += [(part, TEXT) for part in encoders]
    torch.manual_seed(0)
    tensors = {}
    down_name, up_name = {"kohya": ("lora_down", "lora_up"), "peft": ("lora_A", "lora_B")}[factors]
    for part, layer in layers:
        root = pipeline.unet if part == "unet" else encoders[part]
        names = {name.removeprefix("text_model."): weight for name, weight in root.named_parameters()}
        weight = names[f"{layer}.weight"]
        name = spelled(spelling, part, layer, original, family)
        tensors[f"{name}.{down_name}.weight"] = torch.randn(2, *weight.shape[1:])
        tensors[f"{name}.{up_name}.weight"] = torch.randn(len(weight), 2, *[1] * (weight.ndim - 2))
    assert len(tensors) == 2 * len(layers)
    save_file(tensors, file)
    open_adapter(file).fuse(pipeline.unet, list(encoders.values()), family)
    modules = {"unet": pipeline.unet, **encoders}
    return {f"{part}.{name}": weight for part, one in modules.items() for name, weight in one.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_lora_under_every_spelling(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    folder = folders[family]
    wanted = fused(folder, family, "diffusers", "peft", tmp_path / "lora.safetensors")
    plain = load_pipeline(find_base(str(folder))).unet.state_dict()
    assert not any(
        torch.equal(wanted[f"unet.{name}"], plain[name])
        for name in plain
        if name.endswith("to_v.weight") and "attn2" in name
    )
    for number, spelling in enumerate(("kohya", "kohya, original blocks", "ComfyUI", "the original layout")):
        factors = "peft" if spelling == "ComfyUI" else "kohya"
        found = fused(folder, family, spelling, factors, tmp_path / f"{number}.safetensors")
        assert all(torch.equal(found[name], weight) for name, weight in wanted.items()), spelling


def test_a_spelling_that_is_not_read_is_not_called_another_family(folders: dict[str, Path], tmp_path: Path) -> None:
    name = "my_own_trainer.block_7.to_v"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 24), f"{name}.lora_B.weight": torch.ones(16, 2)},
        tmp_path / "x.safetensors",
    )
    pipeline: Any = load_pipeline(find_base(str(folders["sd1"])))
    with pytest.raises(
        BaseModelError, match=r"trained on another model, or names its layers in a way that is not read"
    ) as caught:
        open_adapter(tmp_path / "x.safetensors").fuse(pipeline.unet, [pipeline.text_encoder], "sd1")
    assert name in str(caught.value)
    assert "ComfyUI" in str(caught.value)
    assert "another family" not in str(caught.value)
