"""What goes and what stays where 1, 10, 50 and 100 objects of the embedded world are erased at once.

    python -m benchmarks.many_concepts            # measures what is missing in many_concepts.csv, then writes the page
    python -m benchmarks.many_concepts --page     # writes many_concepts.md and many_concepts.png from the CSV alone
    python -m benchmarks.many_concepts --counts 1 10 --pictures 8 --output FOLDER    # to try it

Interrupted, it goes on where it stopped. About three quarters of an hour on one core.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.harness import Piece, World, command, fill, method_of, quiet_trainer, table_parser, unet_digest
from benchmarks.many_concepts.bound import least_drift
from benchmarks.many_concepts.page import write_page
from benchmarks.many_concepts.plan import (
    ALL,
    BOUND,
    COUNTS,
    LEFT,
    ORIGINAL,
    SAMPLING,
    TARGET,
    Task,
    Way,
    cells,
    grid,
    recipe,
)
from benchmarks.many_concepts.table import Row, table
from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.diagnostics import remaining_answer
from rece_lightning.core.editors.null_space import NullSpace, null_space
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.moments import Moments
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.encoding import ConceptEncoder
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.metrics import harmonic_mean
from rece_lightning.models.text_space import TEXT, edited_spaces
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.ranking import Figures, Ranking
from rece_lightning.vocabulary.preserve import drifts

ENERGY = 0.99
"""Share of moments that the directions which are counted hold."""
WORST = 5


class Bench:
    """The embedded world, and what every cell needs of it.

    Args:
        pictures: of each role and cell at most; ``None``: all.
    """

    def __init__(self, pictures: int | None) -> None:
        self.world, self.pictures = World(), pictures
        self.encoder = ConceptEncoder(self.world.loaded.encoder, [TEXT])

    def pieces(self, counts: Sequence[int]) -> list[Piece[Row]]:
        """A piece a row, of so many concepts at once; what each count chooses is ranked first."""
        tasks = [Task(count) for count in counts]
        return [self.piece(task, *cell) for task in tasks for cell in cells(task, self.chosen(task))]

    def piece(self, task: Task, way: Way, preserve: str) -> Piece[Row]:
        """One row."""
        name = f"{task.count}: {way.name}{'' if preserve == ALL else ' ' + preserve}"
        made = recipe(task, way, preserve, self.pictures)
        key = (task.count, way.name, preserve)
        return Piece(name, {key: made}, lambda _: [[self.measure(task, way, preserve)]])

    def chosen(self, task: Task) -> list[Way]:
        """The most promising of each part of the grid: harmonic mean of what is gone and what has not moved."""
        ranking = Ranking(self.world.loaded, {TARGET: task.pairs}, [" ", *task.kept], task.kept)
        found = []
        for part in grid().values():
            by_setting = {Setting(method_of(one.settings), one.epochs, TARGET): one for one in part}
            promises = {
                setting: promise(figures)
                for setting, figures in ranking.rank(list(by_setting))
                if isinstance(figures, Figures)
            }
            if promises:
                found.append(by_setting[max(promises, key=lambda setting: promises[setting])])
        return found

    def measure(self, task: Task, way: Way, preserve: str) -> Row:
        """One row. An edit that is refused is one too."""
        made = recipe(task, way, preserve, self.pictures)
        row = Row(unet_digest(), task.count, way.name, preserve, "", made)
        if way.name == BOUND:
            return replace(row, least=self._least(task))
        values = dict(vars(row))
        gram, maps = self.world.gram, EmbeddingMap.identity(self.world.gram.width)
        if way.name != ORIGINAL:
            try:
                session, values["seconds"] = self._erased(task, way, preserve)
                values["settings"] = way.told(session)
            except ConfigurationError as error:
                return Row(**{**values, "error": " ".join(str(error).split())})
            gram, edited = session.gram, session.maps[TEXT]
            assert isinstance(edited, EmbeddingMap)
            maps = edited
            self.world.maker.use(session.erasure().weights())
        else:
            self.world.maker.use(None)
            values["moments"] = self._moments(task)
        rows = self.encoder.encoder.encode(task.kept).embeddings
        moved = dict(zip(task.kept, drifts(gram, maps, rows).tolist(), strict=True))
        shots = task.limited(self.pictures)
        kept = [shot.prompt for shot, _ in shots["kept"]]
        values |= {
            "remaining": remaining_answer(gram, maps, self._evidence(task)),
            "drift": sum(moved.values()) / len(moved),
            "worst": () if way.name == ORIGINAL else tuple(sorted(moved, key=lambda name: -moved[name])[:WORST]),
            "kept_names": tuple(kept),
            "kept_drifts": tuple(moved[name] for name in kept),
        }
        for role, part in shots.items():
            values[role] = self._hits(part)
        return Row(**values)

    def _erased(self, task: Task, way: Way, preserve: str) -> tuple[ErasureSession, float]:
        """The erasure after ``fit``, and its seconds."""
        module = RECE("emoji", method=method_of(way.settings), tune=way.tune)
        _ = module.session.encoder  # loading is no part of the erasure
        started = time.perf_counter()
        with redirect_stdout(io.StringIO()):  # what was chosen stands in the table
            quiet_trainer(way.epochs or None).fit(module, ConceptData(**task.data(preserve)))
        return module.session, time.perf_counter() - started

    def _hits(self, shots: Sequence[tuple[EvaluationPrompt, int]]) -> tuple[str, ...]:
        """Detections, prompt by prompt."""
        prompts = [row for row, _ in shots]
        hits: dict[str, str] = {}
        for row, hit in zip(prompts, self.world.detect(prompts, [seed for _, seed in shots], SAMPLING), strict=True):
            hits[row.prompt] = hits.get(row.prompt, "") + str(int(hit))
        return tuple(hits.values())

    def _evidence(self, task: Task) -> Moments:
        """Of all positions of the erased prompts."""
        statistics = ConceptStatistics({TEXT: self.world.gram.width}, "all")
        return statistics.update(self.encoder.pairs(task.pairs)).evidence()[TEXT].whole

    def _least(self, task: Task) -> tuple[float, ...]:
        """What no edit of values gets below; the drift is that of all kept names."""
        (space,) = edited_spaces(self.world.loaded.base.spaces, Method(projections="v"))
        kept = self.encoder.encoder.encode(task.kept).embeddings.flatten(0, 1)
        moments = replace(self._evidence(task), preserved=Moments.preserving(kept).preserved)
        return tuple(least_drift(self.world.loaded.gram(space), moments, left) for left in LEFT)

    def _moments(self, task: Task) -> tuple[float, ...]:
        """``MOMENTS`` of the table: what the closed forms are given."""
        moments = self._evidence(task)
        differences = moments.erased - moments.cross - moments.cross.mT + moments.target
        kept = Moments.preserving(self.encoder.encoder.encode([" ", *task.kept]).embeddings.flatten(0, 1)).preserved
        seen = leading(kept)
        inside = float((seen.mT @ differences @ seen).trace() / differences.trace())
        rows = self.encoder.invariants()[TEXT]
        free = [
            null_space(kept, self.world.gram, NullSpace(threshold=tau), rows).shape[1]
            for tau in (0.0, NullSpace().threshold)
        ]
        system = moments.erased + 0.1 * kept + 0.1 * torch.eye(len(kept), dtype=kept.dtype)
        condition = float(torch.linalg.cond(system))
        return leading(differences).shape[1], seen.shape[1], inside, float(free[0]), float(free[1]), condition


def leading(moments: Tensor) -> Tensor:
    """The fewest directions that hold ``ENERGY`` of moments ``[d, d]``: columns ``[d, r]``."""
    values, axes = torch.linalg.eigh(moments)
    shares = values.flip(0).cumsum(0) / values.sum()
    return axes.flip(1)[:, : int((shares < ENERGY).sum()) + 1]


def promise(figures: Figures) -> float:
    """Harmonic mean of what the figures say, without a picture."""
    return harmonic_mean(min(1.0, max(0.0, figures.remaining)), 1.0 - min(1.0, figures.drift))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("many_concepts", __doc__, "many_concepts.csv, .md and .png")
    parser.add_argument("--counts", type=int, nargs="+", choices=COUNTS, default=list(COUNTS), help="concepts at once")
    parser.add_argument("--pictures", type=int, default=None, help="of each role and cell at most, to try it")
    with command(parser, argv, trials=["pictures"]) as arguments:
        results = table(arguments.output)
        if not arguments.page:
            fill(results, Bench(arguments.pictures).pieces(arguments.counts), overwrite=arguments.overwrite)
        print(write_page(results.rows(), arguments.output))


if __name__ == "__main__":
    main()
