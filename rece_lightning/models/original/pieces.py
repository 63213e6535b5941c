"""One tensor of the original layout and what it is in diffusers: a renaming, and sometimes another form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError

Form = Literal["same", "convolution", "transposed", "joined"]
"""How the original tensor stands to those of diffusers: equal; ``[o, i, 1, 1]`` of ``[o, i]``; ``[i, o]`` of
``[o, i]``; ``[3 o, …]``, the rows of three one below the other."""

Shape = tuple[int, ...]
NUMBER = re.compile("[0-9]{1,3}")


@dataclass(frozen=True)
class Piece:
    """A tensor of the original layout."""

    original: str
    diffusers: tuple[str, ...]
    """One name; of ``joined`` three."""
    form: Form = "same"

    def diffusers_shape(self, shape: Shape) -> Shape:
        """From the original shape; the three of ``joined`` are equal."""
        if self.form == "joined":
            return (*(rows // 3 for rows in shape[:1]), *shape[1:])
        if self.form == "transposed":
            return shape[::-1]
        return shape[:2] if self.form == "convolution" else shape

    def to_original(self, tensors: list[Tensor]) -> Tensor:
        """The original tensor, from those of diffusers in the order of their names."""
        if self.form == "joined":
            return torch.cat(tensors)
        if self.form == "transposed":
            return tensors[0].T.contiguous()
        return tensors[0][:, :, None, None] if self.form == "convolution" else tensors[0]

    def to_diffusers(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors of diffusers, from the original one."""
        if self.form == "joined":
            yield from zip(self.diffusers, tensor.chunk(3), strict=True)
        elif self.form == "transposed":
            yield self.diffusers[0], tensor.T.contiguous()
        elif self.form == "convolution":
            # Some files hold them as [o, i] already, or with one trailing axis.
            yield self.diffusers[0], tensor.reshape(tensor.shape[:2])
        else:
            yield self.diffusers[0], tensor


def by_prefix(table: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """The longest dotted prefix of ``name`` in the table, translated, and what follows it."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in table:
            return table[prefix], ".".join(parts[end:])
    return None


def split_name(part: str, table: Mapping[str, str], name: str, whole: str = "") -> tuple[str, str]:
    """:func:`by_prefix` of a name, which is that of ``whole`` where it is the rest of one.

    Raises:
        BaseModelError: if the table has no prefix of it.
    """
    split = by_prefix(table, name)
    if split is None:
        raise no_counterpart(part, whole or name)
    return split


def numbers(names: Iterable[str], before: str, after: str = "") -> list[int]:
    """The numbers that stand in names between ``before`` and ``.after``.

    Above 999 they are passed over: a file could name layers without end.
    """
    inner = (name[len(before) :].partition(".") for name in names if name.startswith(before))
    return sorted({int(number) for number, _, rest in inner if NUMBER.fullmatch(number) and rest.startswith(after)})


def no_counterpart(part: str, name: str) -> BaseModelError:
    """The error for a tensor that has a name in one of the layouts only."""
    return BaseModelError(
        f"{part}: {name} has no counterpart between diffusers and the original layout of Stable Diffusion 1.x, 2.x "
        "and XL; work with this model as a diffusers folder (--model.pretrained FOLDER, --format pipeline)."
    )
