"""Pictures as PNG files that say what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import write_atomically


def to_pixels(picture: Tensor) -> np.ndarray:
    """``[3, h, w]`` in [0, 1] → ``[h, w, 3]``, uint8: a quarter of the memory."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(pixels.cpu().numpy())


def save_pixels(pixels: np.ndarray, path: Path, metadata: Mapping[str, str]) -> Path:
    """Write ``[h, w, 3]``, uint8, as a PNG with text metadata, atomically."""
    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    image = Image.fromarray(pixels)
    return write_atomically(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=info))


def metadata_of(path: Path) -> dict[str, str] | None:
    """Text metadata of a PNG that is whole; ``None`` for every other file."""
    try:
        with Image.open(path) as picture:
            if not isinstance(picture, PngImageFile):
                return None
            # Without decoding: our texts stand before the pixels.
            texts = {str(key): str(value) for key, value in picture.info.items() if isinstance(value, str)}
            picture.verify()
    except (OSError, SyntaxError, ValueError):  # Pillow's own kinds of damage
        return None
    return texts


def read_picture(field: str, path: Path) -> Tensor:
    """A picture file as ``[3, h, w]`` in [0, 1], float32.

    Raises:
        ConfigurationError: naming the setting ``field``, if it is missing or no picture.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigurationError(f"{field}: {path} cannot be read as a picture ({error}); make it anew.") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
