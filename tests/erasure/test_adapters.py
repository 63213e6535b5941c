"""An erasure that a LoRA carries: saved alone it erases on the original model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor

import rece_lightning
from rece_lightning import ConfigurationError, Method
from rece_lightning.core.editors import TensorUCE
from rece_lightning.erasure.adapters import CarriedErasure, carry
from tests.helpers.erasures import distance, make_xl_checkpoint, noise_of
from tests.helpers.loras import computed, fill
from tests.helpers.models import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", width=48, seed=9)


def load(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def erased_and_carried(
    pipeline: Any, method: Method | None = None, **options: Any
) -> tuple[dict[str, Tensor], CarriedErasure, dict[str, Tensor]]:
    """What the readers computed with the erasure in their weights, what was moved, and the weights before."""
    original = {name.replace(".base_layer", ""): w.clone() for name, w in pipeline.unet.state_dict().items()}
    original = {name.removeprefix("base_model.model."): weight for name, weight in original.items()}
    rece_lightning.erase(pipeline, ["bomb"], preserve=[" ", "dog"], epochs=2, method=method or Method())
    wanted = computed(pipeline.unet)
    return wanted, carry(pipeline.unet, original, **options), original


SETTINGS: dict[str, dict[str, Any]] = {
    "alpha is r": {"r": 2, "lora_alpha": 2},
    "alpha over r": {"r": 2, "lora_alpha": 5},
    "rslora": {"r": 4, "lora_alpha": 5, "use_rslora": True},
    "ranks of their own": {"r": 2, "rank_pattern": {"to_k": 3}, "alpha_pattern": {"attn2.to_k": 7}},
    "values alone": {"r": 2, "lora_alpha": 2, "target_modules": ["to_v", "to_q"]},
    "a regular expression": {"r": 2, "lora_alpha": 2, "target_modules": r".*up_blocks.*attn2\.to_v"},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_lora_saved_by_diffusers_erases_on_the_original_model(checkpoint: Path, tmp_path: Path, setting: str) -> None:
    pipeline = load(checkpoint)
    pipeline.unet.add_adapter(LoraConfig(**{"target_modules": ["to_k", "to_v"], **SETTINGS[setting]}))
    fill(pipeline.unet)
    wanted, added, original = erased_and_carried(pipeline)
    assert added.error < 1e-5
    assert distance(computed(pipeline.unet), wanted) < 1e-6
    for name, weight in pipeline.unet.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, original[name.replace(".base_layer", "")]), name
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "with metadata", layers, **_collate_lora_metadata({"unet": pipeline.unet})
    )
    StableDiffusionPipeline.save_lora_weights(tmp_path / "bare", layers)
    for folder in ("with metadata", "bare"):
        fresh = load(checkpoint)
        fresh.load_lora_weights(tmp_path / folder)
        # Without its settings a file says nothing of alpha: what other layers are then scaled by is not ours.
        assert distance(computed(fresh.unet), wanted) < 1e-5, folder
    # And fused it is the erased model.
    fresh.fuse_lora(components=["unet"])
    fresh.unload_lora_weights()
    assert distance(computed(fresh.unet), wanted) < 1e-5


def test_a_lora_saved_by_peft_erases_on_the_original_model(checkpoint: Path, tmp_path: Path) -> None:
    pipeline = load(checkpoint)
    pipeline.unet = get_peft_model(pipeline.unet, LoraConfig(r=2, lora_alpha=3, target_modules=["to_v"]))
    fill(pipeline.unet)
    wanted, _, _ = erased_and_carried(pipeline)
    pipeline.unet.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(checkpoint).unet, tmp_path)
    assert distance(computed(again), wanted) < 1e-5
    assert torch.equal(noise_of(again), noise_of(pipeline.unet))


def test_of_several_loras_the_trained_one_carries(checkpoint: Path, tmp_path: Path) -> None:
    pipeline = load(checkpoint)
    for name, targets in (("one", ["to_k", "to_v"]), ("two", ["to_v"])):
        pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets), adapter_name=name)
    fill(pipeline.unet)
    pipeline.unet.set_adapters(["one", "two"], [0.5, 2.0])
    for name, weight in pipeline.unet.named_parameters():
        weight.requires_grad_(".two." in name)
    wanted, _, _ = erased_and_carried(pipeline)
    assert distance(computed(pipeline.unet), wanted) < 1e-6
    ranks = {layer.r["one"] for layer in pipeline.unet.modules() if hasattr(layer, "lora_A") and "one" in layer.r}
    assert ranks == {2}
    fresh = load(checkpoint)
    for name in ("one", "two"):
        pipeline.unet.save_lora_adapter(tmp_path / name, adapter_name=name)
        fresh.unet.load_lora_adapter(tmp_path / name, prefix=None, adapter_name=name, use_safetensors=True)
    fresh.unet.set_adapters(["one", "two"], [0.5, 2.0])
    assert distance(computed(fresh.unet), wanted) < 1e-5


@pytest.mark.parametrize("around", [True, False])
def test_the_pooled_reader_of_sdxl_is_carried_where_a_lora_lies_around_it(tmp_path: Path, around: bool) -> None:
    folder = make_xl_checkpoint(tmp_path / "xl", seed=13)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    reader = "add_embedding.linear_1"
    targets = ["to_k", "to_v", *([reader] if around else [])]
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets))
    fill(pipeline.unet)
    wanted, added, original = erased_and_carried(pipeline)
    assert added.left == (() if around else (f"{reader}.weight",))
    before = noise_of(pipeline.unet)
    layers = get_peft_model_state_dict(pipeline.unet)
    # What diffusers' conversion names is found again only where it has a name for every layer.
    layers = layers if around else convert_state_dict_to_diffusers(layers)
    StableDiffusionXLPipeline.save_lora_weights(tmp_path / "lora", layers)
    fresh = StableDiffusionXLPipeline.from_pretrained(folder)
    fresh.load_lora_weights(tmp_path / "lora")
    assert distance(computed(fresh.unet), wanted) < 1e-5
    if not around:
        assert not torch.equal(
            fresh.unet.get_parameter(f"{reader}.weight"), pipeline.unet.get_parameter(f"{reader}.weight")
        )
        fresh.unet.get_submodule(reader).load_state_dict(pipeline.unet.get_submodule(reader).state_dict())
    torch.testing.assert_close(noise_of(fresh.unet), before, rtol=1e-4, atol=1e-5)
    assert original


def test_one_map_a_layer_is_carried(checkpoint: Path) -> None:
    pipeline = load(checkpoint)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    fill(pipeline.unet)
    wanted, added, _ = erased_and_carried(pipeline, Method(editor=TensorUCE()))
    assert distance(computed(pipeline.unet), wanted) < 1e-6
    assert added.error < 1e-5


def test_a_smaller_rank_says_truly_what_it_lacks(checkpoint: Path) -> None:
    errors = []
    for rank in (1, 3, None):
        pipeline = load(checkpoint)
        pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))  # fresh: it adds nothing
        before = computed(pipeline.unet)
        wanted, added, _ = erased_and_carried(pipeline, rank=rank)
        found = computed(pipeline.unet)
        change = {name: weight - before[name] for name, weight in wanted.items()}
        lacks = distance({name: weight - before[name] for name, weight in found.items()}, change)
        assert added.error == pytest.approx(lacks, rel=1e-3, abs=1e-5)
        assert rank is None or added.rank == rank
        errors.append(added.error)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-1]


def test_half_precision_bases_are_carried_to_their_rounding(checkpoint: Path) -> None:
    pipeline = load(checkpoint)
    pipeline.unet.to(torch.bfloat16).add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))
    for name, weight in pipeline.unet.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()  # as trainings with mixed precision keep them
    _, added, original = erased_and_carried(pipeline)
    rounding = torch.finfo(torch.bfloat16).eps
    layers = {
        name: layer for name, layer in pipeline.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    }
    reference = load(checkpoint)
    reference.unet.to(torch.bfloat16)
    rece_lightning.erase(reference, ["bomb"], preserve=[" ", "dog"], epochs=2, tune="off")
    exact = {name: reference.unet.get_parameter(f"{name}.weight") for name in layers}
    made = {
        name: original[f"{name}.weight"].double()
        + layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
        for name, layer in layers.items()
    }
    assert distance(made, exact) < 2 * rounding
    assert added.rank < 48


@pytest.mark.parametrize("state", ["none", "off", "merged", "incomplete"])
def test_what_cannot_carry_is_refused_and_nothing_is_changed(checkpoint: Path, state: str) -> None:
    pipeline = load(checkpoint)
    original = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    if state != "none":
        pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    if state == "off":
        pipeline.unet.disable_adapters()
    elif state == "merged":
        pipeline.unet.fuse_lora()
    elif state == "incomplete":
        original = {name: weight for name, weight in original.items() if "up_blocks" not in name}
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    message = r"original: no up_blocks.* before the edit" if state == "incomplete" else "no LoRA is in force"
    with pytest.raises(ConfigurationError, match=re.compile(f"carry: {message}")):
        carry(pipeline.unet, original)
    assert all(torch.equal(weight, before[name]) for name, weight in pipeline.unet.state_dict().items())
