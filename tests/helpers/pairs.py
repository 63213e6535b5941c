"""Encoded prompts that no text encoder made."""

from __future__ import annotations

import torch

from rece_lightning.erasure.encoding import EncodedPair


def random_pairs(count: int, width: int, seed: int) -> list[EncodedPair]:
    """Five rows each, weights 1 and 2 in turn."""
    draw = torch.Generator().manual_seed(seed)
    return [
        EncodedPair(
            torch.randn(5, width, generator=draw), torch.randn(5, width, generator=draw), 1, 2, 1.0 + number % 2
        )
        for number in range(count)
    ]
