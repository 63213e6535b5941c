"""A denoiser in memory: what of it reads the text, and whether it can be edited where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.families.unet import unet_spaces
from rece_lightning.models.text_space import TextSpace

WRAPPED = (".attn2.to_k.base_layer.", ".attn2.to_v.base_layer.", ".add_embedding.linear_1.base_layer.")
"""How the parameters of a reader are called once peft has put a LoRA around it."""


class LiveUnet:
    """A U-Net in memory whose readers can be edited in place.

    Args:
        unet: any module whose cross-attention is called ``attn2``, as in diffusers.
        field: where it was found, for messages.
        pooled: width of the pooled embedding that the text encoder makes, where it makes one.
        weights: in place of its own, such as those of a checkpoint that is about to be written.

    Raises:
        ConfigurationError: if nothing in it reads text, or a reader cannot be edited where it lies: offloaded,
            quantized, or inside a LoRA.
    """

    def __init__(
        self, unet: nn.Module, field: str, pooled: int | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        self.unet, self.field = unet, field
        parameters: dict[str, Tensor] = dict(unet.named_parameters())
        check_plain(parameters, field)
        parameters |= {name: weight for name, weight in (weights or {}).items() if name in parameters}
        shapes = {name: tuple(weight.shape) for name, weight in parameters.items()}
        keys = (shape for name, shape in shapes.items() if ".attn2.to_k." in f".{name}" and len(shape) == 2)
        config = getattr(unet, "config", None)
        kind = config.get("addition_embed_type") if isinstance(config, Mapping) else None
        pooled = pooled if kind == "text_time" else None
        self.spaces: tuple[TextSpace, ...] = unet_spaces(shapes, next(keys, (0, 0))[1], pooled)
        """What it reads its text from."""
        self._weights = {name: parameters[name].detach() for space in self.spaces for name in space.readers}
        if not self._weights:
            raise ConfigurationError(f"{field}: no cross-attention that reads the text (attn2.to_k) in it.")
        for name, weight in self._weights.items():
            check_weight(f"{field}: {name}", weight)

    @property
    def names(self) -> list[str]:
        """Parameter names of everything that reads text."""
        return list(self._weights)

    def read_projections(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Views of the parameters, whole."""
        for name in names:
            yield name, self._weights[name]

    def read_space(self, space: TextSpace) -> Iterator[tuple[str, Tensor]]:
        """What of a space's readers reads the text, ``[o, d]``."""
        for name, weight in self.read_projections(space.names):
            yield name, space.readers[name].part(weight)

    @property
    def algebra_device(self) -> torch.device:
        """Where the float64 algebra runs: beside the weights, on the CPU where the device has no float64."""
        device = next(iter(self._weights.values())).device
        try:
            torch.zeros(1, dtype=torch.float64, device=device)
        except (TypeError, RuntimeError, NotImplementedError):  # mps says TypeError
            return torch.device("cpu")
        return device


def check_plain(parameters: Mapping[str, Any], field: str) -> None:
    """Refuse a U-Net whose text projections lie inside something else."""
    wrapped = [name for name in parameters if any(part in f".{name}" for part in WRAPPED)]
    if wrapped:
        raise ConfigurationError(
            f"{field}: a LoRA lies around {wrapped[0].split('.base_layer.')[0]}; editing what is inside would leave "
            "out what the LoRA adds. Fuse it (pipeline.fuse_lora(), then pipeline.unload_lora_weights()) or unload it."
        )
    fused = [name for name in parameters if ".attn2.to_kv." in f".{name}"]
    if fused:
        raise ConfigurationError(
            f"{field}: keys and values are fused ({fused[0]}); call pipeline.unfuse_qkv_projections() first."
        )


def check_weight(where: str, weight: Tensor) -> None:
    """Refuse a weight that cannot be edited where it lies."""
    if weight.is_meta:
        raise ConfigurationError(
            f"{where} is offloaded (on the device meta), so there is nothing here to edit; erase before "
            "pipeline.enable_sequential_cpu_offload(), or use pipeline.enable_model_cpu_offload()."
        )
    if not weight.is_floating_point() or weight.element_size() < 2 or weight.ndim != 2:
        raise ConfigurationError(
            f"{where} is {weight.dtype} {list(weight.shape)}; quantized weights cannot be edited, load "
            "the model in float32, bfloat16 or float16."
        )


def pooled_width_of(pipeline: Any) -> int | None:
    """Width of the pooled embedding that a pipeline's second text encoder makes; ``None`` without one."""
    config = getattr(getattr(pipeline, "text_encoder_2", None), "config", None)
    width = getattr(config, "projection_dim", None)
    return width if isinstance(width, int) else None
