"""A whole model between the two layouts: its parts' tensors under original names, and back, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.original.pieces import Piece, Shape
from rece_lightning.models.original.text import TOWERS, text_pieces, text_pieces_in_file
from rece_lightning.models.original.unet import PREFIX, diffusers_unet_names, unet_names
from rece_lightning.models.original.vae import vae_pieces, vae_pieces_in_file
from rece_lightning.models.weights import Weights

PARTS = {family: ("unet", "vae", *towers) for family, towers in TOWERS.items()}
"""The parts with weights of each family, by their names in a diffusers folder."""

TEXT_PROJECTIONS = ("attn2.to_k.weight", "attn2.to_v.weight")
POOLED_READER = "label_emb.0.0.weight"
"""What reads XL's pooled embedding."""


def pieces_of(part: str, names: Iterable[str], family: str) -> list[Piece]:
    """The original tensors of a part with these diffusers names.

    Raises:
        BaseModelError: if the original layout has no place for one, or two would have the same name.
    """
    if part == "unet":
        pieces = [Piece(original, (name,)) for name, original in unet_names(names).items()]
    elif part == "vae":
        pieces = vae_pieces(names)
    else:
        pieces = text_pieces(names, TOWERS[family][part])
    seen: dict[str, Piece] = {}
    for piece in pieces:
        if piece.original in seen:
            raise BaseModelError(
                f"{part}: {piece.diffusers[0]} and {seen[piece.original].diffusers[0]} would both be "
                f"{piece.original} in the original layout; write a diffusers folder (--format pipeline) in its place."
            )
        seen[piece.original] = piece
    return pieces


def pieces_in_file(part: str, names: Iterable[str], family: str) -> list[Piece]:
    """The tensors of a part among the names of a file in the original layout.

    Raises:
        BaseModelError: if diffusers has no place for one of the U-Net or the autoencoder.
    """
    if part == "unet":
        return [Piece(original, (name,)) for name, original in diffusers_unet_names(names).items()]
    return vae_pieces_in_file(names) if part == "vae" else text_pieces_in_file(names, TOWERS[family][part])


def unet_projections(names: Iterable[str]) -> dict[str, str]:
    """Diffusers name → name in the file of every weight that reads text and of the queries beside it, in its order.

    The queries do not read the text; their shapes tell whether a file is whole.

    Args:
        names: of all tensors of a file in the original layout; shapes are not needed.

    Raises:
        BaseModelError: if the file's U-Net is none of Stable Diffusion's kind.
    """
    return diffusers_unet_names(names, ("attn2.to_q.weight", *TEXT_PROJECTIONS, POOLED_READER))


def text_prefixes(names: Iterable[str]) -> tuple[str, ...]:
    """What the names of each text encoder in a file begin with, the first encoder first; empty without any."""
    known = [tower.prefix for towers in TOWERS.values() for tower in towers.values()]
    found = {prefix for name in names for prefix in known if name.startswith(prefix)}
    return tuple(prefix for prefix in known if prefix in found)


def sgm_names(names: Iterable[str]) -> dict[str, str]:
    """Diffusers name → module name with underscores (``input_blocks_4_1_transformer_blocks_0_attn2_to_k``).

    LoRA files for SDXL name the U-Net's modules so.

    Args:
        names: of the U-Net's weights; of what reads the text alone where all resolutions have equally many residual
            blocks.

    Raises:
        BaseModelError: if the original layout has no place for one.
    """
    return {
        name: original.removeprefix(PREFIX).removesuffix(".weight").replace(".", "_")
        for name, original in unet_names(names).items()
    }


def to_original(parts: Mapping[str, Weights], family: str) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(original name, tensor)`` of a whole model in diffusers' layout, one tensor in memory at a time.

    Args:
        parts: ``unet``, ``vae``, ``text_encoder`` and, of SDXL, ``text_encoder_2`` → their weights.
        family: ``sd1``, ``sd2`` or ``sdxl``.

    Raises:
        BaseModelError: before the first tensor of a part, if the original layout has no place for one.
    """
    for part in PARTS[family]:
        pieces = pieces_of(part, parts[part].shapes(), family)
        # One reading for the whole part: every new one opens its files again.
        stored = parts[part].read(name for piece in pieces for name in piece.diffusers)
        for piece in pieces:
            yield piece.original, piece.to_original([tensor for _, tensor in islice(stored, len(piece.diffusers))])


class ToDiffusers:
    """Tensors of a file in the original layout, read under their diffusers names. They are ``Weights`` themselves.

    Args:
        weights: of the file.
        pieces: of the part, as in :func:`pieces_in_file`.
    """

    def __init__(self, weights: Weights, pieces: Iterable[Piece]) -> None:
        self._weights, self.where = weights, weights.where
        self._pieces = {name: piece for piece in pieces for name in piece.diffusers}

    def shapes(self) -> dict[str, Shape]:
        stored = self._weights.shapes()
        return {name: piece.diffusers_shape(stored[piece.original]) for name, piece in self._pieces.items()}

    def dtypes(self) -> dict[str, str]:
        dtypes = self._weights.dtypes()
        return {name: dtypes[piece.original] for name, piece in self._pieces.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        wanted = list(names)
        stored = self._weights.read(self._pieces[name].original for name in wanted)
        for name, (_, tensor) in zip(wanted, stored, strict=True):
            yield name, dict(self._pieces[name].to_diffusers(tensor))[name]
