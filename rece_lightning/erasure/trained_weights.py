"""Weights that were trained rather than edited, as exports take them: the same questions as of an :class:`Erasure`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.erasure import ErasedSpace, Erasure, check_finite
from rece_lightning.erasure.rounding import Rounding
from rece_lightning.models.base import BaseModel
from rece_lightning.models.single_file import whole_unet
from rece_lightning.models.weights import Weights


@dataclass(frozen=True)
class TrainedWeights:
    """What a baseline made of a model: parameters of its denoiser, whatever they do."""

    base: BaseModel
    tensors: Mapping[str, Tensor] = field(repr=False)
    """Name in the denoiser → tensor, as it was trained."""
    description: dict[str, Any] = field(default_factory=dict)
    """Base, fingerprint, concepts, method, epochs and version: what a file says of itself."""
    run: Path | None = None
    """The run's folder, where its measurements lie."""
    spaces: tuple[ErasedSpace, ...] = ()
    """None: no map on embeddings makes these weights."""

    @property
    def names(self) -> list[str]:
        """Parameter names of what was trained."""
        return list(self.tensors)

    @property
    def concepts(self) -> list[str]:
        """The prompts that were erased."""
        return [row["prompt"] for row in self.description.get("concepts", {}).get("erased", [])]

    def check_fits(self) -> None:
        """Refuse tensors that the base has no place for.

        Raises:
            ConfigurationError: naming the first.
        """
        shapes = self._stored.shapes()
        for name, tensor in self.tensors.items():
            if shapes.get(name) != tuple(tensor.shape):
                raise ConfigurationError(
                    f"ckpt_path: {name} {list(tensor.shape)} has no place in {self.base.name}; give the base that it "
                    "was trained on."
                )

    def original(self) -> Iterator[tuple[str, Tensor]]:
        """The weights before the training: ``(name, tensor)`` in the stored dtype, one at a time."""
        yield from self._stored.read(self.names)

    def weights(self, rounding: Rounding | None = None) -> Iterator[tuple[str, Tensor]]:
        """The parameters after the training, in the stored dtype, rounded once, one at a time.

        Args:
            rounding: counts what that takes.

        Raises:
            ConfigurationError: for values that the stored dtype cannot hold.
        """
        for name, stored in self.original():
            exact = self.tensors[name].detach().to("cpu").double()
            rounded = exact.to(stored.dtype)
            check_finite({name: rounded})
            if rounding is not None:
                rounding.add(stored.double(), exact, rounded)
            yield name, rounded

    @property
    def _stored(self) -> Weights:
        # Of a checkpoint file the base knows what reads text alone.
        return whole_unet(self.base.path) if self.base.layout == "single_file" else next(iter(self.base.parts.values()))


AnyErasure = Erasure | TrainedWeights
"""What exports write: an edit, or what a baseline trained."""


def baseline_of(description: Mapping[str, Any]) -> str | None:
    """Name of the baseline that trained what a description is of; ``None`` for an edit.

    Args:
        description: of a file or a checkpoint.
    """
    method = description.get("method")
    name = method.get("baseline") if isinstance(method, Mapping) else None
    return None if name is None else str(name)
