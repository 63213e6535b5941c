"""What UCE and RECE remove and harm on the embedded world: one object, style or background at a time.

    python -m benchmarks.results            # measures what is missing in results.csv, then writes the page
    python -m benchmarks.results --page     # writes results.md and results.png from results.csv alone
    python -m benchmarks.results --quick --output FOLDER    # one erasure of each kind, one seed: to try it

Interrupted, it goes on where it stopped. About an hour on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from benchmarks.harness import Piece, World, command, fill, table_parser, unet_digest
from benchmarks.results.derived import derived_pictures
from benchmarks.results.draws import Draws
from benchmarks.results.groups import FLOOR, Group, groups, recipe, recipes
from benchmarks.results.page import write_page
from benchmarks.results.plan import HELD, KINDS, REFERENCE, SAMPLING, SEEDS, Erasure, State, erasures, work
from benchmarks.results.table import Row, table
from rece_lightning.metrics import (
    Clip,
    ClipScore,
    EmojiFeatures,
    FeatureDistance,
    FrechetDistance,
    KernelDistance,
    PerceptualDistance,
)


class Bench:
    """The embedded world, the networks that measure, and the original model's pictures, each made once."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.world, self.features, self.clip = World(), EmojiFeatures(), Clip()
        self.seeds = seeds
        self.draws = Draws(self.world, SAMPLING)

    def piece(self, erasure: Erasure, state: State) -> Piece[Row]:
        """The rows of a state: one a group."""
        made = recipes(erasure, state, self.seeds)
        return Piece(
            f"{erasure.name}: {state.name}",
            made,
            lambda missing: [self.measure(erasure, state, [key[3] for key in missing])],
        )

    def measure(self, erasure: Erasure, state: State, wanted: Sequence[str]) -> list[Row]:
        """Draw groups of a state, and measure each."""
        asked = {name: group for name, group in groups(erasure, state, self.seeds).items() if name in wanted}
        plain = [shot for group in asked.values() if group.ridge is None for shot in group.shots]
        before, session = self.draws.originals(plain), None
        after, given = before, dict[str, Tensor]()
        if not state.is_original:
            session = state.fit(erasure.data)
            self.world.maker.use(session.erasure().weights())
            after = self.draws.make(plain)
            given = derived_pictures(self.world, session.attacked(session.maps), asked, SAMPLING)
        told, found, first = state.told(session), [], 0
        for name, group in asked.items():
            pictures, originals = given.get(name), None
            if pictures is None:
                part = slice(first, first := first + len(group.shots))
                pictures, originals = after[part], before[part] if name != FLOOR else None
            row = self._counted(erasure, state, name, group, pictures, told)
            found.append(row if originals is None else self._measured(row, group, originals, pictures))
        return found

    def _counted(self, erasure: Erasure, state: State, name: str, group: Group, pictures: Tensor, told: str) -> Row:
        """Detections of a group."""
        hits = self.world.detector.detect(pictures, [row.concept for row, _ in group.shots]).view(-1, len(group.seeds))
        return Row(
            weights=unet_digest(),
            kind=erasure.kind,
            erasure=erasure.name,
            state=state.name,
            group=name,
            recipe=recipe(erasure, state, group),
            settings=told,
            prompts=tuple(row.prompt for row in group.prompts),
            hits=tuple("".join(str(int(hit)) for hit in line) for line in hits.tolist()),
        )

    def _measured(self, row: Row, group: Group, before: Tensor, after: Tensor) -> Row:
        """The same with what is measured of the group's pictures beside detections."""
        places = [place for place in range(len(group.prompts)) for _ in group.seeds]
        clip = ClipScore(self.clip, prompts=len(group.prompts))
        clip.update(after, [group.prompts[place].prompt for place in places], places)
        distance = PerceptualDistance(FeatureDistance(self.features), prompts=len(group.prompts))
        distance.update(before, after, places)
        fid = kid = None
        if row.group == HELD:
            sets = FrechetDistance(self.features), KernelDistance(self.features)
            reference = self.draws.originals([(one, seed + REFERENCE) for one, seed in group.shots])
            for metric in sets:
                metric.update(after, reference=False)
                metric.update(reference, reference=True)
            fid, kid = (float(metric.compute()) for metric in sets)
        return replace(
            row, clip=tuple((clip.sums / clip.counts).tolist()),
            distance=tuple((distance.sums / distance.counts).tolist()), fid=fid, kid=kid,
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("results", __doc__, "results.csv, results.md and results.png")
    parser.add_argument("--quick", action="store_true", help="one erasure of each kind, one seed")
    with command(parser, argv, trials=["quick"]) as arguments:
        results = table(arguments.output)
        if not arguments.page:
            chosen = erasures()
            if arguments.quick:
                chosen = [next(one for one in chosen if one.kind == kind) for kind in KINDS]
            bench = Bench(SEEDS[:1] if arguments.quick else SEEDS)
            pieces = [bench.piece(erasure, state) for erasure, state in work(chosen)]
            fill(results, pieces, overwrite=arguments.overwrite, whole=True)
        print(write_page(results.rows(), arguments.output))


if __name__ == "__main__":
    main()
