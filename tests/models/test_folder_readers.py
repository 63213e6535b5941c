"""What reads the text in a model's folder: found with the configuration's help, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.find import find_base
from rece_lightning.models.live_unet import LiveUnet
from tests.helpers.models import make_checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", width=16)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return copytree(folder, tmp_path / "model")


def changed(file: Path, **entries: Any) -> None:
    """Put entries into a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def with_unet(model: Path, **settings: Any) -> UNet2DConditionModel:
    """Give a folder another U-Net of the same widths."""
    config = {**UNet2DConditionModel.load_config(model, subfolder="unet"), **settings}
    unet = UNet2DConditionModel.from_config(config)
    unet.save_pretrained(model / "unet")
    return unet


@pytest.mark.parametrize(
    ("settings", "example"),
    [
        # As wide as its text: no shape tells these attentions from those to the picture.
        ({"only_cross_attention": [True, False]}, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"),
        ({"attention_type": "gated"}, "position_net.linears.0.weight"),
    ],
)
def test_a_folder_has_the_readers_of_its_model(copy: Path, settings: dict[str, Any], example: str) -> None:
    unet = with_unet(copy, **settings)
    base = find_base(str(copy))
    assert base.spaces == LiveUnet(unet, "here").spaces
    assert example in base.projections
    space = base.spaces[0]
    assert {name: weight.shape[1] for name, weight in base.read_space(space)} == dict.fromkeys(space.readers, 16)
    loaded = DiffusionPipeline.from_pretrained(copy, safety_checker=None)
    assert all(torch.equal(loaded.unet.get_parameter(name), weight) for name, weight in base.read_projections())


def held_processor(model: Path) -> None:
    file = model / "unet" / WEIGHTS
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight"
    save_file({**load_file(file), name: torch.zeros(16, 16)}, file)


def beside(name: str, kind: str) -> Callable[[Path], None]:
    return lambda model: changed(model / "model_index.json", **{name: ["diffusers", kind]})


def config(**entries: Any) -> Callable[[Path], None]:
    return lambda model: changed(model / "unet" / "config.json", **entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(encoder_hid_dim=48, encoder_hid_dim_type="text_proj"), r"encoder_hid_proj.*'text_proj'"),
        (config(addition_embed_type="text"), r"add_embedding.*'text'"),
        (config(addition_embed_type="text_time"), "pooled embedding"),
        (config(down_block_types=["KCrossAttnDownBlock2D", "DownBlock2D"]), "KCrossAttnDownBlock2D"),
        (held_processor, "processor.to_k_custom_diffusion"),
        (beside("prior", "PriorTransformer"), r"its prior \(PriorTransformer\) may read the text"),
        (beside("controlnet", "ControlNetModel"), r"its controlnet \(ControlNetModel\).*rece_lightning\.erase"),
    ],
)
def test_what_cannot_be_edited_is_named(copy: Path, change: Callable[[Path], None], message: str) -> None:
    change(copy)
    with pytest.raises(BaseModelError, match=message):
        find_base(str(copy))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("image_encoder", "CLIPVisionModelWithProjection"), ("other", "DDIMScheduler"), ("adapter", "T2IAdapter")],
)
def test_parts_that_read_none_are_no_hindrance(copy: Path, name: str, kind: str) -> None:
    beside(name, kind)(copy)
    (copy / name).mkdir()
    assert find_base(str(copy)).spaces


def test_a_saved_control_net_pipeline_is_refused_whole(copy: Path) -> None:
    """As diffusers itself writes it."""
    pipeline = DiffusionPipeline.from_pretrained(copy, safety_checker=None)
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_channels=3)
    from diffusers import StableDiffusionControlNetPipeline

    controlled = StableDiffusionControlNetPipeline(
        **pipeline.components, controlnet=net, requires_safety_checker=False
    )  # fmt: skip
    controlled.save_pretrained(copy.parent / "controlled")
    with pytest.raises(BaseModelError, match="its controlnet"):
        find_base(str(copy.parent / "controlled"))


def test_a_folder_of_another_family_with_a_unet_is_named(copy: Path) -> None:
    """DeepFloyd's IF and its like: a U-Net, T5, and no autoencoder."""
    index = json.loads((copy / "model_index.json").read_text())
    index["_class_name"] = "IFPipeline"
    del index["vae"]
    (copy / "model_index.json").write_text(json.dumps(index))

    with pytest.raises(BaseModelError, match=r"is a IFPipeline, whose family is not known; give a model of Stable"):
        find_base(str(copy))
