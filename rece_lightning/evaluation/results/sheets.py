"""Small pictures of a state on one sheet: what pages show side by side long after the run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import write_atomically

TILE = 96
ACROSS = 32
MOST = 1600
"""Tiles of a sheet: of more pictures the first."""


def sheet_path(folder: Path, column: str) -> Path:
    """Of a column's sheet; tile ``i``, row by row, shows the picture of the column's line ``i`` in the counts."""
    return folder / f"sheet-{column}.webp"


def enlarged(pictures: Tensor) -> Tensor:
    """Pictures ``[n, 3, h, w]``, floats in [0, 1] or bytes, at the size of a tile: floats ``[n, 3, 96, 96]``."""
    floats = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
    enlarge = floats.shape[-1] < TILE
    return F.interpolate(floats, (TILE, TILE), mode="nearest" if enlarge else "bilinear", antialias=not enlarge)


def small(pictures: Tensor) -> Tensor:
    """What is kept of pictures ``[n, 3, h, w]`` in [0, 1]: bytes, at most at the size of a tile."""
    return ((pictures if pictures.shape[-1] <= TILE else enlarged(pictures)).clamp(0, 1) * 255).round().byte()


def save_sheet(pictures: Tensor, path: Path) -> Path:
    """Write pictures ``[n, 3, h, w]``, floats in [0, 1] or bytes, as one lossy WebP, atomically."""
    count = min(len(pictures), MOST)
    image = Image.new("RGB", (min(count, ACROSS) * TILE, -(-count // ACROSS) * TILE), "white")
    for index in range(count):
        top, left = divmod(index, ACROSS)
        tile = (enlarged(pictures[index : index + 1])[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        image.paste(Image.fromarray(np.asarray(tile)), (left * TILE, top * TILE))
    return write_atomically(path, lambda temporary: image.save(temporary, format="WEBP", quality=88))


def read_tiles(path: Path, wanted: Sequence[int]) -> dict[int, str]:
    """Some tiles of a sheet as ``data:`` addresses; those that it does not hold are left out.

    Raises:
        ConfigurationError: if the file is no sheet.
    """
    if not path.is_file():
        return {}
    tiles = {}
    try:
        with Image.open(path) as sheet:
            sheet.load()
            for index in wanted:
                top, left = index // ACROSS * TILE, index % ACROSS * TILE
                if index < MOST and top + TILE <= sheet.height and left + TILE <= sheet.width:
                    buffer = io.BytesIO()
                    sheet.crop((left, top, left + TILE, top + TILE)).save(buffer, format="WEBP", quality=88)
                    tiles[index] = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    except OSError as error:
        raise ConfigurationError(f"{path} is no picture that can be read ({error}); move it away.") from error
    return tiles
