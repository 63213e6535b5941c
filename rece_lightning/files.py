"""Files that are either whole or not there, and never overwrite a result unasked."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, sync it, and rename it.

    Raises:
        ConfigurationError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except Exception as error:
        discard(temporary)
        if isinstance(error, OSError):
            raise ConfigurationError(
                f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); "
                "free some space or choose another folder."
            ) from error
        raise
    except BaseException:
        discard(temporary)
        raise
    return path


def discard(path: Path) -> None:
    """Remove a file where there is one."""
    # Below something that is no folder there is none.
    with contextlib.suppress(OSError):
        path.unlink()


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write a safetensors file atomically; values of the metadata that are no text become JSON.

    The same tensors and metadata give the same bytes.
    """
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return write_atomically(path, lambda temporary: temporary.write_bytes(sort_header(save(contiguous, texts))))


def sort_header(content: bytes) -> bytes:
    """A safetensors file with its metadata in order: safetensors shuffles them anew in every file."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def check_writable(field: str, folder: Path) -> None:
    """Raise a ConfigurationError unless files can be made in ``folder`` (made where it is missing)."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"{field}: {folder} cannot be written ({error.strerror}); choose another folder."
        ) from error


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise a ConfigurationError if ``path`` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists; choose another folder, move it away, or set overwrite: true.")
