"""Does the residual that a certificate bounds say what a detector sees? Writes certificate.csv, .md and .png.

    python -m benchmarks.certificate            # measures what is missing in certificate.csv, then writes the page
    python -m benchmarks.certificate --page     # writes the page and the plot from what was measured
    python -m benchmarks.certificate --quick --output FOLDER    # two concepts, three edits: to try it

Twelve objects and four styles of the embedded world, one erased at a time by many edits. A line of the CSV is a
concept, an edit and a budget: certificate and residual, and in how many pictures the detector sees the concept under
the derived embedding of that budget. Interrupted, it goes on where it stopped. Some twenty minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.certificate.page import TARGET, UNEDITED, Row, write_page
from benchmarks.harness import (
    Configuration,
    Piece,
    Settings,
    Table,
    World,
    command,
    command_of,
    digest,
    fill,
    former_loop,
    method_of,
    table_parser,
    unet_digest,
)
from benchmarks.results.plan import ERASED, KINDS, Erasure, objects, styles
from rece_lightning import ConceptData, Method
from rece_lightning.attacks.derived import derived_curve
from rece_lightning.core.certificate import certify
from rece_lightning.core.embedding_map import AnyMap, EmbeddingMap
from rece_lightning.core.eraser import Eraser
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.sampling import Sampling, generate
from rece_lightning.models.text_space import TEXT

BUDGETS = (0.5, 1.0, math.inf)
RIDGE = 1e-3
"""λ of the derivation in RECE's epochs: what the shipped configurations of the embedded world take."""


@dataclass(frozen=True)
class Edit:
    """Settings of a method, and after how many of its epochs it is looked at."""

    name: str
    settings: Settings
    epochs: int = 1

    @property
    def budgets(self) -> tuple[float, ...]:
        """The unedited model answers at once, whatever the budget from 1 up."""
        return (1.0,) if self.name in (UNEDITED, TARGET) else BUDGETS


def edits(kind: str, *, quick: bool) -> list[Edit]:
    """None; UCE at two scales, RECE's epochs with and without accumulation, projections over shrinkage and rank."""
    shipped = Configuration.shipped(KINDS[kind][0]).settings
    preserved, lamb = (float(shipped.get(f"editor.{name}", 0.1)) for name in ("preserve_scale", "lamb"))
    base = {"editor.preserve_scale": preserved, "editor.lamb": lamb, "derivation.scale": RIDGE}
    other = {**base, "editor.lamb": 100 * lamb if lamb < 1 else lamb / 100}
    found = [Edit("UCE", base), Edit("UCE, other λ₂", other)]
    found += [Edit(f"RECE, {epochs - 1} epochs", base, epochs) for epochs in (2, 4)]
    found.append(Edit("RECE accumulated, 3 epochs", {**base, "accumulate": True}, 4))
    for rank in (1, 2, 4):
        for shrinkage in (0.03, 0.3, 3.0, 20.0):
            settings = {**base, "editor": "Projection", "editor.rank": rank, "editor.shrinkage": shrinkage}
            found.append(Edit(f"projection, κ {shrinkage:g}, rank {rank}", settings))
    found = [found[0], found[3], found[7]] if quick else found
    return [Edit(UNEDITED, {}), Edit(TARGET, {}), *found]


class Bench:
    """The embedded world, loaded once; an erasure's prompts are encoded once for all its edits.

    Args:
        sampling: of the pictures.
        pictures: of every point.
    """

    def __init__(self, sampling: Sampling, pictures: int) -> None:
        self.world, self.sampling, self.pictures = World(), sampling, pictures
        self._counted: tuple[str, ErasureSession] | None = None

    def piece(self, erasure: Erasure, edit: Edit) -> Piece[Row]:
        """The budgets of one edit of one concept."""
        made = recipe(erasure, edit, self.sampling, self.pictures)
        keys = {(erasure.name, edit.name, budget): made for budget in edit.budgets}
        return Piece(f"{erasure.name}: {edit.name}", keys, lambda _: [list(self.measure(erasure, edit))])

    def session(self, erasure: Erasure) -> ErasureSession:
        """With the prompts of an erasure counted."""
        if self._counted is None or self._counted[0] != erasure.name:
            session = ErasureSession(self.world.loaded, Method())
            for batch in ConceptData(**erasure.data).batches():
                session.count(batch)
            self._counted = erasure.name, session
        return self._counted[1]

    def maps(self, erasure: Erasure, edit: Edit) -> AnyMap:
        """``M`` of an edit."""
        session = self.session(erasure)
        if edit.name in (UNEDITED, TARGET):
            return EmbeddingMap.identity(session.gram.width)
        evidence = session.statistics.evidence()[TEXT]
        return Eraser(method_of(edit.settings), evidence, session.gram).run(edit.epochs).maps

    def measure(self, erasure: Erasure, edit: Edit) -> Iterator[Row]:
        """Certificate, residual and detections of all budgets; their pictures are made together."""
        session, maps, budgets = self.session(erasure), self.maps(erasure, edit), edit.budgets
        gram, maker = session.gram, self.world.maker
        prompt, target = asked(erasure)
        own, plain, empty = maker.embed([prompt, target, ""])
        concept, wanted = own.embedding.double(), plain.embedding.double()
        difference = concept - wanted
        size = float((difference @ gram.total * difference).sum())
        answer = float((concept @ gram.total * concept).sum())
        points = derived_curve(gram, maps, concept, budgets)
        given = [plain.embedding if edit.name == TARGET else point.embedding.to(plain.embedding) for point in points]
        requests = [replace(own, embedding=one, seed=seed) for one in given for seed in range(self.pictures)]
        finished = session.erasure({TEXT: maps})
        stored = next(finished.original())[1].dtype
        maker.use(finished.weights())
        made = generate(maker.pipeline, requests, empty, self.sampling)
        seen = self.world.detector.detect(made, [erasure.name] * len(requests)).view(len(budgets), -1).sum(1)
        for budget, point, hits in zip(budgets, points, seen.tolist(), strict=True):
            limit = None if math.isinf(budget) else budget
            found = certify(gram, maps, concept[None], wanted[None], limit, stored=stored)
            left, ratio = max(point.residual, 0.0) * answer / size, point.ratio
            if edit.name == TARGET:
                left, ratio = 1.0, float(wanted.norm() / concept.norm())
            what = (recipe(erasure, edit, self.sampling, self.pictures), erasure.kind, erasure.name, edit.name, budget)
            yield Row(*what, float(found.relative), left, ratio, int(hits), self.pictures)


def asked(erasure: Erasure) -> tuple[str, str]:
    """The prompt that is looked at, with its target: the object, or the style's first prompt in context."""
    if erasure.kind == "objects":
        return erasure.groups[ERASED][0].prompt, str(erasure.data.get("target", " "))
    first = erasure.data["concepts"][0]
    return first["prompt"], first["target"]


def recipe(erasure: Erasure, edit: Edit, sampling: Sampling, pictures: int) -> str:
    """Digest of all that decides a line."""
    return digest({
        "data": erasure.data, "asked": asked(erasure), "pictures": pictures, "as": str(sampling),
        "settings": former_loop(edit.settings), "epochs": edit.epochs, "edit": edit.name, "weights": unet_digest(),
    })  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("certificate", __doc__, "certificate.csv, certificate.md and certificate.png")
    parser.add_argument("--quick", action="store_true", help="two concepts, three edits")
    parser.add_argument("--pictures", type=int, default=8, help="of every point")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    with command(parser, argv, trials=["quick"]) as arguments:
        points = Table(arguments.output / "certificate.csv", Row)
        if not arguments.page:
            bench = Bench(Sampling(arguments.steps, 4.0, 64), arguments.pictures)
            chosen = [*objects()[:1], *styles()[:1]] if arguments.quick else [*objects(), *styles()]
            work = [bench.piece(one, edit) for one in chosen for edit in edits(one.kind, quick=arguments.quick)]
            fill(points, work, overwrite=arguments.overwrite)
        said = command_of(parser, arguments, ("quick", "pictures", "steps"))
        print(write_page(points.rows(), arguments.output, said).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
