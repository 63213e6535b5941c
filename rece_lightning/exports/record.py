"""What an export reports of itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.rounding import Rounding


@dataclass(frozen=True)
class Error:
    """How far weights are from those that they are compared with, in Frobenius norm over all edited projections."""

    change: float = 0.0
    """``‖W' − W‖ / ‖ΔW‖``: as a share of what the edit adds, ``ΔW = W₀ M − W₀``."""
    weight: float = 0.0
    """``‖W' − W‖ / ‖W₀ M‖``: as a share of the weights; of each the columns that read text."""

    @classmethod
    def of(cls, lost: float, change: float, weight: float) -> Error:
        """From ``‖W' − W‖²``, ``‖ΔW‖²`` and ``‖W₀ M‖²``."""
        return cls(*(math.sqrt(lost / total) if total else 0.0 for total in (change, weight)))


@dataclass(frozen=True)
class Loss:
    """How far what was written is from the erasure."""

    exact: Error = Error()
    """Against ``W₀ M`` in float64."""
    file: Error | None = None
    """Against ``edited.safetensors``, which holds it rounded to the base model's dtype; ``None`` for what is no
    weights."""
    rank: int | None = None
    """Of a LoRA."""


def rounded_weights(rounding: Rounding) -> Loss:
    """Of a format that holds the very weights of ``edited.safetensors``."""
    return Loss(Error.of(rounding.lost, rounding.change, rounding.weight), Error())


@dataclass(frozen=True)
class ExportRecord:
    """What was written."""

    path: Path
    """The file or the folder."""
    bytes: int
    """Of the file, or of all files in the folder."""
    loss: Loss
    """How far it is from the erasure, and a LoRA's rank."""
    readers: str
    """Who reads it, and what to take where somebody does not."""

    @property
    def error(self) -> float:
        """Relative Frobenius error of what the edit adds, against the exact edit."""
        return self.loss.exact.change

    @property
    def weight_error(self) -> float:
        """The same of the edited weights themselves."""
        return self.loss.exact.weight

    @property
    def rank(self) -> int | None:
        """Of a LoRA."""
        return self.loss.rank


def error_text(value: float) -> str:
    """A relative error in a word."""
    return f"{value:.1e}" if value else "0"


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
