"""``cost.json``: what every state of a run cost, in parameters that were changed and in seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import discard, write_text

FILE = "cost.json"


@dataclass(frozen=True)
class StateCost:
    """Of one state; what is not known is ``None``."""

    parameters_edited_share: float | None = None
    """Of the denoiser's parameters."""
    weight_change: float | None = None
    """``‖ΔW‖/‖W‖`` over these."""
    erase_seconds: float | None = None
    """Seconds that the erasure or the training took, of the wall."""
    picture_seconds: float | None = None
    """Seconds of a picture among those that were drawn together, on one process."""
    device: str = ""
    """That the pictures were drawn on."""

    @property
    def figures(self) -> dict[str, float]:
        """The known numbers by name."""
        return {name: value for name, value in asdict(self).items() if name != "device" and value is not None}


UNCHANGED = StateCost(0.0, 0.0, 0.0)
"""Of the original model, and of a guard around it."""


def device_in_words(device: torch.device) -> str:
    """A device as pages name it.

    Args:
        device: of torch.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'' if threads == 1 else 's'}" if device.type == "cpu" else device.type


def write_costs(costs: Mapping[str, StateCost], path: Path) -> None:
    """Write a run's table, atomically; without costs there is none.

    Args:
        costs: column → its cost.
        path: of the file.
    """
    if costs:
        write_text(path, json.dumps({key: asdict(cost) for key, cost in costs.items()}, indent=1) + "\n")
    else:
        discard(path)


def read_costs(path: Path) -> dict[str, StateCost]:
    """Read a run's table; empty where there is none.

    Args:
        path: of the file.

    Raises:
        ConfigurationError: if it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): _cost(given) for key, given in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is damaged ({' '.join(str(error).split())}); move it away.") from error


def _cost(given: Mapping[str, Any]) -> StateCost:
    known: dict[str, Any] = {one.name: given.get(one.name) for one in fields(StateCost)}
    device = known.pop("device") or ""
    numbers = {name: None if value is None else float(value) for name, value in known.items()}
    if not all(value is None or (math.isfinite(value) and value >= 0) for value in numbers.values()):
        raise ValueError(f"{given}: no cost")
    return StateCost(**numbers, device=str(device))
