"""``rece_lightning.erase`` of pipelines with more in them that reads the text than a plain U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from diffusers.pipelines.t2i_adapter import StableDiffusionAdapterPipeline
from peft import LoraConfig
from torch import Tensor, nn

import rece_lightning
from rece_lightning import ConfigurationError
from rece_lightning.erasure.undo import digest
from rece_lightning.models.families.unet import POOLED_READER
from tests.helpers.models import make_checkpoint
from tests.helpers.models_original import make_folder

PRESERVE = [" ", "dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", seed=9)


@pytest.fixture
def pipeline(checkpoint: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)


def control_net(unet: UNet2DConditionModel, seed: int) -> ControlNetModel:
    """A trained ControlNet: every weight is its own."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_channels=3)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return net


def bits(*modules: nn.Module) -> list[str]:
    """A hash of every weight."""
    return [digest(weight) for module in modules for weight in module.parameters()]


def reading(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the keys and values of its cross-attention."""
    return {
        name: weight.detach().clone()
        for name, weight in module.named_parameters()
        if ".attn2.to_k." in name or ".attn2.to_v." in name
    }


@pytest.mark.parametrize("count", [1, 2])
def test_control_nets_are_edited_with_the_unet(pipeline: Any, count: int) -> None:
    nets = [control_net(pipeline.unet, seed) for seed in range(count)]
    controlled = StableDiffusionControlNetPipeline(
        **pipeline.components,
        controlnet=nets[0] if count == 1 else MultiControlNetModel(nets),
        requires_safety_checker=False,
    )
    before = {"": reading(pipeline.unet)} | {
        "controlnet." if count == 1 else f"controlnet.nets.{number}.": reading(net) for number, net in enumerate(nets)
    }
    assert all(before.values())
    everything = bits(pipeline.unet, *nets)
    erasure = rece_lightning.erase(controlled, ["bomb"], preserve=PRESERVE, tune="off")
    after = dict(zip(before, map(reading, [pipeline.unet, *nets]), strict=True))
    assert erasure.names == [f"{path}{name}" for path, weights in before.items() for name in sorted(weights)]
    for path, weights in before.items():
        for name, weight in weights.items():
            assert torch.equal(after[path][name], erasure.maps["text"].applied_to(weight))
    # The figures are those of what was changed.
    differences = [after[path][name] - weight for path, weights in before.items() for name, weight in weights.items()]
    originals = [weight for weights in before.values() for weight in weights.values()]
    change = (
        torch.cat([one.flatten() for one in differences]).norm() / torch.cat([w.flatten() for w in originals]).norm()
    )
    assert erasure.figures["weight_change"] == pytest.approx(float(change), rel=1e-4)
    erasure.undo()
    assert bits(pipeline.unet, *nets) == everything


def test_a_control_net_of_sdxl_reads_the_pooled_embedding_too(tmp_path: Path) -> None:
    plain = StableDiffusionXLPipeline.from_pretrained(make_folder(tmp_path / "base", "sdxl"))
    net = control_net(plain.unet, 0)
    before = net.get_parameter(POOLED_READER).detach().clone()
    controlled = StableDiffusionXLControlNetPipeline(**plain.components, controlnet=net)
    erasure = rece_lightning.erase(controlled, ["bomb"], preserve=PRESERVE, epochs=1, tune="off")
    assert {POOLED_READER, f"controlnet.{POOLED_READER}"} < set(erasure.names)
    width = plain.text_encoder_2.config.projection_dim
    after = net.get_parameter(POOLED_READER)
    torch.testing.assert_close(after[:, :width], erasure.maps["pooled"].applied_to(before[:, :width]))
    assert not torch.equal(after[:, :width], before[:, :width])
    assert torch.equal(after[:, width:], before[:, width:])


def test_undo_finds_a_control_net_that_was_exchanged(pipeline: Any) -> None:
    """Another one would keep whatever it is, and the edited one its edit: no success is reported."""
    nets = [control_net(pipeline.unet, seed) for seed in range(2)]
    controlled = StableDiffusionControlNetPipeline(
        **pipeline.components, controlnet=nets[0], requires_safety_checker=False
    )  # fmt: skip
    before = bits(*nets)
    erasure = rece_lightning.erase(controlled, ["bomb"], tune="off")
    controlled.controlnet = nets[1]
    with pytest.raises(ConfigurationError, match="another controlnet than the one that was edited"):
        erasure.undo()
    controlled.controlnet = nets[0]
    erasure.undo()
    assert bits(*nets) == before


def test_a_lora_around_a_control_nets_projections_is_edited_with_it(pipeline: Any) -> None:
    """What a layer answers to ``c`` is what it answered to ``M c``."""
    net = control_net(pipeline.unet, 0)
    net.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    controlled = StableDiffusionControlNetPipeline(
        **pipeline.components, controlnet=net, requires_safety_checker=False
    )  # fmt: skip
    layer = net.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v")
    rows = torch.randn(3, 24)
    with torch.no_grad():
        original = layer(rows)
        erasure = rece_lightning.erase(controlled, ["bomb"], epochs=1, tune="off")
        after = layer(rows)
        erasure.undo()
        moved = rows.double() @ erasure.maps["text"].of_layer(0).mT
        torch.testing.assert_close(after, layer(moved.float()), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(after, original, rtol=1e-2)
    assert any(name.startswith("controlnet.") and ".lora_A." in name for name in erasure.names)


def test_a_compiled_control_net_is_edited_inside(pipeline: Any) -> None:
    net = control_net(pipeline.unet, 0)
    before = reading(net)
    controlled = StableDiffusionControlNetPipeline(
        **pipeline.components, controlnet=net, requires_safety_checker=False
    )  # fmt: skip
    controlled.controlnet = torch.compile(net)
    rece_lightning.erase(controlled, ["bomb"], tune="off")
    assert not any(torch.equal(weight, before[name]) for name, weight in reading(net).items())


def test_custom_diffusion_is_erased(pipeline: Any) -> None:
    """Its processors answer for keys and values: their weights are edited, and counted in the figures."""
    processors = {}
    for name in pipeline.unet.attn_processors:
        attention, cross = pipeline.unet.get_submodule(name.removesuffix(".processor")), "attn2" in name
        processors[name] = CustomDiffusionAttnProcessor2_0(
            train_kv=cross, hidden_size=attention.to_q.in_features, cross_attention_dim=24 if cross else None
        )
    pipeline.unet.set_attn_processor(processors)
    original = {name: weight.detach().clone() for name, weight in pipeline.unet.named_parameters()}
    with rece_lightning.erase(pipeline, ["bomb"], preserve=PRESERVE, tune="off") as erasure:
        own = [name for name in original if "_custom_diffusion" in name and "to_q" not in name and "to_out" not in name]
        assert own
        for name in own:
            weight = pipeline.unet.get_parameter(name)
            assert torch.equal(weight, erasure.maps["text"].applied_to(original[name]))
            assert not torch.equal(weight, original[name])
        changed = [name for name, weight in pipeline.unet.named_parameters() if not torch.equal(weight, original[name])]
        assert sorted(changed) == erasure.names
    assert all(torch.equal(weight, original[name]) for name, weight in pipeline.unet.named_parameters())


def test_an_adapter_of_pictures_is_no_hindrance(pipeline: Any) -> None:
    """A T2I-Adapter reads no text."""
    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=8)
    parts = {name: part for name, part in pipeline.components.items() if name != "image_encoder"}
    adapted = StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)
    before = bits(adapter)
    erasure = rece_lightning.erase(adapted, ["bomb"], tune="off")
    assert erasure.names == sorted(reading(pipeline.unet))
    assert bits(adapter) == before


class TwoReaders(StableDiffusionPipeline):
    """Somebody's own pipeline with a part that nobody here knows."""

    def __init__(self, prior: Any, **parts: Any) -> None:
        super().__init__(**parts, requires_safety_checker=False)
        self.register_modules(prior=prior)


def test_a_part_that_may_read_the_text_is_named(pipeline: Any) -> None:
    two = TwoReaders(nn.Linear(24, 24), **pipeline.components)
    before = bits(two.unet)
    with pytest.raises(ConfigurationError, match=r"pipeline\.prior: a Linear may read the text"):
        rece_lightning.erase(two, ["bomb"], tune="off")
    assert bits(two.unet) == before
    two.prior = None
    assert rece_lightning.erase(two, ["bomb"], tune="off").names


def test_a_control_net_of_another_width_is_refused(pipeline: Any) -> None:
    config = {**pipeline.unet.config, "cross_attention_dim": 40}
    net = control_net(UNet2DConditionModel.from_config(config), 0)
    controlled = StableDiffusionControlNetPipeline(
        **pipeline.components, controlnet=net, requires_safety_checker=False
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"controlnet\..*reads embeddings 40 wide, the others 24"):
        rece_lightning.erase(controlled, ["bomb"], tune="off")
