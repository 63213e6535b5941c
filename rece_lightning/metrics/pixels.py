"""Pictures as other people's networks take them: eight bits a channel, as a stored PNG has them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError


def eight_bit(pictures: Tensor) -> list[np.ndarray]:
    """Pictures ``[n, 3, h, w]`` in [0, 1] → n arrays ``[h, w, 3]`` of bytes, red first.

    A picture gives the same figures from memory and from its PNG.

    Raises:
        ConfigurationError: if these are no such pictures.
    """
    check_pictures(pictures)
    bytes_of = (pictures.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(picture) for picture in bytes_of]


def check_pictures(pictures: Tensor) -> None:
    """Refuse what are no pictures ``[n, 3, h, w]`` of floats."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ConfigurationError(
            f"pictures: {list(pictures.shape)} of {pictures.dtype}; give floats [n, 3, height, width] in [0, 1]."
        )
