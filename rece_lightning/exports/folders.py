"""Folders that are either whole or not there, and never replace anything but an export."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.exports.record import Loss
from rece_lightning.files import sync_folder, temporary_name

CARD = "README.md"
MARK = "- rece-lightning"
"""A tag in the card of every folder that this project wrote."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a place where no folder may be written.

    Raises:
        ConfigurationError: if something is there and may not be replaced.
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise ConfigurationError(f"--output: {folder} exists; choose another place, or give --overwrite.")
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigurationError(f"--output: {folder} is no folder; choose another place.")
    try:
        lines = (folder / CARD).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    if any(folder.iterdir()) and MARK not in (line.strip() for line in lines):
        raise ConfigurationError(
            f"--output: {folder} holds something other than an export, and --overwrite replaces folders whole; "
            "choose another place, or move it away."
        )


def write_folder(folder: Path, fill: Callable[[Path], Loss]) -> Loss:
    """Let ``fill`` make a temporary folder beside ``folder``, sync its files, rename it, and return what it returns.

    What is there is moved aside first and removed last: at no time is half a folder under that name.

    Raises:
        ConfigurationError: if the disk is full or the place cannot be written.
    """
    folder = folder.absolute()
    temporary = temporary_name(folder)
    former = folder.with_name(f".{folder.name}.{os.getpid()}.former")
    try:
        temporary.mkdir(parents=True)
        loss = fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if folder.exists():
            folder.rename(former)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if former.exists() and not folder.exists():
            former.rename(folder)
        if isinstance(error, OSError):
            raise ConfigurationError(
                f"--output: {folder} cannot be written ({error.strerror or error}); "
                "free some space or choose another place."
            ) from error
        raise
    shutil.rmtree(former, ignore_errors=True)
    return loss
