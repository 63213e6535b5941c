"""States of the embedded MMDiT, drawn and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from benchmarks.families.plan import PRETRAINED, SAMPLING, State, groups, recipe, recipes
from benchmarks.families.table import Row
from benchmarks.harness import Piece, World, unet_digest
from benchmarks.results.derived import derived_pictures
from benchmarks.results.draws import Draws
from benchmarks.results.groups import Group
from benchmarks.results.plan import ERASED, Erasure
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.metrics import EmojiFeatures, FeatureDistance, PerceptualDistance


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
        shots = [shot for group in plain.values() for shot in group.shots]
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
        """Every ridge's embeddings, in each edited space its own."""
        pictures = derived_pictures(self.world, session.attacked(session.maps), asked, SAMPLING)
        return [self._row(erasure, state, name, asked[name], made) for name, made in pictures.items()]

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
        concepts = [row.concept for row, _ in group.shots]
        hits = self.world.detector.detect(pictures, concepts).view(-1, len(group.seeds))
        return Row(
            weights=unet_digest(PRETRAINED), part=state.part, kind=erasure.kind, erasure=erasure.name,
            state=state.name, group=name, recipe=recipe(erasure, state, group), settings=state.told,
            prompts=tuple(row.prompt for row in group.prompts),
            hits=tuple("".join(str(int(hit)) for hit in line) for line in hits.tolist()),
            distance=distance, certificate=certificate, at_one=at_one,
        )  # fmt: skip


def finite(value: float) -> float:
    """A prompt that is its own target has no way back, whatever is done."""
    return math.inf if math.isnan(value) else value
