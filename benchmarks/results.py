"""What UCE and RECE remove and harm on the embedded world: one object, style or background at a time.

    python -m benchmarks.results            # measures what is missing in results.csv, then writes the page
    python -m benchmarks.results --page     # writes results.md and results.png from results.csv alone
    python -m benchmarks.results --quick --output FOLDER    # one erasure of each kind, one seed: to try it

Interrupted, it goes on where it stopped. About a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import diffusers
import torch
import transformers
from lightning.pytorch import Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from benchmarks.recipes import unet_digest
from benchmarks.results_page import write_page
from benchmarks.results_plan import (
    HELD,
    KINDS,
    REFERENCE,
    SAMPLING,
    SEEDS,
    Erasure,
    State,
    erasures,
    pictures_of,
    states,
)
from benchmarks.results_table import Row, check_same, left, read_rows, recipes, write_rows
from rece_lightning import RECE, ConceptData
from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.metrics import (
    Clip,
    ClipScore,
    EmojiDetector,
    EmojiFeatures,
    FeatureDistance,
    FrechetDistance,
    KernelDistance,
    PerceptualDistance,
)
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base

HERE = Path(__file__).parent
Shot = tuple[EvaluationPrompt, int]


class Bench:
    """The embedded world, its networks, and the original model's pictures, each made once."""

    def __init__(self, seeds: Sequence[int], on_batch: Callable[[int], None]) -> None:
        base = find_base("emoji")
        self.maker = PictureMaker.load(base, load_encoder(base), Placement(), torch.device("cpu"))
        self.detector, self.features, self.clip = EmojiDetector(), EmojiFeatures(), Clip()
        self.seeds, self.on_batch = seeds, on_batch
        self._originals: dict[tuple[str, int], Tensor] = {}

    def pictures(self, shots: Sequence[Shot], erasure: Erasure, state: State) -> Tensor:
        """A state's pictures."""
        if state.model is None:
            return self.originals(shots)
        self.maker.use(edited(erasure, state).edited_weights())
        return self._make(shots)

    def originals(self, shots: Sequence[Shot]) -> Tensor:
        """The original model's pictures."""
        missing = list({(row.prompt, seed): (row, seed) for row, seed in shots}.items())
        missing = [(key, shot) for key, shot in missing if key not in self._originals]
        if missing:
            self.maker.use(None)
            made = self._make([shot for _, shot in missing])
            self._originals |= {key: picture for (key, _), picture in zip(missing, made, strict=True)}
        return torch.stack([self._originals[row.prompt, seed] for row, seed in shots])

    def _make(self, shots: Sequence[Shot]) -> Tensor:
        prompts, seeds = [row for row, _ in shots], [seed for _, seed in shots]
        return self.maker.make(prompts, seeds, SAMPLING, on_batch=self.on_batch)

    def measure(self, weights: str, erasure: Erasure, state: State) -> list[Row]:
        """The rows of a state: one a group of prompts."""
        groups = {group: rows for group, rows in erasure.groups.items() if rows}
        shots = [(row, seed) for rows in groups.values() for row in rows for seed in self.seeds]
        before = self.originals(shots)
        after = self.pictures(shots, erasure, state)
        found, first = [], 0
        for group, rows in groups.items():
            part = slice(first, first + len(rows) * len(self.seeds))
            first = part.stop
            found.append(self._row(weights, erasure, state, group, before[part], after[part]))
        return found

    def _row(self, weights: str, erasure: Erasure, state: State, group: str, before: Tensor, after: Tensor) -> Row:
        rows = erasure.groups[group]
        count = len(self.seeds)
        places = [place for place in range(len(rows)) for _ in range(count)]
        hits = self.detector.detect(after, [rows[place].concept for place in places]).view(-1, count)
        clip = ClipScore(self.clip, prompts=len(rows))
        clip.update(after, [rows[place].prompt for place in places], places)
        distance = PerceptualDistance(FeatureDistance(self.features), prompts=len(rows))
        distance.update(before, after, places)
        fid = kid = None
        if group == HELD:
            sets = FrechetDistance(self.features), KernelDistance(self.features)
            reference = self.originals([(row, seed + REFERENCE) for row in rows for seed in self.seeds])
            for metric in sets:
                metric.update(after, reference=False)
                metric.update(reference, reference=True)
            fid, kid = (float(metric.compute()) for metric in sets)
        return Row(
            weights=weights,
            kind=erasure.kind,
            erasure=erasure.name,
            state=state.name,
            group=group,
            recipe=erasure.recipe(state, group, self.seeds),
            settings=state.settings,
            prompts=tuple(row.prompt for row in rows),
            hits=tuple("".join(str(int(hit)) for hit in line) for line in hits.tolist()),
            clip=tuple((clip.sums / clip.counts).tolist()),
            distance=tuple((distance.sums / distance.counts).tolist()),
            fid=fid,
            kid=kid,
        )


def edited(erasure: Erasure, state: State) -> RECE:
    """The module after ``fit``: what a configuration with these settings gives."""
    module = RECE(pretrained="emoji", **(state.model or {}))
    trainer = Trainer(
        max_epochs=state.epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(**erasure.data))
    return module


def measure(path: Path, chosen: Sequence[Erasure], seeds: Sequence[int], overwrite: bool) -> None:
    """Measure every missing row.

    Raises:
        ConfigurationError: if the table is of other weights or settings.
    """
    weights = unet_digest()
    work = [(erasure, state) for erasure in chosen for state in states(erasure.kind)]
    rows = [] if overwrite else read_rows(path)
    check_same(rows, weights, recipes(work, seeds), path)
    work = left(work, rows)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("pictures"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        task = progress.add_task("loading", total=pictures_of(work, seeds))
        bench = Bench(seeds, lambda count: progress.advance(task, count))
        for erasure, state in work:
            progress.update(task, description=f"{erasure.name}: {state.name}")
            fresh = bench.measure(weights, erasure, state)
            keys = {row.key for row in fresh}
            rows = [row for row in rows if row.key not in keys] + fresh
            write_rows(rows, path)


def be_quiet() -> None:
    """Leave the terminal to the progress: every fit and every loaded part would say something."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--quick", action="store_true", help="one erasure of each kind, one seed")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.csv, results.md and results.png")
    parser.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    arguments = parser.parse_args()
    if arguments.quick and arguments.output.resolve() == HERE:
        parser.error("--quick is for trying: give --output FOLDER")
    be_quiet()
    path = arguments.output / "results.csv"
    try:
        if not arguments.page:
            chosen = erasures()
            if arguments.quick:
                chosen = [next(one for one in chosen if one.kind == kind) for kind in KINDS]
            measure(path, chosen, SEEDS[:1] if arguments.quick else SEEDS, arguments.overwrite)
        print(write_page(read_rows(path), arguments.output))
    except ConfigurationError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
