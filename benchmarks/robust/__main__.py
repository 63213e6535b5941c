"""Which switch of the robust loop brings attacks down, and at what cost? Writes robust.csv, robust.md and robust.png.

    python -m benchmarks.robust             # measures what is missing in robust.csv, then writes page and plot
    python -m benchmarks.robust --page      # writes them from robust.csv alone
    python -m benchmarks.robust --concepts bomb --pictures 1 --parts ablation --output FOLDER      # to try it

The ablation: the editors UCE and Projection with each switch of ``model.method.robust`` alone and all together. The
choices: what else can be chosen with the editor Projection, one thing at a time. The frontier: kept objects against
the derived embedding's success, for every editor over its settings. One object of the embedded world at a time. The CSV
is written after every erasure; what stands in it is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Piece, Table, World, command, command_of, fill, fitted, table_parser, unet_digest
from benchmarks.robust.page import Row, write_page
from benchmarks.robust.plan import (
    ABLATION,
    CHOICES,
    CONCEPTS,
    FRONTIER,
    PUBLISHED,
    RATIOS,
    Case,
    ablation,
    choices,
    data_of,
    frontier,
    kept_objects,
    synonyms_of,
)
from rece_lightning.attacks import Attack, AttackStore, Derived, key_of, make_attacks, make_goal
from rece_lightning.attacks.base import AdversarialPrompt
from rece_lightning.attacks.outcome import Measured, measure, measure_all
from rece_lightning.callbacks import RedTeam
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.sampling import Sampling

LOOKED_AT = "paraphrase,ring-a-bell,mma,cce"
PARTS = {ABLATION: ablation, CHOICES: choices, FRONTIER: frontier}


class Bench:
    """The embedded world, loaded once; its projections are exchanged.

    Args:
        arguments: how many pictures, steps and attacks.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.world = arguments, World()
        self.sampling = Sampling(arguments.steps, 4.0, 64)
        self.seeds = range(arguments.pictures)
        self.attacks = make_attacks(arguments.attacks.split(","), "--attacks")
        self.folder: Path = arguments.output / "robust_found"

    def piece(self, case: Case, concept: str) -> Piece[Row]:
        """Every figure of a case on one concept."""
        key = case.part, case.editor, case.label, concept
        name = f"{case.editor}, {case.label}: {concept}"
        return Piece(name, {key: self.recipe(case, concept)}, lambda _: [self.measure(case, concept)])

    def recipe(self, case: Case, concept: str) -> str:
        """Of its rows."""
        return case.recipe(concept, self.arguments.pictures, self.arguments.steps, self.arguments.attacks)

    def erase(self, case: Case, concept: str) -> ErasureSession:
        """The erasure after ``fit``."""
        robust = dict(case.robust)
        if case.uses_found:
            published = Case(case.part, PUBLISHED, case.settings, case.epochs)
            robust["found"] = str(self.found(published, concept))
        settings = {**case.settings, "robust": robust} if robust else case.settings
        names = list(case.between_epochs)
        inside = [RedTeam(names, detector=EmojiDetector(), fit=False, between_epochs=names)] if names else []
        folder = self.found(case, concept) / "in_the_loop"
        return fitted(settings, case.epochs, data_of(case, concept), inside, folder)

    def looked_at(self, case: Case) -> list[Attack]:
        """The attacks beside the derived embedding; without a gradient outside the ablation."""
        chosen = {FRONTIER: [], CHOICES: [one for one in self.attacks if not one.looks_at_weights]}
        return chosen.get(case.part, self.attacks)

    def found(self, case: Case, concept: str) -> Path:
        """Where what breaks a case lies."""
        return self.folder / f"{case.editor} {case.label} {concept}".replace(" ", "_")

    def measure(self, case: Case, concept: str) -> list[Row]:
        """Every figure of one erasure."""
        session = self.erase(case, concept)
        what = unet_digest(), self.recipe(case, concept), case.part, case.editor, case.label, concept
        (certificate,) = certificates(session.erasure(), session.erased_prompts, session.pairs, [1.0])
        timed = [
            row["edit_seconds"] for row in session.history if "edit_seconds" in row
        ]  # not of epochs that ran again
        figures = {
            "certificate": certificate.bounds[None],
            "certificate at 1": certificate.bounds[1.0],
            "drift": session.history[-1]["preservation_drift"],
            "seconds": sum(timed) / len(timed),
        }
        rows = [Row(*what, name, value, "") for name, value in figures.items()]
        victim = self.world.victim(session, session.maps, self.sampling)
        named = {"erased": [(concept, concept)], "kept": [(name, name) for name in kept_objects(concept)]}
        if case.part != FRONTIER:
            named["synonyms"] = [(word, concept) for word in synonyms_of(concept)]
        for name, prompts in named.items():
            plain = [AdversarialPrompt(name, shown, 0, prompt) for prompt, shown in prompts]
            if plain:
                rows.append(Row(*what, name, *counted(measure(victim, plain, self.seeds, has="", original=False))))
        goal = make_goal(concept, synonyms=synonyms_of(concept))
        own, shared = AttackStore(self.found(case, concept)), AttackStore(self.folder / "any_model")
        for attack in [Derived(RATIOS), *self.looked_at(case)]:
            # What does not look at the weights finds the same on every erasure.
            prompts = (own if attack.looks_at_weights else shared).run(attack, victim, goal)
            key = key_of(attack, victim, goal)
            if case.label == PUBLISHED and not own.found(key):
                own.add(key, prompts)
            for one in measure_all(victim, attack, goal, prompts, self.seeds, original=False):
                rows.append(Row(*what, f"{attack.name} {one.rung.variant}".strip(), *counted(one)))
        self.world.maker.use(None)
        return rows


def counted(measured: Measured) -> tuple[float, str]:
    """Value and clusters of a row."""
    share = measured.rung.edited
    return share.rate, " ".join(f"{hits}/{total}" for hits, total in share.prompts)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("robust", __doc__, "robust.csv, robust.md and robust.png")
    parser.add_argument("--concepts", default=",".join(CONCEPTS), help="objects, separated by commas")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--attacks", default=LOOKED_AT, help="beside the derived embedding, for the ablation")
    parser.add_argument("--pictures", type=int, default=5, help="of each prompt or embedding")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    with command(parser, argv) as arguments:
        table = Table(arguments.output / "robust.csv", Row)
        if not arguments.page:
            bench = Bench(arguments)
            cases = [case for part in arguments.parts.split(",") for case in PARTS[part]()]
            work = [bench.piece(case, concept) for concept in arguments.concepts.split(",") for case in cases]
            fill(table, work, overwrite=arguments.overwrite)
        said = command_of(parser, arguments, ("concepts", "parts", "attacks", "pictures", "steps"))
        page = write_page(table.rows(), arguments.output, said, f"{arguments.steps} steps, guidance 4")
        print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
