"""U-Nets of Stable Diffusion's kind: keys and values of their cross-attention; XL also reads a pooled embedding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.families.unet_ways import other_way
from rece_lightning.models.text_space import POOLED, TEXT, Reader, TextSpace
from rece_lightning.models.weights import Weights, check_floats

Shapes = Mapping[str, tuple[int, ...]]

# Custom Diffusion's processors bring keys and values of their own, which are read in place of the layer's.
ATTENTION = re.compile(
    r"(?P<layer>(?:^|.*\.)attn(?P<number>[12]))\.(?:to_(?P<kind>[kv])|processor\.to_(?P<own>[kv])_custom_diffusion)\.weight"
)
# Between the frames of a video: both attentions of such a block read the pictures themselves.
BETWEEN_FRAMES = re.compile(r"(^|\.)(motion_modules|temp_attentions|transformer_in)\.")
BLOCK = re.compile(r"(?:^|\.)(?P<side>down|up)_blocks\.(?P<number>\d+)\.")
POOLED_READER = "add_embedding.linear_1.weight"
"""Its input is the pooled embedding, then the Fourier features of sizes and crops. ControlNet-XS calls it
``base_add_embedding``."""
PHRASES = ("position_net.linears.0.weight", "position_net.linears_text.0.weight")
"""GLIGEN's reader of a phrase: the row where its text ends, then the Fourier features of its box."""


def unet_spaces(
    shapes: Shapes, width: int, pooled: int | None = None, config: Mapping[str, Any] | None = None
) -> tuple[TextSpace, ...]:
    """The text spaces of a U-Net, from the names and shapes of its parameters and its configuration.

    Args:
        shapes: of all parameters, under their diffusers names.
        width: ``d`` of the text that cross-attention reads.
        pooled: width of the pooled embedding, where the U-Net is given one.
        config: diffusers' configuration, where there is one. It alone tells that a block whose channels are as many as
            ``width`` attends to the text in its first attention too.
    """
    readers = {}
    # Sorted: the sum over layers must not depend on how a file orders them.
    for name, shape in sorted(shapes.items()):
        if kind := text_projection(name, shapes, config or {}):
            readers[name] = Reader(tuple(shape), kind=kind)
        elif name in PHRASES and len(shape) == 2 and shape[1] > width:
            readers[name] = Reader(tuple(shape), (0, width))
    spaces = (TextSpace(TEXT, width, readers),)
    wide = {
        name: tuple(shape)
        for name, shape in sorted(shapes.items())
        if name in (POOLED_READER, f"base_{POOLED_READER}") and len(shape) == 2
    }
    if pooled is None or not wide or any(shape[1] < pooled for shape in wide.values()):
        return spaces
    return (*spaces, TextSpace(POOLED, pooled, {name: Reader(shape, (0, pooled)) for name, shape in wide.items()}))


def is_reader(name: str, shapes: Shapes, config: Mapping[str, Any]) -> bool:
    """Whether the parameter of this diffusers name reads text, in a U-Net that has it."""
    pooled = (POOLED_READER, f"base_{POOLED_READER}")
    return name in (*PHRASES, *pooled) or bool(text_projection(name, shapes, config))


def text_projection(name: str, shapes: Shapes, config: Mapping[str, Any]) -> str:
    """``k`` or ``v`` where a parameter is the key or the value of an attention to the text; otherwise nothing."""
    match = ATTENTION.fullmatch(name)
    if match is None or BETWEEN_FRAMES.search(name):
        return ""
    if match["number"] == "1":
        # The first attention of a block is to the picture itself, unless its blocks have cross-attention only.
        query, key = (shapes.get(f"{match['layer']}.to_{part}.weight") for part in "qk")
        different = query is not None and key is not None and query[1:] != key[1:]
        if not different and not only_cross_attention(name, config):
            return ""
    return match["kind"] or match["own"]


def only_cross_attention(name: str, config: Mapping[str, Any]) -> bool:
    """Whether both attentions of the block that holds a parameter read the text, as in Stable Diffusion's upscaler."""
    value, block = config.get("only_cross_attention", False), BLOCK.search(name)
    if block is None or isinstance(value, bool) or not isinstance(value, (list, tuple)):
        return bool(value) and block is not None
    number = int(block["number"])
    ordered = value if block["side"] == "down" else value[::-1]
    return number < len(ordered) and bool(ordered[number])


def checked_spaces(
    where: str, weights: Weights, width: int, pooled: int | None = None, config: Mapping[str, Any] | None = None
) -> tuple[TextSpace, ...]:
    """The same of stored weights, which lie ``where``, each shape and dtype looked at.

    Raises:
        BaseModelError: if there is no cross-attention, text gets in by a way that is not edited, or a shape or dtype
            cannot be.
    """
    shapes = weights.shapes()
    way = other_way(shapes, config or {})
    if way is None and (held := next((name for name in shapes if ".processor." in name), None)):
        way = f"the attention processor's {held}, which diffusers does not load with a model"
    if way is not None:
        raise BaseModelError(
            f"model.pretrained: {where}: text reaches the U-Net by {way}; an edit of the cross-attention would leave "
            "that as it is. Give a model without it."
        )
    spaces = unet_spaces(shapes, width, pooled, config)
    if not spaces[0].readers:
        raise BaseModelError(
            f"model.pretrained: {where}: no cross-attention that reads the text (attn2.to_k, attn2.to_v); "
            "give a text-to-image model."
        )
    for key, reader in spaces[0].readers.items():
        if not reader.kind:
            continue
        layer = key.removesuffix(".weight").rsplit(".", 1)[0]
        queries, *others = (shapes.get(f"{layer}.{part}.weight") for part in ("to_q", "to_k", "to_v"))
        # Queries, keys and values of a cross-attention are equally wide in a U-Net.
        if not queries or not queries[0] or any(shape != (queries[0], width) for shape in others):
            raise BaseModelError(
                f"model.pretrained: {where}: the projections to_k and to_v of {layer} have the shapes {others}, "
                f"beside queries of {queries} and embeddings {width} wide; the file is incomplete or of another model. "
                "Copy the model anew."
            )
    if pooled is not None and len(spaces) == 1:
        raise BaseModelError(
            f"model.pretrained: {where}: {POOLED_READER} has the shape {shapes.get(POOLED_READER)}, beside pooled "
            f"embeddings {pooled} wide; the file is incomplete or of another model. Copy the model anew."
        )
    for space in spaces:
        check_floats(weights, space.readers)
    return spaces
