"""A U-Net in memory: what of it reads the text, and whether it can be edited where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.families.unet import is_reader, unet_spaces
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.text_space import TextSpace


class LiveUnet(LiveReaders):
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
        config = getattr(unet, "config", None)
        kind = config.get("addition_embed_type") if isinstance(config, Mapping) else None

        def spaces(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TextSpace, ...]:
            keys = (shape for name, shape in shapes.items() if ".attn2.to_k." in f".{name}" and len(shape) == 2)
            found = unet_spaces(shapes, next(keys, (0, 0))[1], pooled if kind == "text_time" else None)
            if not found[0].readers:
                raise ConfigurationError(f"{field}: no cross-attention that reads the text (attn2.to_k) in it.")
            return found

        super().__init__(unet, is_reader, spaces, field, weights)


def pooled_width_of(pipeline: Any) -> int | None:
    """Width of the pooled embedding that a pipeline's second text encoder makes; ``None`` without one."""
    config = getattr(getattr(pipeline, "text_encoder_2", None), "config", None)
    width = getattr(config, "projection_dim", None)
    return width if isinstance(width, int) else None
