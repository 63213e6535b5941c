"""Named tensors of PyTorch's own files, opened so that nothing in them is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.weights import HeldWeights, SafetensorsWeights, Weights, check_count

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
LARGEST_PICKLE = 64 << 20
"""Bytes. A pickle names the tensors; their content lies beside it. That of SDXL has 600 KB."""


class PickledWeights(HeldWeights):
    """Tensors of PyTorch files (``.bin``, ``.ckpt``), opened with ``weights_only``: nothing in them is executed.

    The tensors are mapped into memory, not copied, until they are read.

    Raises:
        BaseModelError: if a file is damaged, or holds more than tensors and plain values.
    """

    def __init__(self, *files: Path) -> None:
        super().__init__({name: tensor for file in files for name, tensor in load_pickled(file).items()}, str(files[0]))


def file_weights(file: Path) -> Weights:
    """The tensors of a file, safetensors by its ending or PyTorch's own."""
    return SafetensorsWeights(file) if file.suffix == ".safetensors" else PickledWeights(file)


def load_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, those below ``state_dict`` where there is one.

    Raises:
        BaseModelError: if it is damaged, or holds more than tensors and plain values.
    """
    try:
        content = _open_pickled(file)
    except pickle.UnpicklingError as error:
        # What stands in the way of weights_only is in the middle of a long text about PyTorch's own settings.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (it asks for {named.group(1)})" if named else ""
        raise BaseModelError(
            f"model.pretrained: {file} is no PyTorch file, or holds more than tensors{what}, which could execute "
            "code; nothing in it was executed. Fetch the safetensors file of this model in its place."
        ) from error
    except Exception as error:  # a damaged file fails in a dozen ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {file} is damaged, cut short or no PyTorch file ({reason}); fetch it again."
        ) from error
    # Training programs put the model one level down, or two; a file can also hold itself.
    for _ in range(2):
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise BaseModelError(f"model.pretrained: {file} holds no named tensors; give a checkpoint of a model.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    check_count(file, len(tensors))
    size = file.stat().st_size
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        # A pickle can announce a tensor of any size over a few bytes, repeated.
        if not plain or tensor.is_nested or tensor.numel() * tensor.element_size() > size:
            raise BaseModelError(
                f"model.pretrained: {file}: {name} {list(tensor.shape)} is no plain tensor that the file holds whole; "
                "fetch the safetensors file of this model in its place."
            )
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _open_pickled(file: Path) -> Any:
    if not file.is_file():
        raise ValueError("it is no regular file")
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        check_archive(file)
    # Files from before PyTorch 1.6 are no archives and cannot be mapped.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)


def check_archive(file: Path) -> None:
    """Look through the list of what a PyTorch file holds before it is opened.

    Raises:
        ValueError: for what PyTorch does not write: it compresses nothing, so that no file unfolds into gigabytes.
        zipfile.BadZipFile: if the file is cut short, or no archive.
    """
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} in it is compressed")
            if entry.filename.endswith(".pkl") and entry.file_size > LARGEST_PICKLE:
                raise ValueError(f"{entry.filename} in it has {entry.file_size:,} bytes")
