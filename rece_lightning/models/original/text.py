"""The text encoders' names: OpenAI's CLIP as transformers writes it, and OpenCLIP's own.

Stable Diffusion 2 uses OpenCLIP's last layer but one. Its original files hold 24 layers, diffusers' folders the 23 that
are evaluated. The last layer, ``text_projection`` and ``logit_scale`` cannot be rebuilt from a folder and are left out:
diffusers passes over them when it reads a file, and WebUIs never evaluate them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rece_lightning.models.original.pieces import Piece, by_prefix, no_counterpart
from rece_lightning.models.weights import plain_name


@dataclass(frozen=True)
class Tower:
    """Where and how a family's original files hold a text encoder."""

    prefix: str
    open_clip: bool
    layers: int | None = None
    """Layers from this one on are passed over in a file: diffusers does not have them."""
    projects: bool = False
    """Whether diffusers' encoder has the projection of the pooled embedding."""


TOWERS = {
    "sd1": {"text_encoder": Tower("cond_stage_model.transformer.", open_clip=False)},
    "sd2": {"text_encoder": Tower("cond_stage_model.model.", open_clip=True, layers=23)},
    "sdxl": {
        "text_encoder": Tower("conditioner.embedders.0.transformer.", open_clip=False),
        "text_encoder_2": Tower("conditioner.embedders.1.model.", open_clip=True, projects=True),
    },
}
"""Of each family (see :class:`~rece_lightning.models.base.BaseModel`), by the part's name in a diffusers folder."""

POSITIONS, PROJECTION = "embeddings.position_embedding.weight", "text_projection.weight"
OUTER = {
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    POSITIONS: "positional_embedding",
    PROJECTION: "text_projection",
}
LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
LAYERS, BLOCKS = "encoder.layers.", "transformer.resblocks."


def text_pieces(names: Iterable[str], tower: Tower) -> list[Piece]:
    """The original tensors of a text encoder with these diffusers names, with or without ``text_model.``.

    Raises:
        BaseModelError: if the original layout has no place for one.
    """
    if not tower.open_clip:
        return [Piece(f"{tower.prefix}text_model.{plain_name(name)}", (name,)) for name in names]
    # These positions are a count from 0 to 76, no weight.
    weights = [name for name in names if plain_name(name) != "embeddings.position_ids"]
    pieces = [_open_clip_piece(name, tower.prefix) for name in weights]
    return list({piece.original: piece for piece in pieces}.values())


def _open_clip_piece(name: str, prefix: str) -> Piece:
    inner = plain_name(name)
    if inner.startswith(LAYERS):
        number, _, rest = inner[len(LAYERS) :].partition(".")
        if re.match(r"self_attn\.[qkv]_proj\.", rest):
            stem, kind = name[: -len(rest)] + "self_attn.", rest.rsplit(".", 1)[1]
            parts = tuple(f"{stem}{one}_proj.{kind}" for one in "qkv")
            return Piece(f"{prefix}{BLOCKS}{number}.attn.in_proj_{kind}", parts, "joined")
        if found := by_prefix(LAYER, rest):
            return Piece(f"{prefix}{BLOCKS}{number}.{'.'.join(found)}", (name,))
    elif found := by_prefix(OUTER, inner):
        return Piece(prefix + ".".join(filter(None, found)), (name,), "transposed" if inner == PROJECTION else "same")
    raise no_counterpart("text encoder", name)


def text_pieces_in_file(names: Iterable[str], tower: Tower) -> list[Piece]:
    """The tensors of a text encoder among the names of a file, under diffusers names without ``text_model.``.

    What diffusers' encoder does not have is passed over.
    """
    inner = [name.removeprefix(tower.prefix) for name in names if name.startswith(tower.prefix)]
    if not tower.open_clip:
        return [Piece(tower.prefix + name, (plain_name(name),)) for name in inner]
    outer, layer = ({original: name for name, original in table.items()} for table in (OUTER, LAYER))
    pieces = []
    for name in inner:
        original = tower.prefix + name
        if name.startswith(BLOCKS):
            number, _, rest = name[len(BLOCKS) :].partition(".")
            if tower.layers is not None and number.isdecimal() and int(number) >= tower.layers:
                continue
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                joined = tuple(f"{LAYERS}{number}.self_attn.{one}_proj.{kind}" for one in "qkv")
                pieces.append(Piece(original, joined, "joined"))
            elif found := by_prefix(layer, rest):
                pieces.append(Piece(original, (f"{LAYERS}{number}.{'.'.join(found)}",)))
        elif found := by_prefix(outer, name):
            inside = ".".join(filter(None, found))
            if inside != PROJECTION or tower.projects:
                pieces.append(Piece(original, (inside,), "transposed" if inside == PROJECTION else "same"))
    return pieces
