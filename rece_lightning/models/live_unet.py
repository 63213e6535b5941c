"""A denoiser in memory: what of it reads the text, and whether it can be edited where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.beside import together
from rece_lightning.models.families.unet import is_reader, text_projection, unet_spaces
from rece_lightning.models.families.unet_ways import other_way
from rece_lightning.models.layers import LiveLayer, live_layers, plain_path
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.text_space import TextSpace

Part = tuple[tuple[TextSpace, ...], dict[str, LiveLayer]]
"""The text spaces of one module, and its readers' layers by their plain names."""


class LiveUnet(LiveReaders):
    """A U-Net in memory whose readers can be edited in place.

    Args:
        unet: any module whose cross-attention is called ``attn2``, as in diffusers.
        field: where it was found, for messages.
        pooled: width of the pooled embedding that the text encoder makes, where it makes one.
        weights: in place of its own, such as those of a checkpoint that is about to be written, under the same names.
        beside: path → a module beside it that reads the same text; names of what is in it begin with the path.

    Raises:
        ConfigurationError: if nothing in it reads text, text reaches it by a way that is not edited, or a reader
            cannot be edited where it lies: offloaded, quantized, fused, or inside an adapter that is no plain LoRA.
    """

    def __init__(
        self,
        unet: nn.Module,
        field: str,
        pooled: int | None = None,
        weights: Mapping[str, Tensor] | None = None,
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        if "Transformer" in type(unet).__name__:
            raise ConfigurationError(
                f"{field}: a {type(unet).__name__} is no U-Net, which is what Erase edits while it trains; train "
                "without it, and erase from the pipeline that is saved (rece fit, or rece_lightning.erase)."
            )
        parts = {"": live_part(unet, field, pooled, weights or {})} | {
            f"{path}.": live_part(module, f"{field} with {path}", pooled, {}) for path, module in (beside or {}).items()
        }
        spaces = joined_spaces({before: spaces for before, (spaces, _) in parts.items()})
        if not spaces[0].readers:
            raise ConfigurationError(f"{field}: no cross-attention that reads the text (attn2.to_k) in it.")
        layers = {
            f"{before}{name}": within(before, layers[name])
            for before, (spaces, layers) in parts.items()
            for space in spaces
            for name in space.readers
        }
        super().__init__(together(unet, beside or {}), spaces, layers, field, weights)
        for space in self.spaces:
            check_width(field, space)


def live_part(module: nn.Module, field: str, pooled: int | None, weights: Mapping[str, Tensor]) -> Part:
    """What one module in memory reads its text with.

    Args:
        module: a U-Net or a ControlNet.
        field: where it was found, for messages.
        pooled: width of the pooled embedding that the text encoder makes, where it makes one.
        weights: in place of its own.

    Raises:
        ConfigurationError: if text reaches it by a way that is not edited, or a reader is no linear layer.
    """
    parameters = {**dict(module.named_parameters()), **weights}
    shapes, config = described(module, parameters)
    reads_pooled = config.get("addition_embed_type") == "text_time"
    way = other_way(shapes, config) or unregistered(module)
    if way is None and reads_pooled and pooled is None:
        way = "add_embedding, which reads a pooled embedding that no text_encoder_2 makes; give that one too"
    if way is not None:
        raise ConfigurationError(
            f"{field}: text reaches it by {way}. An edit of the cross-attention would leave that as it is."
        )
    layers = live_layers(module, lambda name: is_reader(name, shapes, config), field)
    shapes |= {name: tuple(parameters[layer.weight].shape) for name, layer in layers.items()}
    keys = (shapes[name] for name in layers if text_projection(name, shapes, config) == "k" and len(shapes[name]) == 2)
    return unet_spaces(shapes, next(keys, (0, 0))[1], pooled if reads_pooled else None, config), layers


def described(
    module: nn.Module, parameters: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[int, ...]], Mapping[str, Any]]:
    """Shapes of a module's parameters by their plain names, and its configuration where it has one."""
    config = getattr(module, "config", None)
    shapes = {plain_path(name): tuple(weight.shape) for name, weight in parameters.items()}
    return shapes, config if isinstance(config, Mapping) else {}


def reader_layers(module: nn.Module, field: str) -> dict[str, LiveLayer]:
    """The layers of everything in a U-Net that reads text, by their plain names.

    Raises:
        ConfigurationError: if one does not compute with a weight of its own.
    """
    shapes, config = described(module, dict(module.named_parameters()))
    return live_layers(module, lambda name: is_reader(name, shapes, config), field)


def unregistered(module: nn.Module) -> str | None:
    """An attention processor that keeps weights outside of the module, where no name leads to them."""
    for name, part in module.named_modules():
        processor = getattr(part, "processor", None)
        if processor is None or isinstance(processor, nn.Module):
            continue
        if any(isinstance(value, (Tensor, nn.Module)) for value in getattr(processor, "__dict__", {}).values()):
            return f"the processor of {name}, a {type(processor).__name__} with weights of its own"
    return None


def within(before: str, layer: LiveLayer) -> LiveLayer:
    """A layer whose parameters' names begin with something."""
    loras = {name: (before + down, before + up) for name, (down, up) in layer.loras.items()}
    return replace(layer, weight=before + layer.weight, loras=loras)


def joined_spaces(parts: Mapping[str, Sequence[TextSpace]]) -> tuple[TextSpace, ...]:
    """The spaces of several modules that read the same text, the first one's first.

    Args:
        parts: what the names of a module's parameters begin with → its spaces.
    """
    joined: dict[str, TextSpace] = {}
    for before, spaces in parts.items():
        for space in spaces:
            readers = {f"{before}{name}": reader for name, reader in space.readers.items()}
            first = joined.get(space.name, replace(space, readers={}))
            joined[space.name] = replace(first, readers={**first.readers, **readers})
    return tuple(joined.values())


def check_width(field: str, space: TextSpace) -> None:
    """Refuse readers of one space that read embeddings of different widths."""
    for name, reader in space.readers.items():
        read = reader.shape[1] if reader.columns is None else reader.columns[1] - reader.columns[0]
        if read != space.width:
            raise ConfigurationError(
                f"{field}: {name} reads embeddings {read} wide, the others {space.width}; give parts that belong "
                "together."
            )


def pooled_width_of(pipeline: Any) -> int | None:
    """Width of the pooled embedding that a pipeline's second text encoder makes; ``None`` without one."""
    config = getattr(getattr(pipeline, "text_encoder_2", None), "config", None)
    width = getattr(config, "projection_dim", None)
    return width if isinstance(width, int) else None
