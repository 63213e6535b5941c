"""Pictures of a world by prompt and seed; those of the original model are made once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.harness import World
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.models.sampling import Sampling

Shot = tuple[EvaluationPrompt, int]


class Draws:
    """Draws with one sampling.

    Args:
        world: whose maker holds the weights that are drawn with.
        sampling: of every picture.
    """

    def __init__(self, world: World, sampling: Sampling) -> None:
        self.world, self.sampling = world, sampling
        self._originals: dict[tuple[str, int], Tensor] = {}

    def make(self, shots: Sequence[Shot]) -> Tensor:
        """Pictures of the weights that are in, ``[n, 3, h, w]``; nothing for no shots."""
        if not shots:
            return torch.empty(0)
        return self.world.maker.make([row for row, _ in shots], [seed for _, seed in shots], self.sampling)

    def originals(self, shots: Sequence[Shot]) -> Tensor:
        """The original model's, ``[n, 3, h, w]``; nothing for no shots."""
        if not shots:
            return torch.empty(0)
        missing = list({(row.prompt, seed): (row, seed) for row, seed in shots}.items())
        missing = [(key, shot) for key, shot in missing if key not in self._originals]
        if missing:
            self.world.maker.use(None)
            made = self.make([shot for _, shot in missing])
            self._originals |= {key: picture for (key, _), picture in zip(missing, made, strict=True)}
        return torch.stack([self._originals[row.prompt, seed] for row, seed in shots])
