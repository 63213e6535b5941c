"""What does it cost to take concepts out of every embedding's reach? Writes reach.csv and reach.md.

    python -m benchmarks.reach             # measures what is missing in reach.csv, then writes the page
    python -m benchmarks.reach --page      # writes it from reach.csv alone
    python -m benchmarks.reach --parts "one style" --output FOLDER      # to try it

One object, five weapons, ten objects and one style at a time, five weapons in the world with two text spaces; and the
least drift that any map of the kind costs, by eigenvalues alone. Interrupted, it goes on where it stopped. About five
minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from benchmarks.harness import Piece, Table, World, command, command_of, fill, method_of, quiet_trainer, table_parser
from benchmarks.many_concepts.plan import ordered_objects
from benchmarks.reach.bound import least_drift
from benchmarks.reach.page import BOUND, CERTIFICATES, Row, write_page
from benchmarks.reach.plan import SAMPLING, State, Task, at_once, both_spaces, tasks
from rece_lightning import RECE, ConceptData
from rece_lightning.attacks.derived import derived_curve
from rece_lightning.core.diagnostics import preservation_drift
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.moments import Moments
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.metrics import Share
from rece_lightning.models.sampling import Request, generate
from rece_lightning.models.text_space import TEXT

BOUND_COUNTS = (1, 2, 5, 10, 20)


class Bench:
    """The embedded worlds, each loaded at first use."""

    def __init__(self) -> None:
        self._worlds: dict[str, World] = {}

    def world(self, pretrained: str) -> World:
        """By the name of ``model.pretrained``."""
        return self._worlds.setdefault(pretrained, World(pretrained))

    def piece(self, task: Task, state: State) -> Piece[Row]:
        """One row."""
        key = task.part, task.name, state.name
        return Piece(f"{task.name}: {state.name}", {key: task.recipe(state)}, lambda _: [[self.measure(task, state)]])

    def fit(self, task: Task, state: State) -> ErasureSession:
        """The erasure; of the original its prompts alone."""
        module = RECE(task.pretrained, method=method_of(state.settings or {}))
        quiet_trainer(1).fit(module, ConceptData(**task.data))
        return module.session

    def measure(self, task: Task, state: State) -> Row:
        """Pictures of every group, and what needs none."""
        world = self.world(task.pretrained)
        row = Row(task.recipe(state), task.part, task.name, state.name, state.told)
        if state.settings is None:
            world.maker.use(None)
            shown = {group: self.drawn(world, *shots, task.apart) for group, shots in task.shots.items()}
            return replace(row, **_named(shown))
        session = self.fit(task, state)
        world.maker.use(session.erasure().weights())
        asked = {group: shots for group, shots in task.shots.items() if group != "floor"}
        shown = {group: self.drawn(world, *shots, task.apart) for group, shots in asked.items()}
        shown["derived"] = self.given_derived(world, session, task)
        world.maker.use(None)
        maps = session.maps[TEXT]
        assert isinstance(maps, EmbeddingMap)
        drift = preservation_drift(session.gram, maps, moments(session, task.drift))
        found = certificates(session.erasure(), session.erased_prompts, session.pairs, [])
        bounds = [one.bounds[None] for one in found if not math.isnan(one.bounds[None])]
        return replace(
            row, **_named(shown), drift=drift, certificate=min(bounds), mean_certificate=sum(bounds) / len(bounds)
        )

    def drawn(self, world: World, prompts: Sequence[EvaluationPrompt], seeds: int, apart: bool) -> str:
        """Clusters of the pictures that show their prompt's concept."""
        rows = [row for row in prompts for _ in range(seeds)]
        numbers = list(range(len(rows))) if apart else list(range(seeds)) * len(prompts)
        hits = world.detect(rows, numbers, SAMPLING)
        return clusters(hits, [row.prompt for row in rows])

    def given_derived(self, world: World, session: ErasureSession, task: Task) -> str:
        """The same under the derived embedding of any norm, in every text space at once; untouched readers meet it."""
        met, requests, rows = session.attacked(session.maps), list[Request](), list[EvaluationPrompt]()
        for row in task.derived:
            (own,) = world.maker.embed([row.prompt])
            (point,) = derived_curve(*met[TEXT], own.embedding, [math.inf])
            given = replace(own, embedding=point.embedding.to(own.embedding))
            if own.pooled is not None and "pooled" in met:
                (point,) = derived_curve(*met["pooled"], own.pooled[None], [math.inf])
                given = replace(given, pooled=point.embedding[0].to(own.pooled))
            first = len(requests) if task.apart else 0
            requests += [replace(given, seed=first + seed) for seed in range(task.derived_seeds)]
            rows += [row] * task.derived_seeds
        (empty,) = world.maker.embed([""])
        pictures = generate(world.maker.pipeline, requests, empty, SAMPLING)
        hits = world.detector.detect(pictures, [row.concept for row in rows])
        return clusters(hits, [row.prompt for row in rows])

    def bounds(self) -> Iterator[Piece[Row]]:
        """The least drift for so many objects at once, no picture and no edit."""
        for count in BOUND_COUNTS:
            erased = ordered_objects()[30 : 30 + count]
            task = at_once(BOUND, f"{count} objects", erased, [])
            state = State(BOUND, {"projections": "v"})
            key = BOUND, task.name, BOUND
            yield Piece(task.name, {key: task.recipe(state)}, lambda _, t=task, s=state: [[self.bound(t, s)]])  # type: ignore[misc]
        other, both = replace(both_spaces(), part=BOUND, name="5 objects, second world's rows"), State(BOUND, {})
        yield Piece(other.name, {(BOUND, other.name, BOUND): other.recipe(both)}, lambda _: [[self.bound(other, both)]])

    def bound(self, task: Task, state: State) -> Row:
        """One row of them."""
        session = self.fit(task, state)
        kept = moments(session, task.drift)
        least = tuple(least_drift(session.gram, session.pairs[TEXT], kept, one) for one in CERTIFICATES)
        return Row(task.recipe(state), BOUND, task.name, BOUND, state.told, least=least)


def moments(session: ErasureSession, prompts: Sequence[str]) -> Tensor:
    """``Σ x xᵀ`` over the rows of prompts, ``[d, d]``."""
    rows = session.encoder.encode(list(prompts)).embeddings.double()
    return Moments.preserving(rows.flatten(0, 1)).preserved


def clusters(hits: Tensor, prompts: Sequence[str]) -> str:
    """``2/5 0/5``: hits and pictures of every prompt."""
    return " ".join(f"{one}/{total}" for one, total in Share.of(hits.tolist(), prompts).clusters)


def _named(shown: dict[str, str]) -> dict[str, str]:
    return {{"kept": "preserved"}.get(group, group): found for group, found in shown.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("reach", __doc__, "reach.csv and reach.md")
    parser.add_argument("--parts", default="", help="separated by commas; all unless given")
    with command(parser, argv, trials=["parts"]) as arguments:
        table = Table(arguments.output / "reach.csv", Row, digits=6)
        wanted = [part for part in arguments.parts.split(",") if part]
        if not arguments.page:
            bench = Bench()
            work = [bench.piece(task, state) for task in tasks() for state in task.states]
            work = [*bench.bounds(), *work]
            work = [one for one in work if not wanted or {key[0] for key in one.recipes} & set(wanted)]  # type: ignore[index]
            fill(table, work, overwrite=arguments.overwrite)
        print(write_page(table.rows(), arguments.output, command_of(parser, arguments, ["parts"])).read_text("utf-8"))


if __name__ == "__main__":
    main()
