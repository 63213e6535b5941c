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

    def __post_init__(self) -> None:
        for part in PLACED_PARTS:
            value = getattr(self, part)
            if value == "auto":
                continue
            try:
                device = torch.device(value)
            except (RuntimeError, TypeError) as error:
                raise ConfigurationError(
                    f"DevicePlacement.{part}: {value!r} is no device; give auto, cpu or cuda:0."
                ) from error
            if device.type == "cuda" and not torch.cuda.is_available():
                raise ConfigurationError(
                    f"DevicePlacement.{part}: {value!r}, but torch sees no CUDA device; give auto or cpu."
                )

    def device_of(self, part: str, default: torch.device) -> torch.device:
        """Device of a part, ``default`` being the trainer's."""
        value = getattr(self, part)
        device = default if value == "auto" else torch.device(value)
        if part == "algebra" and device.type == "mps":
            return torch.device("cpu")
        return device
