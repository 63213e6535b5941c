"""Which device holds which part, and whether a part is let go when it is no longer needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rece_lightning.core.errors import ConfigurationError

PLACED_PARTS = ("text_encoder", "unet", "autoencoder", "algebra")


@dataclass(frozen=True)
class Placement:
    """Devices of the parts; ``auto`` is the trainer's own (the CPU for float64 where it has none)."""

    text_encoder: str = "auto"
    unet: str = "auto"
    autoencoder: str = "auto"
    algebra: str = "auto"
    release: bool = True
    """Let the text encoder and the pipeline go as soon as nothing needs them."""
    waiting: frozenset[str] = frozenset()
    """Parts that are in host memory while they are unused."""
    gram: tuple[str, ...] = ()
    """Devices that sum shares of the Gram; that of the algebra alone without any."""

    def __post_init__(self) -> None:
        for part in PLACED_PARTS:
            value = getattr(self, part)
            if value != "auto":
                check_device(part, value)
        for value in self.gram:
            check_device("gram", value)

    @property
    def given(self) -> dict[str, str]:
        """Part → device, where it is not ``auto``."""
        return {part: getattr(self, part) for part in PLACED_PARTS if getattr(self, part) != "auto"}

    def device_of(self, part: str, default: torch.device) -> torch.device:
        """Device of a part, ``default`` being the trainer's."""
        value = getattr(self, part)
        device = default if value == "auto" else torch.device(value)
        if part == "algebra" and device.type == "mps":
            return torch.device("cpu")
        return device

    def waits(self, part: str) -> bool:
        """Whether a part is in host memory while it is unused."""
        return part in self.waiting


def check_device(field: str, value: str) -> None:
    """Refuse what is no device, and devices that are not there.

    Raises:
        ConfigurationError: naming the field of ``DevicePlacement``.
    """
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"DevicePlacement.{field}: {value!r} is no device; give auto, cpu or cuda:0."
        ) from error
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigurationError(
            f"DevicePlacement.{field}: {value!r}, but torch sees no CUDA device; give auto or cpu."
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise ConfigurationError(
            f"DevicePlacement.{field}: {value!r}, but torch sees {count} CUDA device{'s' * (count > 1)}; give auto, "
            f"cpu or cuda:{count - 1}."
        )
