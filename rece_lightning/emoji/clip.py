"""The embedded world's CLIP: its text tower is the pipeline's text encoder and stored once, there."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from rece_lightning.emoji.catalog import WEIGHTS


def load_clip(weights: Path = WEIGHTS) -> tuple[CLIPModel, CLIPTokenizer]:
    """CLIP in float32, put together from ``clip/`` and ``text_encoder/``, and its tokenizer."""
    clip = CLIPModel(CLIPConfig.from_json_file(weights / "clip" / "config.json"))
    state = load_file(weights / "clip" / "model.safetensors")
    for name, value in load_file(weights / "text_encoder" / "model.safetensors").items():
        state[name if name.startswith("text_model.") else f"text_model.{name}"] = value
    clip.load_state_dict({name: value.float() for name, value in state.items()})
    return clip.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(weights / "tokenizer")
