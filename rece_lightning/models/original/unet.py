"""The U-Net's names: diffusers' blocks ↔ the numbered input, middle and output blocks of the original.

The original numbers its layers in one row. With ``n`` residual blocks at a resolution, ``input_blocks`` has ``n``
entries for it and one for the downsampler that follows, after entry 0, which is ``conv_in``. ``output_blocks`` has
``n + 1`` entries, the last of them with the upsampler. Entry ``.0`` is the residual block, ``.1`` the transformer
where there is one, and the upsampler has the next number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from rece_lightning.models.original.pieces import no_counterpart, numbers, split_name

PREFIX = "model.diffusion_model."

FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
# SDXL adds its sizes and pooled text where other models add a class.
ADDED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
CLASS = {
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TRANSFORMER = frozenset({"norm", "proj_in", "transformer_blocks", "proj_out"})
"""Modules of a transformer; within them both layouts use the same names and forms."""


def _table_of_diffusers(names: list[str]) -> dict[str, str]:
    """Diffusers module → original module, from the names of parameters.

    Those of the transformers are enough where every resolution has equally many residual blocks, as in all published
    models.
    """
    down, up = (_counts(names, side) for side in ("down_blocks", "up_blocks"))
    attention = {i for i, n in enumerate(up) if numbers(names, f"up_blocks.{i}.attentions.")[-1:] == [n - 1]}
    return dict(_blocks(down, up, attention))


def _table_of_original(names: list[str]) -> dict[str, str]:
    """The same from the names of a file, without :data:`PREFIX`."""
    down = _runs(numbers(names, "input_blocks.", "0.op."), numbers(names, "input_blocks.")[-1:])
    ends = numbers(names, "output_blocks.", "1.conv.") + numbers(names, "output_blocks.", "2.conv.")
    last = [end + 1 for end in numbers(names, "output_blocks.")[-1:]]
    up = _runs(sorted(end + 1 for end in ends), last, gap=0)
    attention = numbers(names, "output_blocks.", "1.transformer_blocks.")
    return dict(_blocks(down, up, {i for i in range(len(up)) if sum(up[: i + 1]) - 1 in attention}))


def _blocks(down: tuple[int, ...], up: tuple[int, ...], with_attention: set[int]) -> Iterator[tuple[str, str]]:
    """``(diffusers module, original module)`` of everything in the blocks.

    Args:
        down: residual blocks of each resolution.
        up: the same on the way back.
        with_attention: up blocks whose last residual block is followed by a transformer, before the upsampler.
    """
    entry = 1
    for block, count in enumerate(down):
        for layer in range(count):
            yield f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{entry}.0"
            yield f"down_blocks.{block}.attentions.{layer}", f"input_blocks.{entry}.1"
            entry += 1
        yield f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{entry}.0.op"
        entry += 1
    entry = 0
    for block, count in enumerate(up):
        for layer in range(count):
            yield f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{entry}.0"
            yield f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{entry}.1"
            entry += 1
        place = 2 if block in with_attention else 1
        yield f"up_blocks.{block}.upsamplers.0.conv", f"output_blocks.{entry - 1}.{place}.conv"


def _counts(names: list[str], side: str) -> tuple[int, ...]:
    """Residual blocks of every block; those of which no name is given have as many as the largest."""
    counts = {}
    for block in numbers(names, f"{side}."):
        layers = [n for kind in ("resnets", "attentions") for n in numbers(names, f"{side}.{block}.{kind}.")]
        counts[block] = max(layers, default=-1) + 1
    return tuple(counts.get(block) or max(counts.values()) for block in range(max(counts, default=-1) + 1))


def _runs(ends: list[int], last: list[int], gap: int = 1) -> tuple[int, ...]:
    """Lengths of the runs that end before ``ends`` (and ``last`` + gap): what lies between two samplers."""
    bounds = [0, *ends, *(end + gap for end in last if not ends or end + gap > ends[-1])]
    return tuple(after - before - gap for before, after in pairwise(bounds))


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """Diffusers name → original name, with :data:`PREFIX`.

    Raises:
        BaseModelError: if the original layout has no place for one.
    """
    names = list(names)
    table = FIXED | ADDED | CLASS | _table_of_diffusers(names)
    return {name: PREFIX + _translate(table, name, RESNET) for name in names}


def diffusers_unet_names(names: Iterable[str], endings: tuple[str, ...] = ("",)) -> dict[str, str]:
    """Diffusers name → original name, for the names of a file with these endings; others than the U-Net's are left out.

    Raises:
        BaseModelError: if diffusers' U-Net has no place for one.
    """
    inner = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    labels = CLASS if "label_emb.weight" in inner else ADDED
    table = {original: name for name, original in (FIXED | labels | _table_of_original(inner)).items()}
    back = {original: name for name, original in RESNET.items()}
    return {_translate(table, name, back): PREFIX + name for name in inner if name.endswith(endings)}


def _translate(table: dict[str, str], name: str, resnet: dict[str, str]) -> str:
    module, rest = split_name("U-Net", table, name)
    # On one of the two sides the kind of a module is written out.
    both = f"{module} {name}"
    if ".resnets." in both:
        rest = ".".join(split_name("U-Net", resnet, rest, name))
    if ".attentions." in both and rest.split(".")[0] not in TRANSFORMER:
        raise no_counterpart("U-Net", name)
    return f"{module}.{rest}"
