"""Load tokenizers and text encoders of a base model, and nothing else of it."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.family_encoder import load_family_encoder
from rece_lightning.models.text import EncodesPrompts, PromptEncoder
from rece_lightning.models.weights import Weights, all_finite, plain_name

SUFFIXES = ("", "_2")


def load_encoder(base: BaseModel, device: torch.device | str = "cpu") -> EncodesPrompts:
    """Load without dropout and gradients: CLIP towers in float32, those of other families in their stored dtype.

    Raises:
        BaseModelError: if the weights do not fit their configuration.
    """
    if base.denoisers:
        return load_family_encoder(base, device)
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None}
    for name, weights in zip(base.encoders, base.text, strict=True):
        suffix = name.removeprefix("text_encoder")
        tokenizer, text_encoder = load_tower(base, suffix, weights)
        parts |= {f"tokenizer{suffix}": tokenizer, name: text_encoder.eval().requires_grad_(False).to(device)}
    return PromptEncoder(**parts)


def load_tower(base: BaseModel, suffix: str, weights: Weights) -> tuple[Any, Any]:
    """A tokenizer and its text encoder in float32.

    Args:
        base: that they belong to.
        suffix: of their names in a diffusers folder, one of :data:`SUFFIXES`.
        weights: of the text encoder.

    Raises:
        BaseModelError: if the weights do not fit their configuration.
    """
    # SDXL's second encoder has a projection; its output is the pooled embedding.
    kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
    folder = base.configurations
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}", local_files_only=True)
        config = CLIPTextConfig.from_pretrained(folder / f"text_encoder{suffix}", local_files_only=True)
        # Random weights would be drawn for half a second and thrown away.
        with init_empty_weights():
            text_encoder = kind(config)
        expected = set(text_encoder.state_dict())
        state: dict[str, Any] = {}
        for name, tensor in weights.read(list(weights.shapes())):
            known = expected.intersection((name, f"text_model.{name}", plain_name(name)))
            state |= dict.fromkeys(known, tensor.float())
        missing = text_encoder.load_state_dict(state, strict=False, assign=True).missing_keys
    except Exception as error:  # the library raises many kinds; each means that a file is not what it should be
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {base.path}: tokenizer or text encoder cannot be loaded ({reason}); "
            "copy the model anew."
        ) from error
    broken = missing or [name for name, value in text_encoder.named_parameters() if not all_finite(value)]
    if broken:
        raise BaseModelError(
            f"model.pretrained: {weights.where}: {broken[0]} is missing or holds values that "
            "are NaN or infinite; fetch the file again."
        )
    tokens = max(tokenizer.get_vocab().values(), default=0) + 1
    if tokens > config.vocab_size:
        raise BaseModelError(
            f"model.pretrained: {folder / f'tokenizer{suffix}'} makes {tokens} tokens, the text encoder knows "
            f"{config.vocab_size}; they belong to different models, copy the model anew."
        )
    return tokenizer, text_encoder
