"""The result: what was edited of a model, in every text space, and how to take it back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.erasure.rounding import Rounding
from rece_lightning.erasure.undo import Undo
from rece_lightning.models.base import BaseModel
from rece_lightning.models.pipelines import put_weights
from rece_lightning.models.text_space import TextSpace


class ReadsWeights(Protocol):
    """Where the weights before the edit are: a base model on disk, or a module in memory."""

    def read_projections(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, weight [o, i])`` in the order asked for: what each reader multiplies with."""

    def read_parameters(self, names: list[str]) -> Iterator[tuple[str, str, Tensor]]:
        """Yield ``(reader, parameter, [o or r, i])``: what takes the edit of each reader, more than one with LoRAs."""


@dataclass(frozen=True)
class ErasedSpace:
    """One text space of a finished erasure."""

    space: TextSpace
    """With the readers that are edited alone."""
    maps: AnyMap
    gram: Gram
    """Of the original readers."""


@dataclass(frozen=True)
class Erasure:
    """A finished erasure. It knows no trainer and no data: the same for a run, a checkpoint or a live pipeline."""

    source: ReadsWeights
    spaces: tuple[ErasedSpace, ...]
    description: dict[str, Any] = field(default_factory=dict)
    """Base, fingerprint, concepts, method, epochs and version: what a file says of itself."""
    run: Path | None = None
    """The run's folder, where its measurements lie."""

    @property
    def base(self) -> BaseModel:
        """The base model.

        Raises:
            ConfigurationError: for an erasure of a pipeline in memory, of which no file is known.
        """
        if not isinstance(self.source, BaseModel):
            raise ConfigurationError("This erasure is of a pipeline in memory; save the pipeline itself.")
        return self.source

    @property
    def text(self) -> ErasedSpace:
        """The first text space: the rows that cross-attention reads, unless they were left out."""
        return self.spaces[0]

    @property
    def maps(self) -> dict[str, AnyMap]:
        """Text space → ``M``."""
        return {one.space.name: one.maps for one in self.spaces}

    @property
    def names(self) -> list[str]:
        """Parameter names of what is edited."""
        return list(dict.fromkeys(name for one in self.spaces for name in one.space.readers))

    def original(self) -> Iterator[tuple[str, Tensor]]:
        """The weights before the edit: ``(name, [o, i])`` in the stored dtype, one at a time."""
        yield from self.source.read_projections(self.names)

    def weights(self, rounding: Rounding | None = None) -> Iterator[tuple[str, Tensor]]:
        """The parameters after the edit: ``(name, [o, i])`` in the original's dtype, rounded once, one at a time.

        Args:
            rounding: counts what that takes.
        """
        edits: dict[str, list[tuple[ErasedSpace, int]]] = {}
        for one in self.spaces:
            for layer, name in enumerate(one.space.readers):
                edits.setdefault(name, []).append((one, layer))
        for read, name, weight in self.source.read_parameters(self.names):
            home = weight.device
            for one, layer in edits[read]:
                reader = one.space.readers[read]
                part = reader.part(weight)
                exact = one.maps.exactly(part, layer)
                rounded = exact.to(weight.dtype)
                if rounding is not None:
                    rounding.add(part, exact, rounded)
                weight = reader.whole(weight, rounded)
            yield name, weight.to(home)

    @property
    def concepts(self) -> list[str]:
        """The prompts that were erased."""
        return [row["prompt"] for row in self.description.get("concepts", {}).get("erased", [])]

    def change(self) -> float:
        """``‖ΔW‖/‖W‖`` over everything that is edited, in Frobenius norm."""
        changed = sum(float(one.maps.change_gram(one.gram).trace().clamp(min=0)) for one in self.spaces)
        return math.sqrt(changed / sum(float(one.gram.total.trace()) for one in self.spaces))

    def apply_(self, denoiser: nn.Module) -> Undo:
        """Put the edited weights into a module's parameters, in place.

        Args:
            denoiser: with parameters of these names.

        Returns:
            What takes it back.

        Raises:
            ConfigurationError: if an edited weight does not fit its dtype; then nothing was changed.
        """
        edited = dict(self.weights())
        check_finite(edited)
        original = {name: denoiser.get_parameter(name).detach().to("cpu", copy=True) for name in edited}
        put_weights(denoiser, edited)
        return Undo(denoiser, original)


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse edited weights that a narrow dtype cannot hold.

    Raises:
        ConfigurationError: naming the first.
    """
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ConfigurationError(
                f"{name}: the edited weights do not fit {weight.dtype}; give a larger lamb (λ₂), or a model in "
                "bfloat16 or float32."
            )


def erased_spaces(
    spaces: Sequence[TextSpace], maps: Mapping[str, AnyMap], grams: Mapping[str, Gram]
) -> tuple[ErasedSpace, ...]:
    """Spaces with their maps and Gram matrices."""
    return tuple(ErasedSpace(space, maps[space.name], grams[space.name]) for space in spaces)
