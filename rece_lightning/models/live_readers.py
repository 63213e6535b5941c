"""What of a model in memory reads the text, and can be edited where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from rece_lightning.models.layers import LiveLayer, algebra_device, check_weight
from rece_lightning.models.text_space import TextSpace


class LiveReaders:
    """The layers of a module that read text, whatever lies around them.

    Args:
        module: in memory; it holds everything that is edited, under the names that are used here.
        spaces: what it reads its text from; readers under their plain names, whatever lies around them.
        layers: reader → its layer.
        field: where it was found, for messages.
        weights: in place of its own, under the same names.

    Raises:
        ConfigurationError: if a reader is offloaded or quantized.
    """

    def __init__(
        self,
        module: nn.Module,
        spaces: tuple[TextSpace, ...],
        layers: Mapping[str, LiveLayer],
        field: str,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.module, self.spaces, self.field, self._layers = module, spaces, field, dict(layers)
        parameters = {**dict(module.named_parameters()), **(weights or {})}
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
