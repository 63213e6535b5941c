"""A diffusers folder that transformers 4 and 5 both read.

Between the two CLIP lost a layer of its names, and its tokenizer the files ``vocab.json`` and ``merges.txt``. Version 5
reads both spellings and writes the new one. Version 4 reads the old one alone: of a folder in the new one it refuses
the tokenizer, and draws random text encoders with a mere warning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rece_lightning.exports.safetensors import copy_with_metadata, tensor_names
from rece_lightning.models.layouts import write_byte_pairs
from rece_lightning.models.part_configs import read_json

OUTER = {
    "CLIPTextModel": ("", "text_model."),
    "CLIPTextModelWithProjection": ("", "text_model."),
    "CLIPVisionModel": ("", "vision_model."),
    "CLIPVisionModelWithProjection": ("", "vision_model."),
    "StableDiffusionSafetyChecker": ("vision_model.", "vision_model."),
}
"""Class of a part → after which beginning of a name version 4 has which further layer."""
BESIDE = ("text_projection.", "visual_projection.")
"""What lies beside that layer."""
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


def write_for_both(folder: Path) -> None:
    """Bring a folder that is not published yet into what both generations read. The tensors' bytes are untouched.

    Args:
        folder: with a ``model_index.json``.
    """
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    for part, value in index.items():
        kind = value[1] if isinstance(value, list) and len(value) == 2 else None
        if kind in OUTER:
            _write_old_names(folder / part, kind)
        elif kind in TOKENIZERS:
            _write_old_files(folder / part)


def old_name(kind: str, name: str) -> str:
    """What transformers 4 calls a tensor of a part.

    Args:
        kind: the part's class.
        name: of the tensor in either generation.

    Example:
        >>> old_name("CLIPTextModelWithProjection", "final_layer_norm.bias")
        'text_model.final_layer_norm.bias'
        >>> old_name("CLIPTextModelWithProjection", "text_projection.weight")
        'text_projection.weight'
    """
    before, layer = OUTER[kind]
    inner = name.removeprefix(before)
    if not name.startswith(before) or inner.startswith((layer, *BESIDE)):
        return name
    return before + layer + inner


def _write_old_names(folder: Path, kind: str) -> None:
    """Rename the tensors of a part where they have the new names, in its shards and in their index."""
    for file in sorted(folder.glob("*.safetensors")):
        names = {name: old_name(kind, name) for name in tensor_names(file)}
        if any(name != old for name, old in names.items()):
            plain = file.rename(file.with_suffix(".plain"))
            copy_with_metadata(plain, file, {}, names)
            plain.unlink()
    for file in sorted(folder.glob("*.safetensors.index*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        content["weight_map"] = {old_name(kind, name): home for name, home in content["weight_map"].items()}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_old_files(folder: Path) -> None:
    """Write a tokenizer's own vocabulary, merges and added tokens beside its ``tokenizer.json``, where they lack."""
    source = folder / "tokenizer.json"
    if not source.is_file() or all((folder / name).exists() for name in ("vocab.json", "merges.txt")):
        return
    content = read_json(source)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return
    tokens = model["vocab"]
    write_byte_pairs(folder, tokens, (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]))
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    if more := {text: number for text, number in added.items() if text not in tokens}:
        (folder / "added_tokens.json").write_text(json.dumps(more, ensure_ascii=False) + "\n", encoding="utf-8")
