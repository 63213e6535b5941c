"""``pipeline``: a folder under the names and with the files that transformers 4 and 5 both look for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextModel, CLIPTokenizer

from rece_lightning.exports import Erasure, export
from rece_lightning.exports.generations import old_name
from rece_lightning.models.find import find_base
from tests.helpers.exported import check_for_both, check_tokenizer, old_tokens, text_names


def exported(erasure: Erasure, base: Path, to: Path) -> Path:
    """The same erasure on a folder that was changed, exported."""
    return export(replace(erasure, source=find_base(str(base))), "pipeline", to).path


@pytest.mark.parametrize("name", ["tiny", "half", "xl", "world"])
def test_of_a_folder(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    check_for_both(erasure, export(erasure, "pipeline", tmp_path / "model").path)


def test_files_that_are_there_stay(tiny: Erasure, tmp_path: Path) -> None:
    """A folder that version 4 wrote is copied as it is."""
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    for name in ("vocab.json", "merges.txt"):
        (base / "tokenizer" / name).write_text(f"its own {name}")
    folder = exported(tiny, base, tmp_path / "model")
    assert (folder / "tokenizer" / "vocab.json").read_text() == "its own vocab.json"
    assert (folder / "tokenizer" / "merges.txt").read_text() == "its own merges.txt"


def test_added_tokens_keep_their_numbers(tiny: Erasure, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    tokenizer.add_tokens(["<x>", "<x>_1"])
    tokenizer.save_pretrained(base / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    encoder.resize_token_embeddings(len(tokenizer))
    encoder.save_pretrained(base / "text_encoder")
    folder = exported(tiny, base, tmp_path / "model") / "tokenizer"
    check_tokenizer(folder)
    assert old_tokens(folder)["<x>_1"] == len(tokenizer) - 1
    assert "<x>" not in json.loads((folder / "vocab.json").read_text(encoding="utf-8"))


def test_shards_and_their_index_get_the_same_names(tiny: Erasure, tmp_path: Path) -> None:
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    shutil.rmtree(base / "text_encoder")
    encoder.save_pretrained(base / "text_encoder", max_shard_size="40KB")
    folder = exported(tiny, base, tmp_path / "model")
    names, index = text_names(folder), folder / "text_encoder" / "model.safetensors.index.json"
    homes = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    assert len(set(homes.values())) > 1
    assert set(homes) == names
    assert all(name.startswith("text_model.") for name in names)
    read = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in encoder.state_dict().items())


def test_a_safety_checker_gets_the_inner_layer_of_its_names(tiny: Erasure, tmp_path: Path) -> None:
    """Version 4 would read five of its tensors, and draw the rest."""
    base = shutil.copytree(tiny.base.path, tmp_path / "base")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=sizes, projection_dim=8))
    checker.save_pretrained(base / "safety_checker")
    index = json.loads((base / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (base / "model_index.json").write_text(json.dumps(index))
    folder = exported(tiny, base, tmp_path / "model")
    names = text_names(folder, "safety_checker")
    assert "visual_projection.weight" in names
    assert "vision_model.vision_model.post_layernorm.weight" in names
    assert not any(name.startswith("vision_model.embeddings") for name in names)
    made = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker").state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in checker.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "new", "old"),
    [
        ("CLIPTextModel", "encoder.layers.0.mlp.fc1.bias", "text_model.encoder.layers.0.mlp.fc1.bias"),
        ("CLIPTextModelWithProjection", "text_projection.weight", "text_projection.weight"),
        ("CLIPVisionModelWithProjection", "vision_model.pre_layrnorm.bias", "vision_model.pre_layrnorm.bias"),
        ("CLIPVisionModelWithProjection", "visual_projection.weight", "visual_projection.weight"),
        ("StableDiffusionSafetyChecker", "concept_embeds", "concept_embeds"),
        ("StableDiffusionSafetyChecker", "vision_model.embeddings.x", "vision_model.vision_model.embeddings.x"),
    ],
)
def test_an_old_name_is_its_own_old_name(kind: str, new: str, old: str) -> None:
    assert old_name(kind, new) == old
    assert old_name(kind, old) == old
