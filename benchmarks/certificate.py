"""Does the residual that a certificate bounds say what a detector sees? Writes certificate.csv, .md and .png.

    python -m benchmarks.certificate            # measures what is missing in certificate.csv, then writes the page
    python -m benchmarks.certificate --page     # writes the page and the plot from what was measured
    python -m benchmarks.certificate --quick --output FOLDER    # two concepts, three edits: to try it

Twelve objects and four styles of the embedded world, one erased at a time by many edits. A line of the CSV is a
concept, an edit and a budget: certificate and residual, and in how many pictures the detector sees the concept under
the derived embedding of that budget. Interrupted, it goes on where it stopped. Some twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.certificate_page import TARGET, UNEDITED, write_page
from benchmarks.recipes import command_of, digest, unet_digest
from benchmarks.results import be_quiet
from benchmarks.results_plan import ERASED, KINDS, Erasure, configuration, objects, styles
from benchmarks.tables import of_plain_columns, read_measured, write_table
from rece_lightning import RECE, ConceptData
from rece_lightning.attacks.derived import derived_curve
from rece_lightning.cli.verbs import fail
from rece_lightning.core.certificate import certify
from rece_lightning.core.editors.projection import Projection
from rece_lightning.core.editors.uce import EditScales
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap
from rece_lightning.core.eraser import LoopSettings, RECELoop
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.sampling import Sampling, generate
from rece_lightning.vocabulary.preserve import encoded_sums

HERE = Path(__file__).parent
BUDGETS = (0.5, 1.0, math.inf)
RIDGE = 1e-3
"""λ of the derivation in RECE's epochs: what the shipped configurations of the embedded world take."""


@dataclass(frozen=True)
class Row:
    """A concept, an edit and a budget."""

    recipe: str
    kind: str
    concept: str
    edit: str
    budget: float
    certificate: float
    """δ over the concept's difference to its target; without a budget 0 where the map can be inverted."""
    residual: float
    """What the derived embedding that was drawn reaches, over the same."""
    norm_ratio: float
    hits: int
    total: int

    @property
    def key(self) -> tuple[str, str, float]:
        """What is measured once."""
        return self.concept, self.edit, self.budget


@dataclass(frozen=True)
class Edit:
    """Settings of a loop, and after how many of its epochs it is looked at."""

    name: str
    settings: LoopSettings
    epochs: int = 1


def edits(kind: str, quick: bool) -> list[Edit]:
    """UCE at two scales, RECE's epochs with and without accumulation, projections over shrinkage and rank."""
    model = configuration(KINDS[kind][0])["model"]
    scales = EditScales(1.0, float(model.get("preserve_scale", 0.1)), float(model.get("lamb", 0.1)))
    base = LoopSettings(scales=scales, regular_scale=RIDGE)
    other = replace(scales, lamb=100 * scales.lamb if scales.lamb < 1 else scales.lamb / 100)
    found = [Edit("UCE", base), Edit("UCE, other λ₂", replace(base, scales=other))]
    found += [Edit(f"RECE, {epochs - 1} epochs", base, epochs) for epochs in (2, 4)]
    found.append(Edit("RECE accumulated, 3 epochs", replace(base, accumulate=True), 4))
    for rank in (1, 2, 4):
        for shrinkage in (0.03, 0.3, 3.0, 20.0):
            settings = replace(base, editor="projection", projection=Projection(rank, shrinkage))
            found.append(Edit(f"projection, κ {shrinkage:g}, rank {rank}", settings))
    return [found[0], found[3], found[7]] if quick else found


def read_rows(path: Path) -> list[Row]:
    """What was measured."""
    return read_measured(path, of_plain_columns(Row))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The whole CSV, atomically."""
    write_table(path, [one.name for one in fields(Row)], map(asdict, rows))


class Bench:
    """The embedded world, loaded once."""

    def __init__(self, sampling: Sampling, pictures: int) -> None:
        self.module, self.detector = RECE(pretrained="emoji"), EmojiDetector()
        self.sampling, self.pictures = sampling, pictures
        self.stored = next(iter(self.module.base.read_projections(self.module.names[:1])))[1].dtype

    def maps(self, erasure: Erasure, wanted: Sequence[Edit]) -> Iterator[tuple[Edit, AnyMap]]:
        """The maps of some edits of one concept; what is encoded serves all of them."""
        module = self.module
        data = ConceptData(**erasure.data)
        sums = encoded_sums(data, module.encoder, module.hparams["tokens"], module.gram.total.device)
        evidence = sums.evidence(module.gram.width)
        for edit in wanted:
            if edit.name in (UNEDITED, TARGET):
                yield edit, EmbeddingMap.identity(module.gram.width)
            else:
                yield edit, RECELoop(module.gram, evidence, edit.settings).run(edit.epochs)

    def measure(self, erasure: Erasure, edit: Edit, maps: AnyMap, budgets: Sequence[float], recipe: str) -> list[Row]:
        """Certificate, residual and detections of some budgets; their pictures are made together."""
        module, gram = self.module, self.module.gram
        prompt, target = asked(erasure)
        own, plain, empty = module.pictures.embed([prompt, target, ""])
        concept, wanted = own.embedding.double(), plain.embedding.double()
        difference = concept - wanted
        size = float((difference @ gram.total * difference).sum())
        answer = float((concept @ gram.total * concept).sum())
        points = derived_curve(gram, maps, concept, budgets)
        given = [plain.embedding if edit.name == TARGET else point.embedding.to(plain.embedding) for point in points]
        requests = [replace(own, embedding=one, seed=seed) for one in given for seed in range(self.pictures)]
        module.pictures.use(dict(module.edited_weights(maps)))
        made = generate(module.pictures.pipeline, requests, empty, self.sampling)
        hits = self.detector.detect(made, [erasure.name] * len(requests)).view(len(budgets), -1).sum(1).tolist()
        rows = []
        for budget, point, seen in zip(budgets, points, hits, strict=True):
            limit = None if math.isinf(budget) else budget
            found = certify(gram, maps, concept[None], wanted[None], limit, stored=self.stored)
            left, ratio = max(point.residual, 0.0) * answer / size, point.ratio
            if edit.name == TARGET:
                left, ratio = 1.0, float(wanted.norm() / concept.norm())
            what = (recipe, erasure.kind, erasure.name, edit.name, budget)
            rows.append(Row(*what, float(found.relative), left, ratio, int(seen), self.pictures))
        return rows


def asked(erasure: Erasure) -> tuple[str, str]:
    """The prompt that is looked at, with its target: the object, or the style's first prompt in context."""
    if erasure.kind == "objects":
        return erasure.groups[ERASED][0].prompt, str(erasure.data.get("target", " "))
    first = erasure.data["concepts"][0]
    return first["prompt"], first["target"]


def recipe_of(erasure: Erasure, edit: Edit, sampling: Sampling, pictures: int) -> str:
    """Digest of all that decides a line."""
    what: dict[str, Any] = {"data": erasure.data, "asked": asked(erasure), "pictures": pictures, "as": str(sampling)}
    what |= {"settings": str(edit.settings), "epochs": edit.epochs, "edit": edit.name}
    return digest({**what, "weights": unet_digest()})


def measure(path: Path, quick: bool, pictures: int, steps: int, overwrite: bool) -> None:
    """Measure what the CSV lacks.

    Raises:
        ConfigurationError: if the CSV is of other weights or settings.
    """
    sampling = Sampling(steps, 4.0, 64)
    rows = [] if overwrite else read_rows(path)
    chosen = [*objects()[:1], *styles()[:1]] if quick else [*objects(), *styles()]
    work: list[tuple[Erasure, list[Edit]]] = []
    recipes: dict[tuple[str, str], str] = {}
    for erasure in chosen:
        mine = [*(Edit(name, LoopSettings()) for name in (UNEDITED, TARGET)), *edits(erasure.kind, quick)]
        recipes |= {(erasure.name, edit.name): recipe_of(erasure, edit, sampling, pictures) for edit in mine}
        work.append((erasure, mine))
    stale = [row for row in rows if recipes.get((row.concept, row.edit), row.recipe) != row.recipe]
    if stale:
        raise ConfigurationError(f"{path}: it is of other weights or settings; give --overwrite, or another --output.")
    done = {row.key for row in rows}
    total = sum(len(left(erasure, edit, done)) for erasure, mine in work for edit in mine)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("points"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        task, bench = progress.add_task("loading", total=total), Bench(sampling, pictures)
        for erasure, mine in work:
            wanted = [edit for edit in mine if left(erasure, edit, done)]
            for edit, maps in bench.maps(erasure, wanted) if wanted else ():
                progress.update(task, description=f"{erasure.name}: {edit.name}")
                missing = left(erasure, edit, done)
                rows += bench.measure(erasure, edit, maps, missing, recipes[erasure.name, edit.name])
                progress.advance(task, len(missing))
                write_rows(path, rows)


def budgets_of(edit: Edit) -> tuple[float, ...]:
    """The unedited model answers at once, whatever the budget from 1 up."""
    return (1.0,) if edit.name in (UNEDITED, TARGET) else BUDGETS


def left(erasure: Erasure, edit: Edit, done: set[tuple[str, str, float]]) -> list[float]:
    """Budgets that are still to be measured."""
    return [budget for budget in budgets_of(edit) if (erasure.name, edit.name, budget) not in done]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certificate", description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--quick", action="store_true", help="two concepts, three edits")
    parser.add_argument("--pictures", type=int, default=8, help="of every point")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    parser.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the CSV, the page and the plot")
    arguments = parser.parse_args()
    if arguments.quick and arguments.output.resolve() == HERE:
        parser.error("--quick is for trying: give --output FOLDER")
    be_quiet()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "certificate.csv"
    try:
        if not arguments.page:
            measure(path, arguments.quick, arguments.pictures, arguments.steps, arguments.overwrite)
        rows = read_rows(path)
        if not rows:
            raise ConfigurationError(f"{path}: nothing was measured yet; leave --page out.")
        print(write_page(rows, arguments.output, command_of(parser, arguments, ("quick", "pictures", "steps"))))
    except ConfigurationError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
