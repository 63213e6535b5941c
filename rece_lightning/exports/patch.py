"""Copies of safetensors files with other metadata and some tensors replaced, however large the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError


def copy_with_metadata(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a safetensors file; its own metadata stay, ``metadata`` come on top. The tensors' bytes are untouched."""
    with source.open("rb") as read, target.open("wb") as write:
        header = _read_header(read)
        header["__metadata__"] = dict(sorted({**(header.get("__metadata__") or {}), **metadata}.items()))
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        write.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(read, write, 1 << 24)


def replace_tensors(files: Sequence[Path], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Overwrite the bytes of named tensors in the safetensors files (one, or shards) that hold them.

    Args:
        files: to change in place.
        tensors: of the stored shape; written in the stored dtype.

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


def _read_header(stream: Any) -> dict[str, Any]:
    length = int.from_bytes(stream.read(8), "little")
    header: dict[str, Any] = json.loads(stream.read(length))
    return header
