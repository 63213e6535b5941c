"""States of the embedded MMDiT, drawn and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from benchmarks.families.plan import PRETRAINED, RIDGES, SAMPLING, Group, State, groups, recipe, recipes
from benchmarks.families.table import Row
from benchmarks.harness import Piece, World, unet_digest
from benchmarks.results.draws import Draws, Shot
from benchmarks.results.plan import ERASED, Erasure
from rece_lightning.core.derivation import Derivation, DerivationMap
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.metrics import EmojiFeatures, FeatureDistance, PerceptualDistance
from rece_lightning.models.sampling import Request, generate
from rece_lightning.models.text_space import POOLED, TEXT


class Bench:
    """The world, and the original model's pictures, each made once."""

    def __init__(self) -> None:
        self.world, self.features = World(PRETRAINED), EmojiFeatures()
        self.draws = Draws(self.world, SAMPLING)

    def piece(self, erasure: Erasure, state: State) -> Piece[Row]:
        """The rows of a state: one a group of prompts."""
        return Piece(
            f"{erasure.name}: {state.name}", recipes(erasure, state), lambda _: [self.measure(erasure, state)]
        )  # fmt: skip

    def measure(self, erasure: Erasure, state: State) -> list[Row]:
        """Draw a state's pictures, and measure them a group of prompts."""
        asked = groups(erasure, state)
        plain = {name: group for name, group in asked.items() if group.ridge is None}
        shots = [shot for group in plain.values() for shot in shots_of(group)]
        before = self.draws.originals(shots)
        if state.settings is None:
            return self._rows(erasure, state, plain, before, before)
        session = self.world.erased(state.settings, state.epochs, erasure.data)
        self.world.maker.use(session.erasure().weights())
        rows = self._rows(erasure, state, plain, before, self.draws.make(shots), self._certificates(session))
        return rows + self._derived(erasure, state, session, asked)

    def _certificates(self, session: ErasureSession) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Space by space the least of all erased prompts, over any norm and over the concept's own."""
        found = certificates(session.erasure(), session.erased_prompts, session.pairs, [1.0])
        by_space = {one.space: [other for other in found if other.space == one.space] for one in found}
        bounds = [[min(finite(one.bounds[b]) for one in own) for own in by_space.values()] for b in (None, 1.0)]
        return tuple(bounds[0]), tuple(bounds[1])

    def _rows(
        self,
        erasure: Erasure,
        state: State,
        plain: Mapping[str, Group],
        before: Tensor,
        after: Tensor,
        certified: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
    ) -> list[Row]:
        found, first = [], 0
        for name, group in plain.items():
            part = slice(first, first := first + len(group.prompts) * len(group.seeds))
            places = [place for place in range(len(group.prompts)) for _ in group.seeds]
            distance = PerceptualDistance(FeatureDistance(self.features), prompts=len(group.prompts))
            distance.update(before[part], after[part], places)
            apart = tuple((distance.sums / distance.counts).tolist())
            own = certified if name == ERASED else ((), ())
            found.append(self._row(erasure, state, name, group, after[part], apart, *own))
        return found

    def _derived(
        self, erasure: Erasure, state: State, session: ErasureSession, asked: Mapping[str, Group]
    ) -> list[Row]:
        """Every ridge's embeddings, in each edited space its own; an unedited space is given what it knows."""
        own = {name: group for name, group in asked.items() if group.ridge is not None}
        maker = self.world.maker
        empty, *_ = maker.embed([""])
        made: dict[float, dict[str, DerivationMap]] = {
            ridge: {
                name: Derivation(ridge * gram.scale)(gram, session.maps[name]) for name, gram in session.grams.items()
            }
            for ridge in RIDGES
        }
        requests = []
        for group in own.values():
            assert group.ridge is not None
            for request in maker.embed([row.prompt for row in group.prompts]):
                attack = with_derived(request, made[group.ridge])
                requests += [replace(attack, seed=seed) for seed in group.seeds]
        pictures = generate(maker.pipeline, requests, empty, SAMPLING)
        size = len(requests) // len(own)
        return [
            self._row(erasure, state, name, group, part)
            for (name, group), part in zip(own.items(), pictures.split(size), strict=True)
        ]

    def _row(
        self,
        erasure: Erasure,
        state: State,
        name: str,
        group: Group,
        pictures: Tensor,
        distance: tuple[float, ...] = (),
        certificate: tuple[float, ...] = (),
        at_one: tuple[float, ...] = (),
    ) -> Row:
        concepts = [row.concept for row, _ in shots_of(group)]
        hits = self.world.detector.detect(pictures, concepts).view(-1, len(group.seeds))
        return Row(
            weights=unet_digest(PRETRAINED), part=state.part, kind=erasure.kind, erasure=erasure.name,
            state=state.name, group=name, recipe=recipe(erasure, state, group), settings=state.told,
            prompts=tuple(row.prompt for row in group.prompts),
            hits=tuple("".join(str(int(hit)) for hit in line) for line in hits.tolist()),
            distance=distance, certificate=certificate, at_one=at_one,
        )  # fmt: skip


def shots_of(group: Group) -> list[Shot]:
    """Every prompt with every seed."""
    return [(row, seed) for row in group.prompts for seed in group.seeds]


def with_derived(request: Request, derivations: Mapping[str, DerivationMap]) -> Request:
    """A request whose embeddings are derived in the spaces that an edit knows."""
    rows, pooled = request.embedding, request.pooled
    if TEXT in derivations:
        rows = derivations[TEXT].apply(rows)
    if POOLED in derivations and pooled is not None:
        pooled = derivations[POOLED].apply(pooled[None])[0]
    return replace(request, embedding=rows, pooled=pooled)


def finite(value: float) -> float:
    """A prompt that is its own target has no way back, whatever is done."""
    return math.inf if math.isnan(value) else value
