"""What a text-reading projection is: the parameters that an erasure edits."""

from __future__ import annotations

import re

from rece_lightning.core.errors import ConfigurationError, check_choice

KINDS = {"kv": ("to_k", "to_v"), "k": ("to_k",), "v": ("to_v",)}

# In diffusers' U-Nets ``attn2`` is the cross-attention of a transformer block.
TEXT_PROJECTION = re.compile(r"(^|\.)attn2\.(to_k|to_v)\.weight$")


def is_text_projection(name: str) -> bool:
    """Whether a U-Net parameter maps text embeddings to keys or values."""
    return TEXT_PROJECTION.search(name) is not None


def check_layers(layers: str | None) -> re.Pattern[str]:
    """The compiled expression of ``model.layers``; ``None`` matches every layer.

    Raises:
        ConfigurationError: if it is no regular expression.
    """
    try:
        return re.compile(layers or "")
    except (re.error, TypeError) as error:
        raise ConfigurationError(
            f"model.layers: {layers!r} is no regular expression ({error}); to choose the up blocks write '^up_blocks'."
        ) from error


def select_projections(names: list[str], kinds: str = "kv", layers: str | None = None) -> list[str]:
    """The projections to edit, in the model's order.

    Args:
        names: of all text-reading projections.
        kinds: ``kv``, ``k`` or ``v``.
        layers: a regular expression that a name must contain a match of.

    Raises:
        ConfigurationError: if the expression is none, or matches nothing.
    """
    check_choice("model.projections", kinds, KINDS)
    pattern = check_layers(layers)
    chosen = [name for name in names if name.split(".")[-2] in KINDS[kinds] and pattern.search(name)]
    if not chosen:
        examples = "\n  ".join(names[:: max(1, len(names) // 4)][:4])
        raise ConfigurationError(
            f"model.layers: {layers!r} matches no projection; write a part of one of them, for example:\n  {examples}"
        )
    return chosen
