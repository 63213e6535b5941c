"""``kohya``: the names and alphas that WebUIs read, proven by diffusers' own conversion of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rece_lightning.exports import Erasure, export
from rece_lightning.exports.lora import kohya_names
from tests.helpers.erasures import distance, edited_exactly, effective_weights, noise_of, pipeline_of


@pytest.mark.parametrize("name", ["tiny", "xl", "per_layer", "values_only"])
@pytest.mark.parametrize("rank", [None, 3])
def test_diffusers_conversion_gives_what_the_lora_gives(
    name: str, rank: int | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    made = []
    for kind in ("lora", "kohya"):
        record = export(erasure, kind, tmp_path / f"{kind}.safetensors", rank=rank)
        pipeline = pipeline_of(erasure)
        pipeline.load_lora_weights(str(tmp_path), weight_name=record.path.name)
        made.append((effective_weights(pipeline.unet, erasure.names), noise_of(pipeline.unet), record))
    (plain, noise, first), (converted, other_noise, second) = made
    assert distance(converted, plain) < 1e-6
    torch.testing.assert_close(other_noise, noise)
    assert (first.error, first.rank) == (second.error, second.rank)
    if rank is None:
        assert distance(converted, edited_exactly(erasure)) < 1e-5


def test_names_of_stable_diffusion_1(tiny: Erasure, tmp_path: Path) -> None:
    tensors = load_file(export(tiny, "kohya", tmp_path / "kohya.safetensors").path)
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    rank, width = tensors[f"{layer}.lora_down.weight"].shape
    assert width == tiny.text.gram.width
    assert tensors[f"{layer}.lora_up.weight"].shape[1] == rank
    assert tensors[f"{layer}.alpha"].shape == ()
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith("alpha")} == {float(rank)}
    assert len(tensors) == 3 * len(tiny.names)


def test_names_of_stable_diffusion_xl(xl: Erasure) -> None:
    """The blocks of SDXL's original layout: what kohya's scripts and the WebUIs call them."""
    names = kohya_names(xl.base, [name.removesuffix(".weight") for name in xl.names])
    blocks = {name.split("_transformer_blocks")[0] for name in names.values()}
    assert blocks == {
        "lora_unet_label_emb_0_0",  # reads the pooled embedding
        *(f"lora_unet_input_blocks_{block}_1" for block in (4, 5, 7, 8)),
        "lora_unet_middle_block_1",
        *(f"lora_unet_output_blocks_{block}_1" for block in range(6)),
    }
    assert len(set(names.values())) == len(xl.names)
    assert (
        names["up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"]
        == "lora_unet_output_blocks_5_1_transformer_blocks_0_attn2_to_v"
    )


def test_blocks_are_counted_over_the_whole_model_whatever_was_edited(xl: Erasure) -> None:
    layer = "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k"
    assert kohya_names(xl.base, [layer])[layer].startswith("lora_unet_output_blocks_1_1_")
    layer = "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k"
    assert kohya_names(xl.base, [layer])[layer].startswith("lora_unet_input_blocks_7_1_")


@pytest.mark.parametrize(("name", "version", "second"), [("tiny", "sd_v1", "False"), ("xl", "sdxl_base_v1-0", "False")])
def test_metadata_say_what_is_true(
    name: str, version: str, second: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    record = export(erasure, "kohya", tmp_path / "no_bombs.safetensors", rank=2)
    with safe_open(record.path, framework="pt") as file:
        said = file.metadata()
    assert said["ss_network_module"] == "networks.lora"
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("2", "2.0")
    assert (said["ss_base_model_version"], said["ss_v2"]) == (version, second)
    assert said["ss_output_name"] == "no_bombs"
    assert said["ss_sd_model_name"] == erasure.base.path.name
    assert said["modelspec.architecture"].endswith("/lora")
    assert json.loads(said["rece.fingerprint"]) == erasure.base.fingerprint()


def test_checkpoint_files_have_the_names_of_their_kind(original_file: Erasure, tmp_path: Path) -> None:
    record = export(original_file, "kohya", tmp_path / "kohya.safetensors")
    pipeline = pipeline_of(original_file)
    pipeline.load_lora_weights(str(tmp_path), weight_name="kohya.safetensors")
    edited = edited_exactly(original_file)
    assert distance(effective_weights(pipeline.unet, original_file.names), edited) < 1e-5
    place = "input_blocks" if original_file.base.family == "sdxl" else "down_blocks"
    assert any(name.startswith(f"lora_unet_{place}_") for name in load_file(record.path))
