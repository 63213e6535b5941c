"""Pictures of the embedded world: a sprite on a plain background, shifted, scaled, rotated, flipped."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rece_lightning.emoji.catalog import FOLDER, Catalog

SPRITE_SIZE = 64
PICTURE_SIZE = 32


def load_sprites(catalog: Catalog) -> Tensor:
    """The shipped sprites, ``[objects, styles, 4, 64, 64]`` in [0, 1]: premultiplied red, green, blue, and alpha."""
    with Image.open(FOLDER / "sprites.webp") as sheet:
        pixels = torch.from_numpy(np.asarray(sheet.convert("RGBA")).copy()).float() / 255
    rows, columns = len(catalog.objects), len(catalog.styles)
    pixels = pixels.view(rows, SPRITE_SIZE, columns, SPRITE_SIZE, 4).permute(0, 2, 4, 1, 3)
    alpha = pixels[:, :, 3:]
    return torch.cat([pixels[:, :, :3] * alpha, alpha], dim=2).contiguous()


class Renderer:
    """Renders batches of pictures from the sprites with torch alone, on any device."""

    def __init__(self, catalog: Catalog, device: torch.device | str = "cpu") -> None:
        self.sprites = load_sprites(catalog).to(device)
        self.colors = torch.tensor(list(catalog.backgrounds.values()), device=device).float() / 255

    def render(self, objects: Tensor, styles: Tensor, backgrounds: Tensor, generator: torch.Generator) -> Tensor:
        """Render one picture for each triple of indices, ``[n]`` each, as ``[n, 3, 32, 32]`` in [−1, 1].

        The generator is one of the CPU: the placement is the same on every device.
        """
        device = self.sprites.device
        count = len(objects)
        noise = torch.rand(5, count, generator=generator)
        angle = (noise[0] - 0.5) * 2 * math.radians(12)
        zoom = 1 / (0.85 + 0.2 * noise[1])
        flip = torch.where(noise[2] < 0.5, -1.0, 1.0)
        shift = (noise[3:] - 0.5) * 0.16
        first = torch.stack([flip * zoom * angle.cos(), -flip * zoom * angle.sin(), shift[0]], dim=1)
        second = torch.stack([zoom * angle.sin(), zoom * angle.cos(), shift[1]], dim=1)
        affine = torch.stack([first, second], dim=1).to(device)
        sprites = self.sprites[objects.to(device), styles.to(device)]
        grid = F.affine_grid(affine, list(sprites.shape), align_corners=False)
        moved = F.grid_sample(sprites, grid, align_corners=False, padding_mode="zeros")
        moved = F.avg_pool2d(moved, SPRITE_SIZE // PICTURE_SIZE)
        color = self.colors[backgrounds.to(device)][:, :, None, None]
        return (moved[:, :3] + color * (1 - moved[:, 3:])) * 2 - 1


def random_indices(
    catalog: Catalog, count: int, generator: torch.Generator, *, trained_only: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Uniformly random (object, style, background) indices, each ``[count]``."""
    objects = catalog.trained if trained_only else catalog.objects
    sizes = (len(objects), len(catalog.styles), len(catalog.backgrounds))
    first, second, third = (torch.randint(size, (count,), generator=generator) for size in sizes)
    return first, second, third
