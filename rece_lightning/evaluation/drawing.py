"""The shots of a model state, batch by batch, and the attacker's derived embeddings in place of the prompts' own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from rece_lightning.core.derivation import AnyDerivation, Derivation
from rece_lightning.core.diagnostics import ATTACKER_SHARE
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import gathered, rank_and_world
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.sampling import Request, Sampling
from rece_lightning.models.text_space import POOLED, TEXT

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


class Derived:
    """Gives derived embeddings in place of the prompts' own, of every text space, and remembers how long they are."""

    def __init__(self, derivations: Mapping[str, AnyDerivation]) -> None:
        self.derivations = derivations
        self._ratios: list[float] = []

    def __call__(self, request: Request) -> Request:
        """The same picture from derived embeddings; a text space that nobody edited keeps its own."""
        if TEXT in self.derivations:
            derived = self._derived(TEXT, request.embedding)
            self._ratios.append(float(derived.norm() / request.embedding.norm()))
            request = replace(request, embedding=derived)
        if POOLED in self.derivations and request.pooled is not None:
            request = replace(request, pooled=self._derived(POOLED, request.pooled[None])[0])
        return request

    def _derived(self, space: str, rows: Tensor) -> Tensor:
        derivation = self.derivations[space]
        return derivation.apply(rows.to(derivation.factor.device)).to(rows.device)

    def norm_ratio(self) -> float | None:
        """Mean ``‖c'‖/‖c‖`` of all processes; every one must call it."""
        ratios = [ratio for part in gathered(self._ratios) for ratio in part]
        return sum(ratios) / len(ratios) if ratios else None


def out_of_reach(session: ErasureSession) -> str | None:
    """Why no prompt embedding can be derived for what is edited; ``None`` where one can.

    Behind a norm or a projector of the denoiser a derived row would have to be one that these can give.
    """
    behind = next((space for space in session.spaces if space.before), None)
    if behind is None:
        return None
    return (
        f"the space {behind.name!r} is read behind {behind.before[0]}, and what is derived there is no embedding that "
        "a pipeline takes"
    )


def attackers(session: ErasureSession, maps: Mapping[str, AnyMap]) -> dict[str, AnyDerivation]:
    """Text space → the attacker's derivation: its ridge is a setting of the measurement, not the defender's λ."""
    return {
        name: Derivation(session.attacker_scale or ATTACKER_SHARE * gram.scale)(gram, met)
        for name, (gram, met) in session.attacked(maps).items()
    }
