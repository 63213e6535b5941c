"""Pictures of derived embeddings: what an attacker who feeds embeddings to the edited model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.harness import World
from benchmarks.results.groups import Group
from rece_lightning.core.derivation import Derivation, DerivationMap
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.gram import Gram
from rece_lightning.core.linalg import add_ridge, factor_positive_definite
from rece_lightning.models.sampling import Request, Sampling, generate
from rece_lightning.models.text_space import POOLED, TEXT


def derived_pictures(
    world: World, met: Mapping[str, tuple[Gram, AnyMap]], asked: Mapping[str, Group], sampling: Sampling
) -> dict[str, Tensor]:
    """Every group's pictures, on the weights that are in; an unedited space is given what it knows.

    Args:
        world: whose maker draws.
        met: text space → ``G`` and ``M`` of all that an embedding meets there.
        asked: groups with a ridge; those without are passed over.
        sampling: of the pictures.

    Returns:
        Group → pictures, ``[n, 3, h, w]``.
    """
    own = {name: group for name, group in asked.items() if group.ridge is not None}
    if not own:
        return {}
    maker = world.maker
    empty, *_ = maker.embed([""])
    requests: list[Request] = []
    for group in own.values():
        assert group.ridge is not None
        made = {name: Derivation(group.ridge * gram.scale)(gram, maps) for name, (gram, maps) in met.items()}
        for request in maker.embed([row.prompt for row in group.prompts]):
            attack = with_derived(request, made)
            requests += [replace(attack, seed=seed) for seed in group.seeds]
    pictures = generate(maker.pipeline, requests, empty, sampling)
    sizes = [len(group.shots) for group in own.values()]
    return dict(zip(own, pictures.split(sizes), strict=True))


def with_derived(request: Request, derivations: Mapping[str, DerivationMap]) -> Request:
    """A request whose embeddings are derived in the spaces that an edit knows."""
    rows, pooled = request.embedding, request.pooled
    if TEXT in derivations:
        rows = derivations[TEXT].apply(rows)
    if POOLED in derivations and pooled is not None:
        pooled = derivations[POOLED].apply(pooled[None])[0]
    return replace(request, embedding=rows, pooled=pooled)


def answer(now: Sequence[Tensor], then: Sequence[Tensor], ridge: float) -> DerivationMap:
    """What weights answer most like the original ones, whoever changed them: ``(Σ W'ᵀW' + λ)⁻¹ Σ W'ᵀW``.

    Args:
        now: ``W'`` of all that reads a text space, ``[o, d]`` each, float64.
        then: ``W``, in the same order.
        ridge: λ in units of ``tr(Σ WᵀW)/d``.
    """
    scale = sum(float(one.square().sum()) for one in then) / then[0].shape[1]
    gram = sum((one.mT @ one for one in now), torch.zeros(()))
    cross = sum((one.mT @ other for one, other in zip(now, then, strict=True)), torch.zeros(()))
    return DerivationMap(factor_positive_definite(add_ridge(gram, ridge * scale), what="attacker's system"), cross)
