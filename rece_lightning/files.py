"""Files that are either whole or not there, and never overwrite a result unasked."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError

# ``.NAME.PID.tmp``: the process tells whether anybody still writes it.
TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")
PROBE = ".writable"


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, sync it, rename it, and sync the folder.

    Raises:
        ConfigurationError: if the disk is full or the folder cannot be written.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
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


def write_text(path: Path, text: str) -> Path:
    """A whole text, atomically; errors as :func:`write_atomically`."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def temporary_name(path: Path) -> Path:
    """Where what becomes ``path`` is written first."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a renamed file is safe only after that."""
    # Not every system opens a folder.
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot
                raise
        finally:
            os.close(descriptor)


def discard_temporaries(folder: Path, *, below: bool = True) -> None:
    """Remove what a killed process left half written in ``folder`` and, where asked, below."""
    within = "**/" if below else ""
    for path in [*folder.glob(f"{within}.*.tmp"), *folder.glob(f"{within}{PROBE}")]:
        named = TEMPORARY.match(path.name)
        if path.name != PROBE and (named is None or is_running(int(named.group(1)))):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            discard(path)


def is_running(process: int) -> bool:
    """Whether another process of that number is there."""
    if process == os.getpid():
        return False
    if os.name != "posix":  # elsewhere signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        return True
    return True


def discard(path: Path) -> None:
    """Remove a file where there is one."""
    # Below something that is no folder there is none.
    with contextlib.suppress(OSError):
        path.unlink()


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write a safetensors file atomically; values of the metadata that are no text become JSON.

    The same tensors and metadata give the same bytes. A tensor that stands under several names is written under each.
    """
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    apart = _apart(tensors)
    return write_atomically(path, lambda temporary: temporary.write_bytes(sort_header(save(apart, texts))))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory: safetensors refuses those."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        place = whole.untyped_storage().data_ptr()
        found[name] = whole.clone() if place in seen else whole
        seen.add(place)
    return found


def sort_header(content: bytes) -> bytes:
    """A safetensors file with its metadata in order: safetensors shuffles them anew in every file."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def check_writable(field: str, folder: Path) -> None:
    """Raise a ConfigurationError unless files can be made in ``folder``, and folders where it is missing.

    Nothing of it stays: what is refused later leaves no trace.
    """
    probe, made = folder / PROBE, missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{field}: {folder} cannot be written ({reason}); choose another folder.") from error
    finally:
        remove_empty(made)


def missing_folders(folder: Path) -> list[Path]:
    """What has to be made for ``folder`` to be there, the innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        try:
            if path.exists():
                break
        except OSError:
            break
        missing.append(path)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that are there and hold nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise a ConfigurationError if ``path`` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise ConfigurationError(
            f"{path} exists; choose another folder, move it away, or give --overwrite (in Python: overwrite=True)."
        )
