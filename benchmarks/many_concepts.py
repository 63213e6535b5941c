"""What goes and what stays where 1, 10, 50 and 100 objects of the embedded world are erased at once.

    python -m benchmarks.many_concepts            # measures what is missing in many_concepts.csv, then writes the page
    python -m benchmarks.many_concepts --page     # writes many_concepts.md and many_concepts.png from the CSV alone
    python -m benchmarks.many_concepts --counts 1 10 --pictures 8 --output FOLDER    # to try it

Interrupted, it goes on where it stopped. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from benchmarks.many_concepts_page import write_page
from benchmarks.many_concepts_plan import (
    ALL,
    COUNTS,
    SAMPLING,
    TARGET,
    Method,
    Task,
    cells,
    grid,
    recipe,
)
from benchmarks.many_concepts_table import Row, read_rows, write_rows
from benchmarks.recipes import unet_digest
from benchmarks.results import be_quiet
from rece_lightning import RECE, ConceptData
from rece_lightning.cli.verbs import fail
from rece_lightning.core.diagnostics import remaining_answer
from rece_lightning.core.editors.null_space import NullSpace, null_space
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.devices.placement import Placement
from rece_lightning.erasure.encoding import encode_pairs, gather_evidence, invariant_rows
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.metrics import EmojiDetector, harmonic_mean
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.sweep.grid import EPOCHS, MODEL, Setting
from rece_lightning.sweep.grid import TARGET as TARGET_KEY
from rece_lightning.sweep.ranking import Figures, Ranking
from rece_lightning.vocabulary.preserve import drifts

HERE = Path(__file__).parent
ENERGY = 0.99
"""Share of moments that the directions which are counted hold."""
WORST = 5


class Bench:
    """The embedded world, and what every cell needs of it.

    Args:
        pictures: of each role and cell at most; ``None``: all.
        on_batch: told how many pictures were made.
    """

    def __init__(self, pictures: int | None, on_batch: Callable[[int], None]) -> None:
        self.base = find_base("emoji")
        self.encoder = load_encoder(self.base)
        self.maker = PictureMaker.load(self.base, self.encoder, Placement(), torch.device("cpu"))
        self.detector = EmojiDetector()
        self.gram = Gram.of(self.base.read_projections())
        self.pictures, self.on_batch = pictures, on_batch
        self.weights = unet_digest()

    def chosen(self, task: Task) -> list[Method]:
        """The most promising of each part of the grid: harmonic mean of what is gone and what has not moved."""
        module = RECE("emoji")
        ranking = Ranking(module, {TARGET: task.pairs}, [" ", *task.kept], task.kept)
        base = {**{f"model.{key}": module.hparams[key] for key in MODEL}, EPOCHS: 1, TARGET_KEY: TARGET}
        found = []
        for part in grid().values():
            by_setting = {
                Setting.of(
                    {**{f"model.{key}": value for key, value in one.model.items()}, EPOCHS: one.epochs}, base
                ): one
                for one in part
            }
            promises = {
                setting: promise(figures)
                for setting, figures in ranking.rank(list(by_setting))
                if isinstance(figures, Figures)
            }
            if promises:
                found.append(by_setting[max(promises, key=lambda setting: promises[setting])])
        return found

    def measure(self, task: Task, method: Method, preserve: str) -> Row:
        """One row. An edit that is refused is one too."""
        row = Row(
            self.weights,
            task.count,
            method.name,
            preserve,
            method.settings if method.epochs else "",
            recipe(task, method, preserve, self.pictures),
        )
        values = dict(vars(row))
        maps: AnyMap = EmbeddingMap.identity(self.gram.width)
        gram = self.gram
        if method.epochs:
            try:
                module, values["seconds"] = self._erased(task, method, preserve)
            except ConfigurationError as error:
                return Row(**{**values, "error": " ".join(str(error).split())})
            maps, gram = module.maps, module.gram
            self.maker.use(module.edited_weights())
        else:
            self.maker.use(None)
            values["moments"] = self._moments(task)
        rows = self.encoder.encode(task.kept).embeddings
        assert isinstance(maps, EmbeddingMap)
        moved = dict(zip(task.kept, drifts(gram, maps, rows).tolist(), strict=True))
        shots = task.limited(self.pictures)
        kept = [shot.prompt for shot, _ in shots["kept"]]
        values |= {
            "remaining": remaining_answer(gram, maps, self._evidence(task)),
            "drift": sum(moved.values()) / len(moved),
            "worst": tuple(sorted(moved, key=lambda name: -moved[name])[:WORST]) if method.epochs else (),
            "kept_names": tuple(kept),
            "kept_drifts": tuple(moved[name] for name in kept),
        }
        for role, part in shots.items():
            values[role] = self._hits(part)
        return Row(**values)

    def _erased(self, task: Task, method: Method, preserve: str) -> tuple[RECE, float]:
        """The module after ``fit``, and its seconds."""
        module = RECE("emoji", **method.model)
        _ = module.encoder  # loading is no part of the erasure
        trainer = Trainer(
            max_epochs=method.epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        started = time.perf_counter()
        trainer.fit(module, ConceptData(**task.data(preserve)))
        return module, time.perf_counter() - started

    def _hits(self, shots: Sequence[tuple]) -> tuple[str, ...]:  # type: ignore[type-arg]
        """Detections, prompt by prompt."""
        prompts, seeds = [row for row, _ in shots], [seed for _, seed in shots]
        pictures = self.maker.make(prompts, seeds, SAMPLING, on_batch=self.on_batch)
        hits: dict[str, str] = {}
        for row, hit in zip(prompts, self.detector.detect(pictures, [row.concept for row in prompts]), strict=True):
            hits[row.prompt] = hits.get(row.prompt, "") + str(int(hit))
        return tuple(hits.values())

    def _evidence(self, task: Task) -> Moments:
        pairs = encode_pairs(self.encoder, task.erased, [TARGET] * task.count, [1.0] * task.count)
        return gather_evidence(pairs, [], "all", "cpu").whole

    def _moments(self, task: Task) -> tuple[float, ...]:
        """``MOMENTS`` of the table: what the closed forms are given."""
        moments = self._evidence(task)
        differences = moments.erased - moments.cross - moments.cross.mT + moments.target
        kept = Moments.preserving(self.encoder.encode([" ", *task.kept]).embeddings.flatten(0, 1)).preserved
        seen = leading(kept)
        inside = float((seen.mT @ differences @ seen).trace() / differences.trace())
        rows = invariant_rows(self.encoder)
        free = [null_space(kept, self.gram, NullSpace(tau), rows).shape[1] for tau in (0.0, NullSpace().threshold)]
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


def measure(path: Path, counts: Sequence[int], pictures: int | None, overwrite: bool) -> None:
    """Measure every missing row.

    Raises:
        ConfigurationError: if the table is of other weights or settings.
    """
    rows = [] if overwrite else read_rows(path)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("pictures"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        bar = progress.add_task("loading", total=None)
        bench = Bench(pictures, lambda made: progress.advance(bar, made))
        work = []
        for count in counts:
            task = Task(count)
            progress.update(bar, description=f"{count}: ranking")
            work += [(task, method, preserve) for method, preserve in cells(task, bench.chosen(task))]
        wanted = {(t.count, m.name, p): recipe(t, m, p, pictures) for t, m, p in work}
        for row in rows:
            if row.weights != bench.weights or wanted.get(row.key, row.recipe) != row.recipe:
                raise ConfigurationError(
                    f"{path}: {row.method} of {row.count} concepts was measured on other weights, settings or seeds; "
                    "give --overwrite to measure anew, or --output for another folder."
                )
        done = {row.key for row in rows}
        work = [one for one in work if (one[0].count, one[1].name, one[2]) not in done]
        progress.update(bar, total=sum(len(part) for t, _, _ in work for part in t.limited(pictures).values()))
        for task, method, preserve in work:
            progress.update(bar, description=f"{task.count}: {method.name}{'' if preserve == ALL else ' ' + preserve}")
            rows = [*rows, bench.measure(task, method, preserve)]
            write_rows(rows, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_concepts", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--counts", type=int, nargs="+", choices=COUNTS, default=list(COUNTS), help="concepts at once")
    parser.add_argument("--pictures", type=int, default=None, help="of each role and cell at most, to try it")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of many_concepts.csv, .md and .png")
    parser.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    arguments = parser.parse_args(argv)
    if arguments.pictures is not None and arguments.output.resolve() == HERE:
        parser.error("--pictures is for trying: give --output FOLDER")
    be_quiet()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "many_concepts.csv"
    try:
        if not arguments.page:
            measure(path, arguments.counts, arguments.pictures, arguments.overwrite)
        print(write_page(read_rows(path), arguments.output))
    except ConfigurationError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
