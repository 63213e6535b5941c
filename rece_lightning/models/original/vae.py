"""The autoencoder's names, and its attention, whose weights are convolutions in the original."""

from __future__ import annotations

from collections.abc import Iterable

from rece_lightning.models.original.pieces import Piece, numbers, split_name

PREFIX = "first_stage_model."

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
# Folders that were written before diffusers 0.15 (Stable Diffusion 1.4's among them).
OLD_ATTENTION = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
SHORTCUT = ("conv_shortcut", "nin_shortcut")


def _table(up_blocks: int, down_blocks: int, layers: int) -> dict[str, str]:
    """Diffusers module → original module."""
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        table |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
        table[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        table |= {f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for i in range(2)}
        table[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
    for block in range(down_blocks):
        table |= {f"encoder.down_blocks.{block}.resnets.{i}": f"encoder.down.{block}.block.{i}" for i in range(layers)}
        table[f"encoder.down_blocks.{block}.downsamplers.0.conv"] = f"encoder.down.{block}.downsample.conv"
    for block in range(up_blocks):
        # The original counts the decoder's resolutions from the picture, diffusers from the latents.
        there = up_blocks - 1 - block
        table |= {f"decoder.up_blocks.{block}.resnets.{i}": f"decoder.up.{there}.block.{i}" for i in range(layers)}
        table[f"decoder.up_blocks.{block}.upsamplers.0.conv"] = f"decoder.up.{there}.upsample.conv"
    return table


def _piece(diffusers: str, original: str) -> Piece:
    form = ".attn_1." in original and ".norm." not in original and original.endswith(".weight")
    return Piece(PREFIX + original, (diffusers,), "convolution" if form else "same")


def vae_pieces(names: Iterable[str]) -> list[Piece]:
    """The original tensors of an autoencoder with these diffusers names.

    Raises:
        BaseModelError: if the original layout has no place for one.
    """
    names = list(names)
    ups, downs = numbers(names, "decoder.up_blocks."), numbers(names, "encoder.down_blocks.")
    table = _table(len(ups), len(downs), layers=_layers(names, "decoder.up_blocks.", ups, "resnets."))
    return [_piece(name, _translate(table, name, ATTENTION | OLD_ATTENTION, SHORTCUT)) for name in names]


def vae_pieces_in_file(names: Iterable[str]) -> list[Piece]:
    """The autoencoder's tensors among the names of a file, under their current diffusers names.

    Raises:
        BaseModelError: if diffusers' autoencoder has no place for one.
    """
    inner = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    inner = [name for name in inner if name.split(".")[0] in ("encoder", "decoder", "quant_conv", "post_quant_conv")]
    ups, downs = numbers(inner, "decoder.up."), numbers(inner, "encoder.down.")
    forward = _table(len(ups), len(downs), layers=_layers(inner, "decoder.up.", ups, "block."))
    table = {original: name for name, original in forward.items()}
    back = {original: name for name, original in ATTENTION.items()}
    return [_piece(_translate(table, name, back, SHORTCUT[::-1]), name) for name in inner]


def _translate(table: dict[str, str], name: str, attention: dict[str, str], shortcut: tuple[str, str]) -> str:
    module, rest = split_name("autoencoder", table, name)
    # On one of the two sides the attention is called so.
    if ".attn_1" in f"{module} {name}":
        rest = ".".join(split_name("autoencoder", attention, rest, name))
    return f"{module}.{rest.replace(*shortcut)}"


def _layers(names: list[str], before: str, blocks: list[int], kind: str) -> int:
    return max((n + 1 for block in blocks for n in numbers(names, f"{before}{block}.{kind}")), default=0)
