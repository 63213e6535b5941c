"""Copies of safetensors files with other metadata and some tensors replaced, however large the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.files import write_atomically
from rece_lightning.models.published import without_places


def copy_with_metadata(
    source: Path, target: Path, metadata: Mapping[str, str], names: Mapping[str, str] | None = None
) -> None:
    """Copy a safetensors file; its own metadata stay, ``metadata`` come on top. The tensors' bytes are untouched.

    Args:
        source: a file.
        target: another one.
        metadata: more of it.
        names: of the tensors, the new ones; a tensor that is not in it keeps its own.
    """
    with source.open("rb") as read, target.open("wb") as write:
        header = _read_header(read)
        own = header.pop("__metadata__", None) or {}
        said = without_places({**own, **metadata})
        renamed = {(names or {}).get(name, name): entry for name, entry in header.items()}
        write.write(_packed({"__metadata__": dict(sorted(said.items())), **renamed}))
        shutil.copyfileobj(read, write, 1 << 24)


def replace_tensors(files: Sequence[Path], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Overwrite the bytes of named tensors in the safetensors files (one, or shards) that hold them.

    The tensors come in the stored shape and dtype.

    Raises:
        BaseModelError: if a tensor is in none of the files, or is stored in another shape or size.
    """
    places: dict[str, tuple[Path, int, int]] = {}
    for file in files:
        with file.open("rb") as stream:
            header = _read_header(stream)
            start = stream.tell()
        for name, entry in header.items():
            if name != "__metadata__":
                first, end = entry["data_offsets"]
                places[name] = (file, start + first, end - first)
    for name, tensor in tensors:
        content = tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes()
        place = places.get(name)
        if place is None or place[2] != len(content):
            raise BaseModelError(f"model.pretrained: {name} is stored in another shape or not at all; copy it anew.")
        with place[0].open("r+b") as stream:
            stream.seek(place[1])
            stream.write(content)


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    with file.open("rb") as stream:
        return [name for name in _read_header(stream) if name != "__metadata__"]


def _read_header(stream: Any) -> dict[str, Any]:
    length = int.from_bytes(stream.read(8), "little")
    header: dict[str, Any] = json.loads(stream.read(length))
    return header


def _packed(header: Mapping[str, object]) -> bytes:
    """The head of a file, padded so that the tensors begin at a multiple of 8."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def stream_tensors(
    tensors: Callable[[], Iterator[tuple[str, Tensor]]], path: Path, metadata: Mapping[str, str]
) -> Path:
    """Write a safetensors file atomically, one tensor in memory at a time.

    The same tensors and metadata give the same bytes.

    ``tensors`` gives them all each time it is called, which is twice: for the header and for the content.

    Raises:
        BaseModelError: if safetensors has no name for a dtype.
        ConfigurationError: if the file cannot be written.
    """
    sizes: dict[str, tuple[torch.dtype, tuple[int, ...], int]] = {}
    for name, tensor in tensors():
        if tensor.dtype not in DTYPES:
            raise BaseModelError(
                f"model.pretrained: {name} is stored as {str(tensor.dtype).removeprefix('torch.')}, which safetensors "
                "cannot hold; give the model in float16, bfloat16 or float32."
            )
        sizes[name] = (tensor.dtype, tuple(tensor.shape), tensor.nbytes)
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    places: dict[str, int] = {}
    end = 0
    # Wide elements first, so that every tensor begins at a multiple of its element's size, as readers expect.
    for name in sorted(sizes, key=lambda name: (-sizes[name][0].itemsize, name)):
        dtype, shape, size = sizes[name]
        places[name] = end
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    packed = _packed(header)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            stream.write(packed)
            start = stream.tell()
            stream.truncate(start + end)
            for name, tensor in tensors():
                stream.seek(start + places[name])
                stream.write(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)

    return write_atomically(path, write)
