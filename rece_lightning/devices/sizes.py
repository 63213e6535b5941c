"""What the parts of a model need, read from file headers and configurations: nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rece_lightning.core.factored import pays
from rece_lightning.devices.plan import Need
from rece_lightning.models.base import BaseModel
from rece_lightning.models.folder import part_weights
from rece_lightning.models.part_configs import read_json, read_parts
from rece_lightning.models.pickled import file_weights

LOADED = 4
"""Bytes a parameter: encoders and pipelines are loaded in float32."""
ENCODED = 64
"""Prompts that are encoded together."""
STATES = 14
"""Hidden states that a text encoder keeps beside one a layer."""
UNET_MAPS = 28
"""Feature maps of the size of its first ones that a U-Net holds at most, with attention in one piece."""
TRANSFORMER_MAPS = 16
"""States of all tokens that a block of a transformer holds at most, with attention in one piece."""
LONGEST, CANVAS = 512, 4096
"""Tokens of a text at most, and of a picture where the configuration does not say: 1,024 pixels."""
AUTOENCODER_MAPS = 9
"""The same of a decoder's last ones."""
KEPT_MATRICES, WORKING_MATRICES = 16, 24
"""``d × d`` matrices in float64 that stay (moments, Gram, maps), and more during an epoch and its measurements."""
ROWS_IN_FACTORS, KEPT_ROWS, WORKING_ROWS = 1536, 9, 8
"""Of a space whose matrices stay in factors: rows of three prompts of 512 tokens, and how many such ``[n, d]``."""
KEPT_PER_LAYER, WORKING_PER_LAYER, KEPT_PER_PROMPT = 7, 6, 16
"""The same for every layer and every erased prompt for an editor that is ``per_layer``."""
DRAWING = ("denoise", "decode")
"""Phases in which pictures are made: U-Net and autoencoder take turns in a batch, so both must be there."""


def needs_of(base: BaseModel, names: Sequence[str], *, batch_size: int, apart: int | None = None) -> dict[str, Need]:
    """What every part asks of its device, the part that profits most from an accelerator first.

    Weights are exact. What the parts need while they work is estimated from shapes
    (``tests/devices/test_placement_sizes.py`` counts it).

    Args:
        base: the model.
        names: of the projections that are edited.
        batch_size: pictures that are made together.
        apart: number of erased prompts where the algebra keeps matrices for every layer and prompt.

    Raises:
        BaseModelError: for a configuration that cannot be read.
    """
    denoiser, vae, text = part_configs(base)
    kept, working = algebra(base, names, apart)
    autoencoder = LOADED * _numbers(autoencoder_shapes(base)) if vae else 0
    encoders = LOADED * sum(_numbers(weights.shapes()) for weights in base.text)
    needs = [
        Need("unet", LOADED * base.parameters, denoising(denoiser, batch_size), "denoise", DRAWING),
        Need("autoencoder", autoencoder, decoding(denoiser, vae, batch_size), "decode", DRAWING),
        Need("text_encoder", encoders, sum(encoding(config) for config in text), "encode", ("encode",)),
        Need("algebra", kept, working + largest_layer(base, names), "edit"),
    ]
    return {need.part: need for need in needs}


def part_configs(base: BaseModel) -> tuple[Mapping[str, Any], Mapping[str, Any], list[Mapping[str, Any]]]:
    """Configurations of the denoiser, of the autoencoder and of every text encoder.

    Some families have their autoencoder elsewhere: it is empty then. Of several denoisers it is the first one's.
    """
    folder = base.configurations
    if base.denoisers:
        denoiser, _ = next(iter(base.denoisers.values()))
        named = read_parts(folder)
        vae = read_json(folder / "vae" / "config.json") if "vae" in named else {}
    else:
        denoiser, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    return denoiser, vae, [read_json(folder / part / "config.json") for part in base.encoders]


def algebra(base: BaseModel, names: Sequence[str], apart: int | None = None) -> tuple[int, int]:
    """Bytes of matrices that stay, in every text space that is edited, and more while an epoch works on the widest one.

    A space without a reader among ``names`` has no matrices: of what may be edited in place of another one is.
    """
    kept = working = 0
    for space in base.spaces:
        if not space.readers.keys() & set(names):
            continue
        outputs = sum(reader.shape[0] for reader in space.readers.values())
        if apart is None and pays(space.width, outputs):
            rows = ROWS_IN_FACTORS
            kept += 8 * space.width * (outputs + KEPT_ROWS * rows)
            working = max(working, 8 * (3 * outputs**2 + space.width * (2 * outputs + WORKING_ROWS * rows)))
            continue
        square = space.width**2 * 8
        layers = len(set(space.readers).intersection(names)) if apart is not None else 0
        kept += square * (KEPT_MATRICES + KEPT_PER_LAYER * layers + KEPT_PER_PROMPT * (apart or 0))
        working = max(working, square * (WORKING_MATRICES + WORKING_PER_LAYER * layers))
    return kept, working


def denoising(denoiser: Mapping[str, Any], batch_size: int) -> int:
    """Bytes that a denoiser with this configuration works in; with guidance every picture goes through it twice."""
    if "block_out_channels" in denoiser:
        maps, numbers = UNET_MAPS, _channels(denoiser) * _sample_size(denoiser) ** 2
    else:
        maps, numbers = TRANSFORMER_MAPS, _tokens(denoiser) * _width(denoiser)
    return LOADED * maps * 2 * batch_size * numbers


def decoding(denoiser: Mapping[str, Any], vae: Mapping[str, Any], batch_size: int) -> int:
    """Bytes that an autoencoder works in while it decodes what such a denoiser makes."""
    side = _sample_size(denoiser) * 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    return LOADED * AUTOENCODER_MAPS * batch_size * _channels(vae) * side**2


def encoding(text_encoder: Mapping[str, Any], prompts: int = ENCODED) -> int:
    """Bytes that a text encoder works in while it encodes so many prompts."""
    config = text_encoder.get("text_config") or text_encoder  # of a model that reads pictures too
    layers = config.get("num_hidden_layers") or config.get("num_layers") or 12
    positions = min(int(config.get("max_position_embeddings") or LONGEST), LONGEST)
    width = config.get("hidden_size") or config.get("d_model") or 0
    return LOADED * prompts * (int(layers) + STATES) * positions * int(width)


def shard_need(base: BaseModel, names: Sequence[str]) -> int:
    """Bytes that a device holds at most while it sums a share of the Gram: one layer, and the sum."""
    return largest_layer(base, names) + base.width**2 * 8


def largest_layer(base: BaseModel, names: Sequence[str]) -> int:
    """Bytes of the largest projection in float64."""
    return 8 * max((math.prod(base.projections[name]) for name in names), default=0)


def autoencoder_shapes(base: BaseModel) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the autoencoder's weights."""
    if base.layout == "folder":
        return part_weights(base.path, "vae", base.variant).shapes()
    return {
        name: shape for name, shape in file_weights(base.path).shapes().items() if name.startswith("first_stage_model.")
    }


def _numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _channels(config: Mapping[str, Any]) -> int:
    return int(config.get("block_out_channels", [0])[0])


def _sample_size(config: Mapping[str, Any]) -> int:
    size = config.get("sample_size") or 64
    return max(size) if isinstance(size, list) else int(size)


def _tokens(transformer: Mapping[str, Any]) -> int:
    patch = transformer.get("patch_size") or 1
    side = _sample_size(transformer) // int(patch[-1] if isinstance(patch, list) else patch)
    return LONGEST + (side**2 if transformer.get("sample_size") else CANVAS)


def _width(transformer: Mapping[str, Any]) -> int:
    heads, each = (transformer.get(key) or 0 for key in ("num_attention_heads", "attention_head_dim"))
    return int(heads * each or transformer.get("hidden_size") or transformer.get("dim") or 0)
