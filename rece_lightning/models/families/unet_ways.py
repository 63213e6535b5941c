"""Ways by which text can reach a U-Net of diffusers that are not edited, told by its configuration and its parameters.

What is edited stands in ``unet.py``: the keys and values of cross-attention, Custom Diffusion's own ones, GLIGEN's
phrases, and XL's pooled embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

ATTENDING = re.compile(
    r"CrossAttn(Down|Up)Block(2D|3D|Motion)|UNetMidBlock(2D|3D)CrossAttn|UNetMidBlockCrossAttnMotion"
)
"""Blocks whose cross-attention feeds the text to ``to_k`` and ``to_v`` as it comes."""
BLOCKS = ("down_block_types", "mid_block_type", "up_block_types")
# IP-Adapter's processors read pictures; of Custom Diffusion's, keys and values are edited and the rest reads no text.
PROCESSOR = re.compile(r"\.processor\.to_([kv]_ip|([qkv]|out)_custom_diffusion)\.")
ENTRIES: dict[str, tuple[tuple[Any, ...], str]] = {
    "encoder_hid_dim_type": (
        (None, "ip_image_proj"),
        "encoder_hid_proj, which changes its embeddings before the cross-attention reads them",
    ),
    "addition_embed_type": ((None, "text_time"), "add_embedding, which reads all of its embeddings, or a picture's"),
    "class_embed_type": (
        (None, "timestep", "identity", "projection"),
        "class_embedding, which reads an embedding of a text or a sound",
    ),
    "dual_cross_attention": ((None, False), "transformers that divide text and pictures among them"),
    "attention_type": ((None, "default", "gated", "gated-text-image"), "its gated attention"),
}
"""Entry of the configuration → the values that are known to bring no other way, and what another one brings."""


def other_way(names: Iterable[str], config: Mapping[str, Any]) -> str | None:
    """By what text gets into a U-Net besides what is edited; ``None`` where nothing of the kind is there.

    Args:
        names: of its parameters.
        config: diffusers' configuration; empty where there is none.
    """
    for entry, (known, way) in ENTRIES.items():
        if config.get(entry) not in known:
            return f"{way} ({entry}: {config[entry]!r})"
    if config.get("encoder_hid_dim") is not None and config.get("encoder_hid_dim_type") is None:
        return f"{ENTRIES['encoder_hid_dim_type'][1]} (encoder_hid_dim: {config['encoder_hid_dim']!r})"
    for entry in BLOCKS:
        value = config.get(entry)
        for kind in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(kind, str) and "CrossAttn" in kind and not ATTENDING.fullmatch(kind):
                return f"{kind}, whose attention reads it in its own way"
    for name in names:
        if ".add_k_proj." in name or ".add_v_proj." in name:
            return f"{name}, a projection beside the picture's own"
        if name.startswith("text_encoder_hid_proj."):
            return f"{name}, which changes its embeddings before the cross-attention reads them"
        if ".processor." in name and not PROCESSOR.search(name):
            return f"{name}, a weight of an attention processor that is not known here"
    return None
