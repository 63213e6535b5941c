"""The shots of a model state, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import rank_and_world
from rece_lightning.models.sampling import Sampling

Shot = tuple[int, int]
"""Row of the prompt, and seed."""


def shots_of(prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> list[Shot]:
    """Every prompt with its own seed, or with each of ``seeds``, as rows and seeds."""
    own = ((row, seeds if prompt.seed is None else (prompt.seed,)) for row, prompt in enumerate(prompts))
    return [(row, seed) for row, of_row in own for seed in of_row]


def own_share(shots: Sequence[Shot], size: int) -> list[Shot]:
    """The shots of this process: every world-th batch of ``size``, so that a shot is always the same one's."""
    rank, world = rank_and_world()
    return [shot for place, shot in enumerate(shots) if place // size % world == rank]


def guidance_of(prompt: EvaluationPrompt, sampling: Sampling) -> float:
    """The prompt's own guidance, or that of the settings."""
    return sampling.guidance_scale if prompt.guidance_scale is None else prompt.guidance_scale


def in_batches(shots: Sequence[Shot], prompts: Sequence[EvaluationPrompt], sampling: Sampling) -> list[list[Shot]]:
    """The shots in batches, those of one guidance next to each other: a batch has one guidance."""
    ordered = sorted(shots, key=lambda shot: guidance_of(prompts[shot[0]], sampling))
    return [ordered[first : first + sampling.batch_size] for first in range(0, len(ordered), sampling.batch_size)]
