"""A denoiser in memory: what of it reads the text, and whether it can be edited where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.families.unet import is_reader, unet_spaces
from rece_lightning.models.layers import algebra_device, check_weight, live_layers
from rece_lightning.models.text_space import TextSpace


class LiveUnet:
    """A U-Net in memory whose readers can be edited in place.

    Args:
        unet: any module whose cross-attention is called ``attn2``, as in diffusers.
        field: where it was found, for messages.
        pooled: width of the pooled embedding that the text encoder makes, where it makes one.
        weights: in place of its own, such as those of a checkpoint that is about to be written, under the same names.

    Raises:
        ConfigurationError: if nothing in it reads text, or a reader cannot be edited where it lies: offloaded,
            quantized, fused, or inside an adapter that is no plain LoRA.
    """

    def __init__(
        self, unet: nn.Module, field: str, pooled: int | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        self.unet, self.field = unet, field
        self._layers = live_layers(unet, is_reader, field)
        parameters = {**dict(unet.named_parameters()), **(weights or {})}
        shapes = {name: tuple(parameters[layer.weight].shape) for name, layer in self._layers.items()}
        keys = (shape for name, shape in shapes.items() if ".attn2.to_k." in f".{name}" and len(shape) == 2)
        config = getattr(unet, "config", None)
        kind = config.get("addition_embed_type") if isinstance(config, Mapping) else None
        pooled = pooled if kind == "text_time" else None
        self.spaces: tuple[TextSpace, ...] = unet_spaces(shapes, next(keys, (0, 0))[1], pooled)
        """What it reads its text from; readers under their plain names, whatever lies around them."""
        if not self.spaces[0].readers:
            raise ConfigurationError(f"{field}: no cross-attention that reads the text (attn2.to_k) in it.")
        names = [name for space in self.spaces for name in space.readers]
        self._layers = {name: self._layers[name] for name in names}
        self._weights = {
            name: parameters[name].detach() for layer in self._layers.values() for name in layer.parameters
        }
        for name, weight in self._weights.items():
            check_weight(f"{field}: {name}", weight)

    @property
    def names(self) -> list[str]:
        """Names of the parameters that an edit of everything that reads text changes."""
        return [name for layer in self._layers.values() for name in layer.edited]

    @property
    def parameters(self) -> list[str]:
        """Names of all parameters that the readers compute with, a LoRA's up-projections too."""
        return list(self._weights)

    @property
    def adapted(self) -> list[str]:
        """Names of the readers that a LoRA lies around."""
        return [name for name, layer in self._layers.items() if layer.loras]

    def read_projections(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """What each of these readers multiplies with, whole: a view of its parameter, or with its LoRAs in float64."""
        for name in names:
            yield name, self._layers[name].amounts_to(self._weights)

    def read_parameters(self, names: Sequence[str]) -> Iterator[tuple[str, str, Tensor]]:
        """Views of the parameters that take the edit of these readers: ``(reader, parameter, [o or r, i])``."""
        for name in names:
            for parameter in self._layers[name].edited:
                yield name, parameter, self._weights[parameter]

    def read_space(self, space: TextSpace) -> Iterator[tuple[str, Tensor]]:
        """What of a space's readers reads the text, ``[o, d]``."""
        for name, weight in self.read_projections(space.names):
            yield name, space.readers[name].part(weight)

    @property
    def algebra_device(self) -> torch.device:
        """Where the float64 algebra runs: beside the weights, on the CPU where the device has no float64."""
        return algebra_device(next(iter(self._weights.values())))


def pooled_width_of(pipeline: Any) -> int | None:
    """Width of the pooled embedding that a pipeline's second text encoder makes; ``None`` without one."""
    config = getattr(getattr(pipeline, "text_encoder_2", None), "config", None)
    width = getattr(config, "projection_dim", None)
    return width if isinstance(width, int) else None
