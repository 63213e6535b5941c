"""What every exported file says of itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rece_lightning.core.errors import ConfigurationError


def file_metadata(description: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Metadata of a safetensors file: base model and its hashes, concepts with targets, settings, version, date.

    Args:
        description: as ``RECE.description`` gives it.
        kind: the name of the format, such as ``delta``.

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
