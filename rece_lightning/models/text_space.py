"""A space of embeddings that a denoiser reads its text from, and the weights that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.core.method import FIELD, Method, check_layers

TEXT, POOLED = "text", "pooled"


@dataclass(frozen=True)
class Reader:
    """A weight that reads a text space: a linear map whose input is text, or some columns of whose input are."""

    shape: tuple[int, ...]
    """``[o, i]`` of the whole weight, as it is stored."""
    columns: tuple[int, int] | None = None
    """First and one past the last column of its input that are the text's; all of them unless given."""
    kind: str = ""
    """``k`` or ``v`` of a cross-attention's key or value, which can be edited apart; empty for another reader."""

    def part(self, weight: Tensor) -> Tensor:
        """The columns that read the text, ``[o, d]``, of the whole weight ``[o, i]``."""
        return weight if self.columns is None else weight[:, self.columns[0] : self.columns[1]]

    def whole(self, weight: Tensor, part: Tensor) -> Tensor:
        """The whole weight ``[o, i]`` with other columns ``[o, d]`` for the text; the others stay bit for bit."""
        if self.columns is None:
            return part
        changed = weight.to(part.device, copy=True)
        changed[:, self.columns[0] : self.columns[1]] = part
        return changed

    def padded(self, factor: Tensor) -> Tensor:
        """A LoRA's down-projection ``[r, d]`` for the whole input, ``[r, i]``: zero where the input is no text."""
        if self.columns is None:
            return factor
        wide = torch.zeros(len(factor), self.shape[1], dtype=factor.dtype)
        wide[:, self.columns[0] : self.columns[1]] = factor
        return wide


@dataclass(frozen=True)
class TextSpace:
    """One space of text embeddings with everything that reads it.

    An edit of all readers of a space, each times the same ``M`` from the right, equals feeding ``M c`` for every
    embedding ``c``: so the erasure is solved a space, and nothing of the text gets around it where the readers of all
    spaces are edited.
    """

    name: str
    """``text`` for the rows that cross-attention reads, ``pooled`` for SDXL's one row a prompt."""
    width: int
    """``d``."""
    readers: Mapping[str, Reader]
    """Parameter name → what of it reads the space, in the order in which ``G`` sums them: sorted by name."""

    @property
    def names(self) -> list[str]:
        """Parameter names of the readers."""
        return list(self.readers)


def edited_spaces(spaces: Sequence[TextSpace], method: Method) -> tuple[TextSpace, ...]:
    """What a method edits of a model's spaces: what its ``spaces``, ``projections`` and ``layers`` leave.

    Raises:
        ConfigurationError: for a space that the model has not, and where nothing is left to edit.
    """
    names = [space.name for space in spaces]
    for name in method.spaces or ():
        if name not in names:
            raise ConfigurationError(f"{FIELD}.spaces: this model has no text space {name!r}; {nearest(name, names)}.")
    pattern = check_layers(method.layers)
    chosen = []
    for space in spaces:
        if method.spaces is not None and space.name not in method.spaces:
            continue
        readers = {
            name: reader
            for name, reader in space.readers.items()
            if (not reader.kind or reader.kind in method.projections) and pattern.search(name)
        }
        if readers:
            chosen.append(replace(space, readers=readers))
    missing = [name for name in method.spaces or () if name not in [space.name for space in chosen]]
    if missing or not chosen:
        every = [name for space in spaces for name in space.readers]
        examples = "\n  ".join(every[:: max(1, len(every) // 4)][:4])
        where = f" of the space {missing[0]!r}" if missing else ""
        raise ConfigurationError(
            f"{FIELD}.layers: {method.layers!r} matches no projection{where}; "
            f"write a part of one of them, for example:\n  {examples}"
        )
    return tuple(chosen)


def untouched(spaces: Sequence[TextSpace], edited: Sequence[TextSpace]) -> dict[str, TextSpace]:
    """Name of an edited space → its readers that are not edited; a space that has none is left out."""
    readers_edited = {space.name: space.readers for space in edited}
    rest = {}
    for space in spaces:
        gone = readers_edited.get(space.name, space.readers)
        readers = {name: reader for name, reader in space.readers.items() if name not in gone}
        if readers:
            rest[space.name] = replace(space, readers=readers)
    return rest
