"""Named tensors of one part of a model, read one at a time, whatever file they lie in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.quantized import dtype_refused

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What an erasure computes with; other dtypes are quantized, or no weights."""
STORED = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# SDXL's largest files name 2,600 tensors in 400 KB. More would keep the reader busy for nothing.
LARGEST_HEADER = 16 << 20
MOST_TENSORS = 20_000


class Weights(Protocol):
    """What a part of a model holds. Tensors come in their stored dtype, on the CPU or where a live module has them."""

    where: str
    """Where they lie, for messages."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, without reading a tensor where the format allows."""

    def dtypes(self) -> dict[str, str]:
        """Names and dtypes as PyTorch calls them, or as the file does where PyTorch has none."""

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, tensor)`` in the order asked for."""


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, a piece at a time: the test makes copies of what it tests."""
    return all(bool(part.isfinite().all()) for part in tensor.reshape(-1).split(2**20))


class SafetensorsWeights:
    """Tensors of one safetensors file or of several shards.

    Raises:
        BaseModelError: if a file is damaged, cut short, or no safetensors file.
    """

    def __init__(self, *files: Path) -> None:
        self.files, self.where = files, str(files[0])
        self._homes: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}
        """Name → its first byte in its file, and one past the last."""
        for file in files:
            try:
                length = check_header(file)
                # As arrays: as tensors the whole file would be mapped for writing, which a machine with less memory
                # than that refuses.
                with safe_open(file, framework="np") as stored:
                    names = list(stored.keys())
                    check_count(file, len(names))
                with file.open("rb") as stream:
                    stream.seek(8)
                    header = json.loads(stream.read(length))
                for name in names:
                    said, start = header[name], 8 + length
                    self._homes[name], self._shapes[name] = file, tuple(said["shape"])
                    self._dtypes[name] = STORED.get(said["dtype"], said["dtype"])
                    self._places[name] = start + said["data_offsets"][0], start + said["data_offsets"][1]
            except (SafetensorError, OSError, ValueError) as error:
                if isinstance(error, BaseModelError):
                    raise
                raise BaseModelError(
                    f"model.pretrained: {file} is damaged, cut short or no safetensors file ({error}); fetch it again."
                ) from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def dtypes(self) -> dict[str, str]:
        return dict(self._dtypes)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """One tensor in memory at a time, from its place in the file: what lies around it is not touched."""
        for name in names:
            yield name, self._tensor(name)

    def _tensor(self, name: str) -> Tensor:
        kind = getattr(torch, self._dtypes[name], None)
        (first, last), shape = self._places[name], self._shapes[name]
        if not isinstance(kind, torch.dtype) or first == last:  # whatever else the format knows
            with safe_open(self._homes[name], framework="pt") as stored:
                tensor: Tensor = stored.get_tensor(name)
                return tensor
        with self._homes[name].open("rb") as stream:
            stream.seek(first)
            content = bytearray(last - first)
            if stream.readinto(content) < len(content):
                raise BaseModelError(f"model.pretrained: {self._homes[name]} was cut short; fetch it again.")
        return torch.frombuffer(content, dtype=kind).reshape(shape)


def check_header(file: Path) -> int:
    """Look at the length of a safetensors header before anything reads it, and return it.

    Raises:
        ValueError: if there is no such header, or it is larger than that of any model.
        OSError: if the file cannot be read.
    """
    # Reading a pipe would wait for ever.
    if not file.is_file():
        raise ValueError("it is no regular file")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header would be {length:,} bytes long")
    return length


def check_count(file: Path, count: int) -> None:
    """Refuse more tensors than any model has."""
    if count > MOST_TENSORS:
        raise BaseModelError(
            f"model.pretrained: {file} names {count:,} tensors, no model of this kind has over {MOST_TENSORS:,}; "
            "fetch the model from where it was published."
        )


def check_floats(weights: Weights, names: Iterable[str]) -> None:
    """Refuse tensors that hold no plain floating-point numbers, before one is read.

    Raises:
        BaseModelError: naming the first one.
    """
    dtypes = weights.dtypes()
    for name in names:
        if dtypes[name] not in FLOATS:
            raise BaseModelError(dtype_refused(weights.where, name, dtypes[name]))


class HeldWeights:
    """Tensors that are held as they are: in memory, mapped from a file, or on a live module's device."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        self._tensors, self.where = tensors, where

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def dtypes(self) -> dict[str, str]:
        return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in self._tensors.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self._tensors[name]


class ModuleWeights(HeldWeights):
    """The parameters of a live module, on its own device."""

    def __init__(self, module: nn.Module, where: str = "the live model") -> None:
        super().__init__({name: value.detach() for name, value in module.named_parameters()}, where)


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, dtypes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{plain_name(name)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain_name(name: str) -> str:
    """A text encoder's name without ``text_model.``: transformers changed whether names begin with it."""
    return name.removeprefix("text_model.")
