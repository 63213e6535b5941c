"""Numbers of a model's configurations read from the shapes of its tensors.

What no shape tells (activations, numbers of heads, groups of a normalization, the scheduler) stays as the published
models of the family have it. Heads follow the family's rule: eight in SD 1.x, otherwise 64 channels each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.original.model import PARTS, pieces_in_file
from rece_lightning.models.original.pieces import Shape, numbers

Config = dict[str, Any]
CHANNELS_OF_A_HEAD = 64
VOCABULARY_SIZE = 49408
"""CLIP's tokens: 256 bytes, the same at the end of a word, 48,894 merges, and the two special ones."""


def fit_to_shapes(configs: Mapping[str, Config], shapes: Mapping[str, Shape], family: str) -> dict[str, Config]:
    """The configurations with what the shapes tell put in; a part that the file does not hold keeps its own.

    Raises:
        BaseModelError: if a part is incomplete, or a text encoder has another vocabulary than CLIP's.
    """
    fitted = {part: dict(config) for part, config in configs.items()}
    for part in PARTS[family]:
        pieces = pieces_in_file(part, shapes, family)
        own = {name: piece.diffusers_shape(shapes[piece.original]) for piece in pieces for name in piece.diffusers}
        if not own:
            continue
        try:
            fitted[part] |= _unet(own, family) if part == "unet" else _vae(own) if part == "vae" else _text(own)
        except (LookupError, ValueError) as error:
            raise BaseModelError(
                f"model.pretrained: the file's {part} is incomplete or none of Stable Diffusion's kind ({error}); "
                "fetch the file again, or give a folder of configurations with --model.config."
            ) from error
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            fitted[tokenizer]["model_max_length"] = fitted[part]["max_position_embeddings"]
    return fitted


def _unet(shapes: Mapping[str, Shape], family: str) -> Config:
    down, up = (_blocks(shapes, side) for side in ("down_blocks", "up_blocks"))
    channels = [shapes[f"down_blocks.{block}.resnets.0.conv1.weight"][0] for block in range(len(down))]
    resnets = [len(numbers(shapes, f"down_blocks.{block}.resnets.")) for block in range(len(down))]
    depths, back = ([_depth(block) for block in side] for side in (down, up))
    middle = _transformers(shapes, "mid_block")
    if middle and not down[-1]:
        # The middle is as deep as the last block is said to be.
        depths[-1] = _depth(middle)
    keys = sorted(name for name in shapes if name.endswith("attn2.to_k.weight"))
    config: Config = {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if any(block) else "DownBlock2D" for block in down],
        "up_block_types": ["CrossAttnUpBlock2D" if any(block) else "UpBlock2D" for block in up],
        "layers_per_block": resnets[0] if len(set(resnets)) == 1 else resnets,
        "transformer_layers_per_block": depths[0] if len({str(one) for one in depths}) == 1 else depths,
        "cross_attention_dim": shapes[keys[0]][1],
        "attention_head_dim": 8 if family == "sd1" else [max(1, width // CHANNELS_OF_A_HEAD) for width in channels],
        "use_linear_projection": len(shapes[f"{keys[0].split('.transformer_blocks.')[0]}.proj_in.weight"]) == 2,
    }
    # Distilled models do without the middle's attention, or without the middle.
    if not middle:
        config["mid_block_type"] = "UNetMidBlock2D" if any(name.startswith("mid_block.") for name in shapes) else None
    # Diffusers reads the way back off the way down, unless it is told.
    if back != depths[::-1] or any(isinstance(depth, list) for depth in depths):
        config["reverse_transformer_layers_per_block"] = back
    if "add_embedding.linear_1.weight" in shapes:
        config["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"][1]
    return config


def _blocks(shapes: Mapping[str, Shape], side: str) -> list[list[int]]:
    """How deep the transformers of every block of one side are, one after another."""
    return [_transformers(shapes, f"{side}.{block}") for block in numbers(shapes, f"{side}.")]


def _transformers(shapes: Mapping[str, Shape], block: str) -> list[int]:
    before = f"{block}.attentions."
    return [len(numbers(shapes, f"{before}{layer}.transformer_blocks.")) for layer in numbers(shapes, before)]


def _depth(transformers: list[int]) -> int | list[int]:
    """As diffusers writes it: one number where all are equal; 1 where there is no transformer, as published."""
    return (transformers or [1])[0] if len(set(transformers)) < 2 else transformers


def _vae(shapes: Mapping[str, Shape]) -> Config:
    blocks = numbers(shapes, "encoder.down_blocks.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in blocks],
        "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
        "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
        "layers_per_block": len(numbers(shapes, "encoder.down_blocks.0.resnets.")),
    }


def _text(shapes: Mapping[str, Shape]) -> Config:
    tokens, width = shapes["embeddings.token_embedding.weight"]
    if tokens != VOCABULARY_SIZE:
        raise BaseModelError(
            f"model.pretrained: the file's text encoder knows {tokens} tokens, CLIP's tokenizer "
            f"{VOCABULARY_SIZE}; give the folder with the model's own tokenizer and configurations with --model.config."
        )
    config: Config = {
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(numbers(shapes, "encoder.layers.")),
        "num_attention_heads": max(1, width // CHANNELS_OF_A_HEAD),
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
    }
    if "text_projection.weight" in shapes:
        config["projection_dim"] = shapes["text_projection.weight"][0]
    return config
