"""Which figures tell without a picture how an edit erases, and what the rule that goes by them costs.

    python -m benchmarks.tuning            # measures what is missing in tuning.csv, then writes the page
    python -m benchmarks.tuning --page     # writes the page from what was measured

Figures are computed anew for the edits whose pictures are in ``results.csv``, ``robust.csv`` and ``red_team.csv``; of
the grid's front, of the published settings beside it, and of erasures by one line without settings pictures are made.
Interrupted, it goes on where it stopped. Some ten minutes on one core.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    HERE,
    Piece,
    Table,
    World,
    command,
    digest,
    fill,
    former,
    method_of,
    plain_shots,
    table_parser,
    told,
    unet_digest,
)
from benchmarks.red_team import plan as red_team
from benchmarks.results import plan as results
from benchmarks.robust import plan as robust
from benchmarks.tuning.page import NONE, Row, write_page
from benchmarks.tuning.plan import (
    FIGURES,
    JUDGED_ON,
    MMDIT,
    OTHERS,
    UNASKED,
    WIDE,
    Figures,
    Looking,
    kept_names,
    robust_cases,
    synonyms_of,
    wide,
)
from rece_lightning import ConceptData, Method
from rece_lightning.core.tuning import Choice, Tuning, tune
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.erasers import SpaceErasers
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text_space import edits_values
from rece_lightning.sweep.choice import spread
from rece_lightning.vocabulary.choice import draw

SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=64)
WIDE_SHOTS = (4, 4, 8)
"""Pictures of an edit of the wide grid: of the concept, its synonyms, and others."""
SHOTS = (4, 3, 5)
"""The same of an edit of the front."""
LINE = (2, 2, 6)
"""The same of an erasure by one line."""
FRONT = 3
"""Settings of the front that are drawn, evenly along it, beside the chosen one."""
RED_TEAM = ("p4d", "unlearndiffatk", "paraphrase", "mma")


def shots(concept: str, counts: tuple[int, int, int]) -> dict[str, list[tuple[EvaluationPrompt, int]]]:
    """Prompts with their seeds."""
    own, synonyms, kept = counts
    words = synonyms_of(concept)
    return {
        "own": [(EvaluationPrompt(concept, concept), seed) for seed in range(own)],
        "synonym": [
            (EvaluationPrompt(words[place % len(words)], concept), place // len(words))
            for place in range(synonyms if words else 0)
        ],
        "kept": [(EvaluationPrompt(name, name), 0) for name in kept_names(concept, kept)],
    }


class Bench:
    """A world, and the sessions of concepts that are erased one at a time with drawn words."""

    def __init__(self, pretrained: str = "emoji") -> None:
        self.world = World(pretrained)
        self.pretrained = pretrained

    def prepared(self, concept: str) -> tuple[ErasureSession, Choice]:
        """Prompts counted as a fit counts them, and what tuning chooses."""
        session = ErasureSession(self.world.loaded, Method(), tuning=Tuning())
        data = ConceptData([concept])
        draw(session, data)
        for batch in data.batches():
            session.count(batch)
        session.concepts = data.summary()
        return session, tune(session.method, Tuning(), session.statistics.evidence(), session.grams)

    def hits(
        self, session: ErasureSession, method: Method | None, epochs: int, wanted: dict[str, Any]
    ) -> dict[str, int]:
        """Detections of an edit, or of the original."""
        maps = {}
        if method is not None:
            erasers = SpaceErasers(method, session.statistics.evidence(), session.grams).run(epochs)
            maps = erasers.maps
        self.world.maker.use(dict(session.erasure(maps).weights()) if maps else None)
        flat = [one for part in wanted.values() for one in part]
        seen = self.world.detect([row for row, _ in flat], [seed for _, seed in flat], SAMPLING).tolist()
        found, start = dict[str, int](), 0
        for name, part in wanted.items():
            found |= {f"{name}_hits": sum(seen[start : start + len(part)]), f"{name}_total": len(part)}
            start += len(part)
        return found


Edits = Mapping[str, tuple[Method | None, int]]
"""Name → method and epochs; the original has none."""


def edit_piece(
    bench: Bench, part: str, concept: str, prepared: tuple[ErasureSession, Choice], edits: Edits, counts: Any
) -> Piece[Row]:
    """Edits of a concept, each with its pictures, and its figures where the model has values that they are about."""
    (session, choice), wanted = prepared, shots(concept, counts)
    looking, recipes = Looking(bench.world), dict[Any, str]()
    for name, (method, epochs) in edits.items():
        plain = None if method is None else method.plain(epochs)
        kept = session.concepts["preserved"]
        made = [unet_digest(bench.pretrained), concept, kept, plain, epochs, str(SAMPLING), plain_shots(wanted)]
        recipes[part, concept, name] = digest(made)

    def measured(missing: list[tuple[str, str, str]]) -> Iterator[list[Row]]:
        for key in missing:
            method, epochs = edits[key[2]]
            found = bench.hits(session, method, epochs, wanted)
            known = method is not None and edits_values(session.base.spaces, Method())
            figures = looking.drawn(session, method, epochs, concept) if known and method is not None else None
            yield [row(recipes[key], *key, figures, found, chosen=int(key[2] == str(choice.chosen)))]

    return Piece(f"{part}: {concept}", recipes, measured)


def grid_pieces(bench: Bench) -> Iterator[Piece[Row]]:
    """The wide grid on objects of the first half; the front, the chosen and the published settings on the second."""
    for concept in WIDE:
        edits: dict[str, tuple[Method | None, int]] = {
            told(former(settings), epochs): (method_of(settings), epochs) for settings, epochs in wide()
        }
        yield edit_piece(bench, "wide grid", concept, bench.prepared(concept), edits, WIDE_SHOTS)
    yield from judged_pieces(bench, "grid", JUDGED_ON)


def judged_pieces(bench: Bench, part: str, names: Sequence[str]) -> Iterator[Piece[Row]]:
    """The front, the chosen and the published settings."""
    for concept in names:
        session, choice = bench.prepared(concept)
        along = [choice.front[place] for place in spread(len(choice.front), FRONT)]
        edits: dict[str, tuple[Method | None, int]] = {NONE: (None, 0)}
        edits |= {str(one): (one.method, one.epochs) for one in (*along, choice.chosen)}
        edits |= {name: (method_of(settings), epochs) for name, (settings, epochs) in OTHERS.items()}
        yield edit_piece(bench, part, concept, (session, choice), edits, SHOTS)


def line_pieces(bench: Bench, part: str, names: Sequence[str]) -> Iterator[Piece[Row]]:
    """Erasures by one line: no list, no method."""
    for concept in names:
        wanted = shots(concept, LINE)
        keys = {
            (part, concept, name): digest(
                [unet_digest(bench.pretrained), part, concept, name, str(SAMPLING), plain_shots(wanted), str(Tuning())]
            )
            for name in (NONE, "tuned")
        }

        def measured(
            missing: list[tuple[str, str, str]],
            concept: str = concept,
            wanted: dict[str, Any] = wanted,
            keys: Any = keys,
        ) -> Iterator[list[Row]]:
            session, choice = bench.prepared(concept)
            for key in missing:
                method = None if key[2] == NONE else choice.chosen.method
                found = bench.hits(session, method, choice.chosen.epochs, wanted)
                yield [row(keys[key], *key, None, found, chosen=int(method is not None))]

        yield Piece(f"{part}: {concept}", dict(keys), measured)


def row(recipe: str, part: str, concept: str, edit: str, figures: Figures | None, found: Any, chosen: int = 0) -> Row:
    """A line of the table."""
    known = {name: float("nan") for name in FIGURES} if figures is None else asdict(figures)
    counts = {f"{role}_{what}": 0 for role in ("own", "synonym", "kept") for what in ("hits", "total")}
    return Row(recipe, part, concept, edit, chosen, **{**counts, **found}, **known)


# Pictures that are there already


def committed(name: str) -> list[dict[str, str]]:
    """The rows of a benchmark's table."""
    with (HERE / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def counted(role: str, text: str) -> dict[str, int]:
    """Of the hits as ``results.csv`` writes them, and of clusters as ``robust.csv`` and ``red_team.csv`` do."""
    if "/" in text:
        parts = [part.split("/") for part in text.split()]
        return {f"{role}_hits": sum(int(a) for a, _ in parts), f"{role}_total": sum(int(b) for _, b in parts)}
    bits = text.replace("|", "")
    return {f"{role}_hits": bits.count("1"), f"{role}_total": len(bits)}


def results_rows(looking: Looking) -> Iterator[Row]:
    """Twelve objects, five edits."""
    there = {(one["erasure"], one["state"], one["group"]): one["hits"] for one in committed("results")}
    roles = {results.ERASED: "own", results.SYNONYMS: "synonym", results.HELD: "kept"}
    for erasure in results.objects():
        for state in results.states("objects"):
            if state.settings is None:
                continue
            found: dict[str, int] = {}
            for group, role in roles.items():
                found |= counted(role, there.get((erasure.name, state.name, group), ""))
            figures = looking.at(state.settings, state.epochs, erasure.data, erasure.name)
            yield row(digest(found), "results", erasure.name, state.name, figures, found)


def robust_rows(looking: Looking) -> Iterator[Row]:
    """Editors over their settings, three objects."""
    there = {
        (o["part"], o["editor"], o["label"], o["concept"], o["figure"]): o["clusters"] for o in committed("robust")
    }
    roles = {"erased": "own", "synonyms": "synonym", "kept": "kept"}
    for case, concept in robust_cases():
        found: dict[str, int] = {}
        for figure, role in roles.items():
            found |= counted(role, there.get((case.part, case.editor, case.label, concept, figure), ""))
        if not found.get("own_total"):
            continue
        figures = looking.at(case.settings, case.epochs, robust.data_of(case, concept), concept)
        name = f"{case.part}, {told(former(case.settings), case.epochs)}, {case.preserve}, {case.target}"
        yield row(digest(found), "robust", concept, name, figures, found)


def red_team_rows(looking: Looking) -> Iterator[Row]:
    """Attacks on UCE, RECE and the robust loop, twelve objects: ``own`` counts what an attack regains."""
    there: dict[tuple[str, str, str], list[str]] = {}
    for one in committed("red_team"):
        if one["attack"] in RED_TEAM and one["control"] == "0":
            there.setdefault((one["state"], one["erased"], one["attack"]), []).append(one["clusters"])
    configuration = Path(__file__).parents[2] / "configs" / "emoji_robust.yaml"
    plan = red_team.Plan(configuration, RED_TEAM, published=False, seeds=2, pictures=2, steps=12)
    for erasure in results.objects():
        for name in (red_team.UCE, red_team.PLAIN):
            state = plan.state("objects", name)
            figures = looking.at(state.settings, state.epochs, erasure.data, erasure.name)
            for attack in RED_TEAM:
                found = counted("own", " ".join(there.get((name, erasure.name, attack), [])))
                if found["own_total"]:
                    yield row(digest(found), attack, erasure.name, name, figures, found)


def committed_piece(name: str, rows: Any, looking: Looking, table: Table[Row]) -> Piece[Row]:
    """All of a committed table at once: its figures take seconds."""
    there = any(one.part == name or (name == "attacks" and one.part in RED_TEAM) for one in table.read())
    made: list[Row] = [] if there else list(rows(looking))
    return Piece(name, {one.key: one.recipe for one in made}, lambda _: [made])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("tuning", __doc__, "tuning.csv and tuning.md")
    with command(parser, argv) as arguments:
        table = Table(arguments.output / "tuning.csv", Row, digits=6)
        if not arguments.page:
            bench, other = Bench(), Bench("emoji-mmdit")
            looking = Looking(bench.world)
            work = [
                committed_piece("results", results_rows, looking, table),
                committed_piece("robust", robust_rows, looking, table),
                committed_piece("attacks", red_team_rows, looking, table),
                *line_pieces(bench, "one line", UNASKED),
                *grid_pieces(bench),
                *line_pieces(other, "one line, MMDiT", MMDIT),
                *judged_pieces(other, "grid, MMDiT", MMDIT),
            ]
            fill(table, work, overwrite=arguments.overwrite)
        print(write_page(table.rows(), arguments.output).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
