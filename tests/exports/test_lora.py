"""``lora``: diffusers and PEFT load it, and the layers are then the edited ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rece_lightning.exports import LORA_FILE, Erasure, export
from tests.helpers.erasures import (
    distance,
    edited_exactly,
    effective_weights,
    noise_of,
    original_of,
    pipeline_of,
    rounding_of,
    text_columns,
    with_strength,
)


@pytest.fixture(params=["tiny", "xl", "per_layer", "values_only", "world"])
def erasure(request: pytest.FixtureRequest) -> Erasure:
    """Every kind that there is, on float32 bases but for the embedded world, which is loaded as float32."""
    found: Erasure = request.getfixturevalue(request.param)
    return found


def weights_of(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def test_at_scale_one_the_weights_are_the_edited_ones_fused_and_not(erasure: Erasure, tmp_path: Path) -> None:
    record = export(erasure, "lora", tmp_path / "lora")
    pipeline = pipeline_of(erasure)
    pipeline.load_lora_weights(str(record.path))
    edited = edited_exactly(erasure)
    assert distance(edited, original_of(erasure)) > 1e-2  # there is something to get wrong
    assert distance(effective_weights(pipeline.unet, erasure.names), edited) < 1e-5
    expected = pipeline_of(erasure)
    for name, weight in edited.items():
        expected.unet.get_parameter(name).data.copy_(weight)
    wanted, before = noise_of(expected.unet), noise_of(pipeline_of(erasure).unet)
    assert (before - wanted).norm() > 1e-3 * wanted.norm()
    torch.testing.assert_close(noise_of(pipeline.unet), wanted, rtol=1e-4, atol=1e-5)
    pipeline.fuse_lora()
    assert distance(effective_weights(pipeline.unet, erasure.names), edited) < 1e-5
    torch.testing.assert_close(noise_of(pipeline.unet), wanted, rtol=1e-4, atol=1e-5)


def test_at_scale_zero_and_unloaded_the_model_is_the_original(erasure: Erasure, tmp_path: Path) -> None:
    """Its weights bit for bit, its noise as nearly as one network is given to agree with itself.

    A frozen layer beside an adapter may be multiplied in another way than a plain one: torch takes another product for
    it, and what that rounds depends on the processor.
    """
    pipeline = pipeline_of(erasure)
    before, weights = noise_of(pipeline.unet), weights_of(pipeline.unet)
    near = 4 * rounding_of(erasure)
    pipeline.load_lora_weights(str(export(erasure, "lora", tmp_path / "lora").path), adapter_name="erasure")
    assert float((noise_of(pipeline.unet) - before).norm()) > 20 * near
    pipeline.set_adapters(["erasure"], [0.0])
    assert distance(effective_weights(pipeline.unet, erasure.names), original_of(erasure)) == 0
    assert float((noise_of(pipeline.unet) - before).norm()) <= near
    pipeline.set_adapters(["erasure"], [1.0])
    pipeline.fuse_lora(lora_scale=0.0)
    assert distance(effective_weights(pipeline.unet, erasure.names), original_of(erasure)) == 0
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    after = weights_of(pipeline.unet)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())
    assert float((noise_of(pipeline.unet) - before).norm()) <= near


def test_half_models_get_the_edited_weights_to_their_rounding(half: Erasure, tmp_path: Path) -> None:
    record = export(half, "lora", tmp_path / "lora")
    edited = edited_exactly(half)
    rounding = distance({name: weight.half() for name, weight in edited.items()}, edited)
    pipeline = pipeline_of(half, torch.float16)
    pipeline.load_lora_weights(str(record.path))
    # The two factors are rounded each, the weight beside them already was.
    assert distance(effective_weights(pipeline.unet, half.names), edited) < 2 * rounding
    pipeline.fuse_lora()
    # Diffusers adds in halves: factors, their product and the sum are rounded each.
    assert distance(effective_weights(pipeline.unet, half.names), edited) < 3 * rounding


def test_no_strength_takes_a_factor_out_of_the_range_of_a_half(half: Erasure, tmp_path: Path) -> None:
    weak = with_strength(half, 1e-4)
    tensors = load_file(export(weak, "lora", tmp_path / "lora.safetensors").path)
    for name in half.names:
        layer = f"unet.{name.removesuffix('.weight')}"
        up, down = tensors[f"{layer}.lora_B.weight"], tensors[f"{layer}.lora_A.weight"]
        exact, halves = up.double() @ down.double(), up.half().double() @ down.half().double()
        assert (exact - halves).norm() < 2e-3 * exact.norm()


def test_one_down_projection_serves_all_layers(tiny: Erasure, tmp_path: Path) -> None:
    tensors = load_file(export(tiny, "lora", tmp_path / "lora.safetensors").path)
    assert len({tensor.numpy().tobytes() for name, tensor in tensors.items() if "lora_A" in name}) == 1


@pytest.mark.parametrize("name", ["tiny", "per_layer"])
def test_all_layers_have_one_rank(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    record = export(request.getfixturevalue(name), "lora", tmp_path / "lora.safetensors")
    shapes = {tensor.shape[0] for key, tensor in load_file(record.path).items() if "lora_A" in key}
    assert shapes == {record.rank}


@pytest.mark.parametrize("name", ["tiny", "xl", "per_layer"])
def test_a_smaller_rank_says_truly_what_it_lacks(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    edited, before = edited_exactly(erasure), original_of(erasure)
    change = {key: edited[key] - before[key] for key in edited}
    full = export(erasure, "lora", tmp_path / "full.safetensors")
    errors = [1.0]
    for rank in (1, 2, 5):
        record = export(erasure, "lora", tmp_path / f"{rank}.safetensors", rank=rank)
        pipeline = pipeline_of(erasure)
        pipeline.load_lora_weights(str(record.path))
        made = effective_weights(pipeline.unet, erasure.names)
        assert record.rank == rank
        read = (text_columns(erasure, weights) for weights in (made, edited))
        assert record.weight_error == pytest.approx(distance(*read), rel=1e-4)
        lacks = distance({key: made[key] - before[key] for key in made}, change)
        assert record.error == pytest.approx(lacks, rel=1e-4)
        assert record.bytes < full.bytes
        errors.append(record.error)
    assert errors == sorted(errors, reverse=True)
    assert full.error < 1e-6
    assert errors[-1] > 100 * full.error


def test_a_rank_beyond_the_full_one_is_the_full_one(tiny: Erasure, tmp_path: Path) -> None:
    full = export(tiny, "lora", tmp_path / "full.safetensors")
    assert export(tiny, "lora", tmp_path / "more.safetensors", rank=10_000).rank == full.rank


def test_an_edit_that_changed_nothing_still_loads(tiny: Erasure, tmp_path: Path) -> None:
    pipeline = pipeline_of(tiny)
    before = noise_of(pipeline.unet)
    near = 4 * rounding_of(tiny)
    record = export(with_strength(tiny, 0.0), "lora", tmp_path / "lora")
    pipeline.load_lora_weights(str(record.path))
    assert (record.rank, record.error, record.weight_error) == (1, 0.0, 0.0)
    assert distance(effective_weights(pipeline.unet, tiny.names), original_of(tiny)) == 0
    assert float((noise_of(pipeline.unet) - before).norm()) <= near


def test_folder_and_file_hold_the_same(tiny: Erasure, tmp_path: Path) -> None:
    folder = export(tiny, "lora", tmp_path / "lora").path
    file = export(tiny, "lora", tmp_path / "lora.safetensors").path
    assert {path.name for path in folder.iterdir()} == {LORA_FILE, "README.md"}
    loaded: dict[str, Any] = load_file(file)
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in load_file(folder / LORA_FILE).items())
