"""The pictures of a model state, handed on batch by batch: nobody holds them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from rece_lightning.core.derivation import Derivation
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import gathered, rank_and_world
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.sampling import Sampling
from rece_lightning.module import RECE

Shot = tuple[int, int]
"""Row of the prompt, and seed."""


def shots_of(prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> list[Shot]:
    """Every prompt with its own seed, or with each of ``seeds``, as rows and seeds."""
    return [
        (row, seed)
        for row, prompt in enumerate(prompts)
        for seed in (seeds if prompt.seed is None else (prompt.seed,))
    ]  # fmt: skip


def own_share(shots: Sequence[Shot], size: int) -> list[Shot]:
    """The shots of this process: every world-th batch of ``size``, so that a shot is always the same one's."""
    rank, world = rank_and_world()
    return [shot for place, shot in enumerate(shots) if place // size % world == rank]


def in_batches(shots: Sequence[Shot], prompts: Sequence[EvaluationPrompt], sampling: Sampling) -> list[list[Shot]]:
    """The shots in batches, those of one guidance next to each other: a batch has one guidance."""

    def guidance(shot: Shot) -> float:
        own = prompts[shot[0]].guidance_scale
        return sampling.guidance_scale if own is None else own

    ordered = sorted(shots, key=guidance)
    return [ordered[first : first + sampling.batch_size] for first in range(0, len(ordered), sampling.batch_size)]


def draw(
    maker: PictureMaker,
    prompts: Sequence[EvaluationPrompt],
    shots: Sequence[Shot],
    sampling: Sampling,
    take: Callable[[Tensor, list[Shot]], None],
    derive: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Make one picture a shot.

    Args:
        maker: with the weights that are to be drawn with.
        prompts: the rows of the shots.
        shots: to draw.
        sampling: steps, guidance, batch size.
        take: is given the pictures ``[n, 3, h, w]`` of every batch, with their shots.
        derive: maps every prompt embedding, to attack with derived ones.
    """
    for batch in in_batches(shots, prompts, sampling):
        rows = [prompts[row] for row, _ in batch]
        take(maker.make(rows, [seed for _, seed in batch], sampling, derive=derive), batch)


class Derived:
    """Gives derived embeddings in place of the prompts' own, and remembers how long they are."""

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation
        self._ratios: list[float] = []

    def __call__(self, embedding: Tensor) -> Tensor:
        """``[positions, d]`` → the same."""
        derived = self.derivation.apply(embedding.to(self.derivation.of_concept.device))
        self._ratios.append(float(derived.norm() / embedding.norm()))
        return derived.to(embedding.device)

    def norm_ratio(self) -> float | None:
        """Mean ``‖c'‖/‖c‖`` of all processes; every one must call it."""
        ratios = [ratio for part in gathered(self._ratios) for ratio in part]
        return sum(ratios) / len(ratios) if ratios else None


def original_of(module: RECE) -> Callable[[Sequence[EvaluationPrompt], Sequence[int]], Tensor] | None:
    """What draws with the model as it was before its erasure or its adapter; ``None`` for a model without either.

    With an adapter, which changes the text encoder too, a second pipeline is loaded.
    """
    if module.hparams["adapter"] is not None:
        plain = PictureMaker.load(module.base, module.encoder, module.placement, module.device)
        return lambda prompts, seeds: plain.make(prompts, seeds, module.sampling)
    if not module.history:
        return None

    def make(prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> Tensor:
        module.pictures.use(None)
        return module.pictures.make(prompts, seeds, module.sampling)

    return make
