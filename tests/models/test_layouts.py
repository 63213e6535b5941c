"""The shipped configurations: their numbers against what is published, the tokenizer against known tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.fitted import VOCABULARY_SIZE, fit_to_shapes
from rece_lightning.models.layouts import LAYOUTS, byte_characters, config_folder, kind_of, merges, vocabulary
from rece_lightning.models.original.pieces import Shape
from rece_lightning.models.weights import SafetensorsWeights
from tests.helpers.models_original import build_parts, make_original, original_tensors

CLIP_L, OPEN_CLIP_H, OPEN_CLIP_G = 123_060_480, 340_387_840, 694_659_840
PARAMETERS = {
    "sd1": {"unet": 859_520_964, "text_encoder": CLIP_L},
    "sd1-inpainting": {"unet": 859_535_364, "text_encoder": CLIP_L},
    "sd2": {"unet": 865_910_724, "text_encoder": OPEN_CLIP_H},
    "sd2-base": {"unet": 865_910_724, "text_encoder": OPEN_CLIP_H},
    "sd2-inpainting": {"unet": 865_925_124, "text_encoder": OPEN_CLIP_H},
    "sdxl": {"unet": 2_567_463_684, "text_encoder": CLIP_L, "text_encoder_2": OPEN_CLIP_G},
    "sdxl-inpainting": {"unet": 2_567_478_084, "text_encoder": CLIP_L, "text_encoder_2": OPEN_CLIP_G},
}
VAE = 83_653_863
BLOCKS = {"in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types", "up_block_types"}
READ = {
    "model_index": set(),
    "scheduler": set(),
    "unet": BLOCKS
    | {"transformer_layers_per_block", "cross_attention_dim", "use_linear_projection", "attention_head_dim"}
    | {"projection_class_embeddings_input_dim"},
    "vae": BLOCKS | {"latent_channels"},
    "text_encoder": {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    | {"max_position_embeddings"},
    "tokenizer": {"model_max_length"},
}
"""What shapes tell of a configuration."""


def full_shapes(configs: dict[str, dict[str, Any]], kind: str) -> tuple[dict[str, int], dict[str, Shape]]:
    """Parameters a part, and the shapes of the original file, of a model of full size that takes no memory."""
    with torch.device("meta"):
        parts = build_parts(configs)
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    return counts, {name: tuple(tensor.shape) for name, tensor in original_tensors(parts, kind).items()}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_published_sizes(kind: str) -> None:
    """Built from the shipped numbers, every part has as many parameters as the published model; and the numbers can
    be read back from the shapes of its file.
    """
    layout = LAYOUTS[kind]
    configs = layout.configs()
    counts, shapes = full_shapes(configs, kind)
    assert counts == {**PARAMETERS[kind], "vae": VAE}
    assert kind_of(shapes) == kind.replace("-base", "")
    blank = {
        part: {key: None if key in READ[part.removesuffix("_2")] else value for key, value in config.items()}
        for part, config in configs.items()
    }
    assert fit_to_shapes(blank, shapes, layout.family) == configs


@pytest.mark.parametrize("kind", LAYOUTS)
def test_folders_hold_what_diffusers_reads(kind: str) -> None:
    """Every part that the index names has its configuration, and the folder is written once."""
    folder = config_folder(kind)
    index = json.loads((folder / "model_index.json").read_text())
    for part, value in index.items():
        if isinstance(value, list) and value[0] is not None:
            files = {file.name for file in (folder / part).iterdir()}
            assert files & {"config.json", "scheduler_config.json", "vocab.json"}, part
    assert config_folder(kind) == folder
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == ("v_prediction" if kind == "sd2" else "epsilon")
    assert index["scheduler"] == ["diffusers", scheduler["_class_name"]]
    assert json.loads((folder / "unet" / "config.json").read_text())["in_channels"] == (9 if "inp" in kind else 4)


@pytest.mark.parametrize(
    ("kind", "part", "pad"),
    [
        ("sd1", "tokenizer", 49407),
        ("sd2", "tokenizer", 0),
        ("sdxl", "tokenizer", 49407),
        ("sdxl", "tokenizer_2", 0),
    ],
)
def test_tokens_are_clips(kind: str, part: str, pad: int) -> None:
    """Known numbers, with the padding that each family was trained with."""
    tokenizer = CLIPTokenizer.from_pretrained(config_folder(kind) / part, local_files_only=True)
    tokens = tokenizer("A photo  of a CAT", padding="max_length", truncation=True)["input_ids"]
    assert tokens == [49406, 320, 1125, 539, 320, 2368, 49407] + [pad] * 70
    assert tokenizer("photo " * 100, truncation=True)["input_ids"][-1] == 49407
    assert (len(tokenizer), tokenizer.model_max_length) == (VOCABULARY_SIZE, 77)
    text = "naïve café, 42 🚀 – ok"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).replace(" ", "") == text.replace(
        " ", ""
    )


def test_the_vocabulary_is_whole() -> None:
    """Every number once; every merge joins two tokens that are there before it."""
    tokens = vocabulary()
    assert sorted(tokens.values()) == list(range(VOCABULARY_SIZE))
    assert len(merges()) == VOCABULARY_SIZE - 514
    assert len(set(byte_characters())) == 256
    for number, pair in enumerate(merges()):
        left, right = pair.split(" ")
        assert max(tokens[left], tokens[right]) < tokens[left + right] == 512 + number


def test_files_of_no_layout() -> None:
    """A LoRA, a Flux model, SDXL's refiner, a U-Net alone of unknown width."""
    projection = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    entry = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}
    assert kind_of({"lora_unet_x.lora_up.weight": (4, 4)}) is None
    assert kind_of({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4)}) is None
    assert kind_of(entry) is None
    assert kind_of({**entry, projection: (320, 1280)}) is None
    assert kind_of({**entry, projection: (320, 768)}) == "sd1"
    assert kind_of({"model.diffusion_model.input_blocks.0.0.weight": (), projection: (320, 768)}) is None


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Another vocabulary, and a file that lacks what its structure needs."""
    shapes = SafetensorsWeights(make_original(tmp_path / "model.safetensors", "sd1")).shapes()
    token = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    with pytest.raises(BaseModelError, match="500 tokens"):
        config_folder("sd1", {**shapes, token: (500, 32)})
    for name in (token, "model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"):
        with pytest.raises(BaseModelError, match="incomplete"):
            config_folder("sd1", {key: shape for key, shape in shapes.items() if key != name})
    with pytest.raises(BaseModelError, match="incomplete"):
        config_folder("sd1", {**shapes, "model.diffusion_model.out.2.weight": ()})
