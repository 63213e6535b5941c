"""What an export reports of itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError


@dataclass(frozen=True)
class Loss:
    """How far what was written is from the erasure."""

    change: float = 0.0
    """``‖ΔW' − ΔW‖ / ‖ΔW‖`` in Frobenius norm over all edited projections."""
    weight: float = 0.0
    """``‖W' − W‖ / ‖W‖``: the same against the edited weights, of each the columns that read text."""
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


def file_metadata(description: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Metadata of a safetensors file: base model and its hashes, concepts with targets, settings, version, date.

    ``description`` is what :meth:`ErasureSession.description` gives, ``kind`` the name of the format.

    Raises:
        ConfigurationError: if SOURCE_DATE_EPOCH is set to what is no number of seconds.
    """
    said = {**description, "kind": kind, "date": now()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
    return {"format": "pt", **{f"rece.{key}": text for key, text in texts.items()}}


def now() -> str:
    """The time in UTC, ISO 8601 to the second; that of SOURCE_DATE_EPOCH where it is set, for files that reproduce."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(fixed), UTC) if fixed else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigurationError(
            f"SOURCE_DATE_EPOCH: {fixed!r} is no number of seconds since 1970; set one, or unset it."
        ) from error
    return moment.replace(microsecond=0).isoformat()
