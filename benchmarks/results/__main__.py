"""What UCE and RECE remove and harm on the embedded world: one object, style or background at a time.

    python -m benchmarks.results            # measures what is missing in results.csv, then writes the page
    python -m benchmarks.results --page     # writes results.md and results.png from results.csv alone
    python -m benchmarks.results --quick --output FOLDER    # one erasure of each kind, one seed: to try it

Interrupted, it goes on where it stopped. About a quarter of an hour on two idle cores.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from benchmarks.harness import Piece, World, command, fill, fitted, table_parser, unet_digest
from benchmarks.results.draws import Draws, Shot
from benchmarks.results.page import write_page
from benchmarks.results.plan import HELD, KINDS, REFERENCE, SAMPLING, SEEDS, Erasure, State, erasures, recipes, states
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
        """The rows of a state: one a group of prompts."""
        made = recipes(erasure, state, self.seeds)
        return Piece(f"{erasure.name}: {state.name}", made, lambda _: [self.measure(erasure, state)])

    def pictures(self, shots: Sequence[Shot], erasure: Erasure, state: State) -> Tensor:
        """A state's pictures."""
        if state.settings is None:
            return self.draws.originals(shots)
        self.world.maker.use(fitted(state.settings, state.epochs, erasure.data).erasure().weights())
        return self.draws.make(shots)

    def measure(self, erasure: Erasure, state: State) -> list[Row]:
        """Draw a state's pictures, and measure them a group of prompts."""
        groups = {group: rows for group, rows in erasure.groups.items() if rows}
        shots = [(row, seed) for rows in groups.values() for row in rows for seed in self.seeds]
        before = self.draws.originals(shots)
        after = self.pictures(shots, erasure, state)
        found, first = [], 0
        for group, rows in groups.items():
            part = slice(first, first + len(rows) * len(self.seeds))
            first = part.stop
            found.append(self._row(erasure, state, group, before[part], after[part]))
        return found

    def _row(self, erasure: Erasure, state: State, group: str, before: Tensor, after: Tensor) -> Row:
        rows = erasure.groups[group]
        count = len(self.seeds)
        places = [place for place in range(len(rows)) for _ in range(count)]
        hits = self.world.detector.detect(after, [rows[place].concept for place in places]).view(-1, count)
        clip = ClipScore(self.clip, prompts=len(rows))
        clip.update(after, [rows[place].prompt for place in places], places)
        distance = PerceptualDistance(FeatureDistance(self.features), prompts=len(rows))
        distance.update(before, after, places)
        fid = kid = None
        if group == HELD:
            sets = FrechetDistance(self.features), KernelDistance(self.features)
            reference = self.draws.originals([(row, seed + REFERENCE) for row in rows for seed in self.seeds])
            for metric in sets:
                metric.update(after, reference=False)
                metric.update(reference, reference=True)
            fid, kid = (float(metric.compute()) for metric in sets)
        return Row(
            weights=unet_digest(),
            kind=erasure.kind,
            erasure=erasure.name,
            state=state.name,
            group=group,
            recipe=erasure.recipe(state, group, self.seeds),
            settings=state.told,
            prompts=tuple(row.prompt for row in rows),
            hits=tuple("".join(str(int(hit)) for hit in line) for line in hits.tolist()),
            clip=tuple((clip.sums / clip.counts).tolist()),
            distance=tuple((distance.sums / distance.counts).tolist()),
            fid=fid,
            kid=kid,
        )


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
            work = [bench.piece(erasure, state) for erasure in chosen for state in states(erasure.kind)]
            fill(results, work, overwrite=arguments.overwrite, whole=True)
        print(write_page(results.rows(), arguments.output))


if __name__ == "__main__":
    main()
