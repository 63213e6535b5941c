"""Configuration files of a model: read with care, and refused where they ask for code or make no sense.

Whoever made the folder wrote them. Libraries take some of their entries for orders: to import a module, to fetch an
implementation, to build a billion layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.families.unet import checked_spaces
from rece_lightning.models.original.pieces import numbers
from rece_lightning.models.quantized import quantized_entry
from rece_lightning.models.text_space import TextSpace
from rece_lightning.models.weights import Weights, check_floats, plain_name

LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})
QUANTIZER = "quantization_config"
ORDERS = ("auto_map", "attn_implementation", "_attn_implementation", "transformers_weights", QUANTIZER)
"""Entries that name code, other files, or a quantizer."""
NAMES = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
LARGEST_FILE = 64 << 20
"""Bytes. A tokenizer's largest file has 4 MB, every other configuration a few KB."""
LARGEST_WIDTH = 8192
"""Of a text embedding; the widest text encoders have 4,096. ``M`` has this number squared of float64."""
COUNTS = ("layers_per_block", "num_layers", "num_hidden_layers", "transformer_layers_per_block", "block_out_channels")
MOST_LAYERS = 1000


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of the model."""
    try:
        # Reading a pipe would wait for ever.
        if not path.is_file():
            raise OSError("it is missing, or no regular file")
        if path.stat().st_size > LARGEST_FILE:
            raise OSError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"model.pretrained: {path} cannot be read as JSON ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"model.pretrained: {path} is not a JSON object; fetch it again.")
    return content


def read_parts(folder: Path) -> list[str]:
    """The parts that ``model_index.json`` gives a class, all of them of diffusers or transformers.

    Raises:
        BaseModelError: naming an entry of anything else, which loading the model would import.
    """
    file = folder / "model_index.json"
    index = read_json(file)
    if not isinstance(index.get("_class_name"), str):
        raise BaseModelError(
            f"model.pretrained: {file}: _class_name {index.get('_class_name')!r} is no class of diffusers; code of "
            "the model's own is refused. Give a Stable Diffusion model as save_pretrained wrote it."
        )
    for key, value in index.items():
        if key.startswith("_") or not isinstance(value, list):
            continue
        # The name is a folder's too.
        if not key.isidentifier():
            raise BaseModelError(
                f"model.pretrained: {file}: {key!r} is no name of a part; a folder outside the model is refused. "
                "Fetch the model from where it was published."
            )
        if len(value) != 2 or value[0] not in (*LIBRARIES, None) or not isinstance(value[1], (str, type(None))):
            raise BaseModelError(
                f"model.pretrained: {file}: {key} is to be loaded by {value!r}, which is neither diffusers nor "
                "transformers and could execute code; refused. Fetch the model from where it was published."
            )
    return [key for key, value in index.items() if isinstance(value, list) and value and value[0] is not None]


def check_part(folder: Path) -> None:
    """Look through the configuration files of one part.

    Raises:
        BaseModelError: for entries that are orders to the libraries, numbers beyond reason, or files too large.
    """
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise BaseModelError(
            f"model.pretrained: {adapter}: an adapter beside the weights would be loaded with them; take it out of the "
            "folder, or fuse it."
        )
    for file in (*folder.glob("*.json"), *folder.glob("*.txt")):
        if file.stat().st_size > LARGEST_FILE:
            raise BaseModelError(
                f"model.pretrained: {file} has {file.stat().st_size:,} bytes, too many for a configuration; fetch it "
                "again."
            )
    for file in (folder / name for name in NAMES):
        if file.exists():
            _check_entries(file, read_json(file))


def _check_entries(file: Path, config: Mapping[str, Any]) -> None:
    for key in ORDERS:
        if config.get(key) is not None:
            if key == QUANTIZER:
                raise BaseModelError(quantized_entry(file, config[key]))
            raise BaseModelError(
                f"model.pretrained: {file}: {key} asks for code, files or a format that is not the model's own; "
                "refused. Take the entry out if you know that the model does without, or give another model."
            )
    for key in COUNTS:
        value = config.get(key)
        values = value if isinstance(value, list) else [value]
        # Only so many are looked at: more than these are too many anyhow.
        limit = 1 << 20 if key == "block_out_channels" else MOST_LAYERS
        absurd = [one for one in values[:MOST_LAYERS] if isinstance(one, (int, float)) and not 0 < one <= limit]
        if absurd or len(values) > MOST_LAYERS:
            what = repr(absurd[0]) if absurd else f"{len(values):,} entries"
            raise BaseModelError(f"model.pretrained: {file}: {key}: {what} is beyond reason; fetch the file again.")


def _check_widths(folder: Path, width: Any, text_widths: list[Any]) -> int:
    """``d``: what the U-Net reads and the text encoders together make."""
    if not is_count(width) or width > LARGEST_WIDTH:
        raise BaseModelError(
            f"model.pretrained: {folder / 'unet' / 'config.json'}: cross_attention_dim {width!r} is no width of text "
            f"embeddings (one whole number up to {LARGEST_WIDTH}); give a model of Stable Diffusion's kind."
        )
    if not all(is_count(one) for one in text_widths) or sum(text_widths) != width:
        made = " + ".join(repr(one) for one in text_widths)
        raise BaseModelError(
            f"model.pretrained: {folder}: the U-Net reads embeddings {width} wide, the text encoder makes "
            f"{made}; they belong to different models. Give a folder that is of one model."
        )
    return width


def check_parts(
    folder: Path, weights: str, unet: Weights, text_encoders: Mapping[str, Weights]
) -> tuple[tuple[TextSpace, ...], list[dict[str, Any]]]:
    """Hold a model's configurations against each other and against its weights.

    Args:
        folder: of the configurations.
        weights: where those of the U-Net lie, for messages.
        unet: its weights, those that read text at least.
        text_encoders: part → weights, the first encoder first.

    Returns:
        The text spaces, and the configurations of the text encoders.

    Raises:
        BaseModelError: naming what does not fit.
    """
    files = {part: folder / part / "config.json" for part in text_encoders}
    config, by_part = (
        read_json(folder / "unet" / "config.json"),
        {part: read_json(file) for part, file in files.items()},
    )
    configs = list(by_part.values())
    width = _check_widths(folder, config.get("cross_attention_dim"), [one.get("hidden_size") for one in configs])
    spaces = checked_spaces(weights, unet, width, _pooled_width(folder, config, by_part), config)
    for file, one, encoder in zip(files.values(), configs, text_encoders.values(), strict=True):
        shapes = encoder.shapes()
        _check_text_encoder(file, one, shapes)
        check_floats(encoder, (name for name in shapes if not name.endswith("position_ids")))
    return spaces, configs


def _pooled_width(folder: Path, unet: Mapping[str, Any], text_encoders: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Width of the pooled embedding that a U-Net with this configuration is given; ``None`` where it is given none.

    Raises:
        BaseModelError: if it is given one and no part of the folder says which.
    """
    if unet.get("addition_embed_type") != "text_time":
        return None
    value: Any = text_encoders.get("text_encoder_2", {}).get("projection_dim")
    if not is_count(value):
        raise BaseModelError(
            f"model.pretrained: {folder}: the U-Net reads a pooled embedding too (addition_embed_type: text_time), "
            "which no text_encoder_2 with a projection_dim makes; its reader would stay as it is. Copy the model whole."
        )
    return int(value)


def _check_text_encoder(file: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Hold a text encoder's configuration against the shapes of its weights, before it is built."""
    plain = {plain_name(name): shape for name, shape in shapes.items()}
    expected = {
        "embeddings.token_embedding.weight": ("vocab_size", "hidden_size"),
        "embeddings.position_embedding.weight": ("max_position_embeddings", "hidden_size"),
        "encoder.layers.0.mlp.fc1.weight": ("intermediate_size", "hidden_size"),
    }
    stored: dict[str, Any] = {"num_hidden_layers": len(numbers(plain, "encoder.layers."))}
    for name, keys in expected.items():
        shape = plain.get(name)
        if shape is None or len(shape) != 2:
            raise BaseModelError(
                f"model.pretrained: {file.parent}: the weights hold no {name} of two axes; they are of another kind "
                "or incomplete, copy the model anew."
            )
        for key, size in zip(keys, shape, strict=True):
            if stored.setdefault(key, size) != size:
                raise BaseModelError(
                    f"model.pretrained: {file.parent}: {name} has the shape {list(shape)}, beside a {key} of "
                    f"{stored[key]}; copy the model anew."
                )
    for key, size in stored.items():
        value = config.get(key, size)
        # A file may hold layers that are not evaluated.
        if not is_count(value) or (value > size if key == "num_hidden_layers" else value != size):
            raise BaseModelError(
                f"model.pretrained: {file}: {key} {value!r} does not fit the weights, which have {size}; copy the "
                "model anew."
            )
    heads = config.get("num_attention_heads", 1)
    if not is_count(heads) or stored["hidden_size"] % heads:
        raise BaseModelError(
            f"model.pretrained: {file}: num_attention_heads {heads!r} does not divide the width "
            f"{stored['hidden_size']}; copy the model anew."
        )


def is_count(value: Any) -> bool:
    """Whether it is a whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
