"""Pictures of the embedded world for the metrics' tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.pictures import Renderer


@cache
def renderer() -> Renderer:
    """Of the shipped sprites, read once."""
    return Renderer(load_catalog())


def rendered(names: Sequence[str], seed: int = 1, style: int | None = None) -> Tensor:
    """One picture ``[3, 32, 32]`` in [0, 1] of each named object, in turn of styles and backgrounds."""
    catalog = load_catalog()
    count = len(names)
    objects = torch.tensor([catalog.names.index(name) for name in names])
    styles = torch.arange(count) % len(catalog.styles) if style is None else torch.full((count,), style)
    backgrounds = torch.arange(count) % len(catalog.backgrounds)
    generator = torch.Generator().manual_seed(seed)
    return (renderer().render(objects, styles, backgrounds, generator) / 2 + 0.5).clamp(0, 1)


def large_sprite(name: str, style: str, size: int = 320) -> Tensor:
    """A sprite ``[3, size, size]`` on white."""
    catalog = load_catalog()
    sprite = renderer().sprites[catalog.names.index(name), catalog.styles.index(style)]
    picture = sprite[:3] + 1 - sprite[3:]
    return F.interpolate(picture[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
