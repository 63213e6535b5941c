"""What an export reports of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Loss:
    """How far what was written is from the erasure."""

    change: float = 0.0
    """``‖ΔW' − ΔW‖ / ‖ΔW‖`` in Frobenius norm over all edited projections."""
    weight: float = 0.0
    """``‖W' − W‖ / ‖W‖``: the same against the edited weights."""
    rank: int | None = None
    """Of a LoRA."""


@dataclass(frozen=True)
class ExportRecord:
    """What was written."""

    path: Path
    """The file or the folder."""
    bytes: int
    """Of the file, or of all files in the folder."""
    error: float
    """Relative Frobenius error of ``ΔW``, what the edit adds; 0 where the weights are the edited ones."""
    weight_error: float = 0.0
    """The same for the edited weights themselves."""
    rank: int | None = None
    """Of a LoRA."""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
