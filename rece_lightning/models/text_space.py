"""A space of embeddings that a denoiser reads its text from, and the weights that read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.core.method import FIELD, Method, check_layers

TEXT, POOLED, ENTRY = "text", "pooled", "entry"


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
    source: str = ""
    """Which rows of the text encoders they are; those of its own name unless given."""
    before: tuple[str, ...] = ()
    """Modules of the denoiser that the encoder's rows pass before a reader: a norm, a projector."""
    instead_of: str | None = None
    """Name of the space in whose place this one may be edited: reading the same text at another point."""
    component: str | None = None
    """Part of the pipeline whose modules the rows pass; its only denoiser unless given."""

    @property
    def names(self) -> list[str]:
        """Parameter names of the readers."""
        return list(self.readers)


def home_of(name: str, parts: Collection[str]) -> tuple[str, str]:
    """The denoiser that a reader lies in, and how it is called there: of several, names begin with the part's.

    Args:
        name: of the reader's parameter.
        parts: names of the denoisers.
    """
    if len(parts) == 1:
        return next(iter(parts)), name
    part, _, own = name.partition(".")
    return part, own


def edited_spaces(spaces: Sequence[TextSpace], method: Method) -> tuple[TextSpace, ...]:
    """What a method edits of a model's spaces: what its ``spaces``, ``projections`` and ``layers`` leave.

    Raises:
        ConfigurationError: for a space that the model has not, and where nothing is left to edit.
    """
    names = [space.name for space in spaces]
    for name in method.spaces or ():
        if name not in names:
            none = " (the first map of a projector; this model has none before its readers)" if name == ENTRY else ""
            raise ConfigurationError(
                f"{FIELD}.spaces: this model has no text space {name!r}{none}; {nearest(name, names)}."
            )
    pattern = check_layers(method.layers)
    chosen = []
    for space in spaces:
        # What another space may be edited in place of is edited when it is asked for.
        if space.name not in method.spaces if method.spaces is not None else space.instead_of is not None:
            continue
        readers = {
            name: reader
            for name, reader in space.readers.items()
            if (not reader.kind or reader.kind in method.projections) and pattern.search(name)
        }
        if readers:
            chosen.append(replace(space, readers=readers))
    _check_once(chosen)
    if method.projections != "kv":
        _check_kinds(spaces, method)
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


def edits_values(spaces: Sequence[TextSpace], method: Method) -> bool:
    """Whether a method edits values of a cross-attention, which can be edited without its keys.

    Raises:
        ConfigurationError: as :func:`edited_spaces` does.
    """
    return any(one.kind == "v" for space in edited_spaces(spaces, method) for one in space.readers.values())


def _check_once(chosen: Sequence[TextSpace]) -> None:
    """Refuse to edit the same text at two points, one behind the other."""
    names = [space.name for space in chosen]
    for space in chosen:
        if space.instead_of in names:
            raise ConfigurationError(
                f"{FIELD}.spaces: {space.name} is read before {space.instead_of}, by what makes it; edit one of "
                "the two."
            )


def _check_kinds(spaces: Sequence[TextSpace], method: Method) -> None:
    """Refuse to take keys or values alone where a model reads its text with neither."""
    wanted = [space for space in spaces if method.spaces is None or space.name in method.spaces]
    if wanted and not any(reader.kind for space in wanted for reader in space.readers.values()):
        readers = [name for space in wanted for name in space.readers]
        raise ConfigurationError(
            f"{FIELD}.projections: {method.projections!r}: this model reads its text with {readers[0]}, which is "
            "neither key nor value, and everything behind it mixes text and picture; leave the setting at kv."
        )


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
