"""U-Nets of Stable Diffusion's kind: keys and values of ``attn2``; XL also reads a pooled embedding."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.text_space import POOLED, TEXT, Reader, TextSpace
from rece_lightning.models.weights import Weights, check_floats

# In diffusers' U-Nets ``attn2`` is the cross-attention of a transformer block.
TEXT_PROJECTION = re.compile(r"(^|\.)attn2\.to_([kv])\.weight$")
POOLED_READER = "add_embedding.linear_1.weight"
"""Its input is the pooled embedding, then the Fourier features of sizes and crops."""


def is_reader(name: str) -> bool:
    """Whether the parameter of this diffusers name reads text, in a U-Net that has it."""
    return name == POOLED_READER or bool(TEXT_PROJECTION.search(name))


def unet_spaces(shapes: Mapping[str, tuple[int, ...]], width: int, pooled: int | None = None) -> tuple[TextSpace, ...]:
    """The text spaces of a U-Net, from the names and shapes of its parameters alone.

    Args:
        shapes: of all parameters, under their diffusers names.
        width: ``d`` of the text that cross-attention reads.
        pooled: width of the pooled embedding, where the U-Net is given one.
    """
    readers = {
        name: Reader(tuple(shape), kind=match[2])
        # Sorted: the sum over layers must not depend on how a file orders them.
        for name, shape in sorted(shapes.items())
        if (match := TEXT_PROJECTION.search(name))
    }
    spaces = (TextSpace(TEXT, width, readers),)
    shape = shapes.get(POOLED_READER)
    if pooled is None or shape is None or len(shape) != 2 or shape[1] < pooled:
        return spaces
    return (*spaces, TextSpace(POOLED, pooled, {POOLED_READER: Reader(tuple(shape), (0, pooled))}))


def checked_spaces(where: str, weights: Weights, width: int, pooled: int | None = None) -> tuple[TextSpace, ...]:
    """The same of stored weights, which lie ``where``, each shape and dtype looked at.

    Raises:
        BaseModelError: if there is no cross-attention, or a shape or dtype cannot be.
    """
    shapes = weights.shapes()
    spaces = unet_spaces(shapes, width, pooled)
    if not spaces[0].readers:
        raise BaseModelError(
            f"model.pretrained: {where}: no cross-attention that reads the text (attn2.to_k, attn2.to_v); "
            "give a text-to-image model."
        )
    for key in spaces[0].readers:
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
