"""Which switch of the robust loop brings attacks down, and at what cost? Writes robust.csv, robust.md and robust.png.

    python -m benchmarks.robust             # measures what is missing in robust.csv, then writes page and plot
    python -m benchmarks.robust --page      # writes them from robust.csv alone
    python -m benchmarks.robust --concepts bomb --pictures 1 --parts ablation --output FOLDER      # to try it

The ablation: the editors ``uce`` and ``projection`` with each switch of ``model.robust`` alone and all together. The
choices: what else can be chosen with the editor ``projection``, one thing at a time. The frontier: kept objects against
the derived embedding's success, for every editor over its settings. One object of the embedded world at a time. The CSV
is written after every erasure; what stands in it is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from rich.progress import track

from benchmarks.recipes import command_of, unet_digest
from benchmarks.results import be_quiet
from benchmarks.robust_page import write_page
from benchmarks.robust_plan import (
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
    synonyms_of,
)
from benchmarks.robust_plan import kept_objects as kept_of
from benchmarks.tables import write_table
from rece_lightning import RECE, ConceptData
from rece_lightning.attacks import Attack, AttackStore, Derived, Victim, key_of, make_attacks, make_goal
from rece_lightning.attacks.base import AdversarialPrompt
from rece_lightning.attacks.outcome import Measured, measure, measure_all
from rece_lightning.callbacks import RedTeam
from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.tables import read_table
from rece_lightning.erasure.certificates import certify_module
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.sampling import Sampling

HERE = Path(__file__).parent
LOOKED_AT = "paraphrase,ring-a-bell,mma,cce"
COLUMNS = ("weights", "recipe", "part", "editor", "label", "concept", "figure", "value", "clusters")


class Bench:
    """The embedded world, loaded once; its projections are exchanged."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.sampling = Sampling(arguments.steps, 4.0, 64)
        self.seeds = range(arguments.pictures)
        self.attacks = make_attacks(arguments.attacks.split(","), "--attacks")
        self.folder: Path = arguments.output / "robust_found"
        self._pictures: Any = None

    def erase(self, case: Case, concept: str) -> RECE:
        """The module after ``fit``."""
        robust = dict(case.robust)
        if case.uses_found:
            robust["found"] = str(self.found(Case(case.part, case.editor, PUBLISHED, case.model, case.epochs), concept))
        module = RECE(pretrained="emoji", **case.model, robust=robust or None)
        inside = (
            [RedTeam(case.robust["attacks"], detector=EmojiDetector(), fit=False)] if "attacks" in case.robust else []
        )
        trainer = Trainer(
            max_epochs=case.epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=inside,
            default_root_dir=self.found(case, concept) / "in_the_loop",
        )  # fmt: skip
        trainer.fit(module, ConceptData(**data_of(case, concept)))
        self._pictures = self._pictures or module.pictures
        return module

    def looked_at(self, case: Case) -> list[Attack]:
        """The attacks beside the derived embedding; without a gradient outside the ablation."""
        chosen = {FRONTIER: [], CHOICES: [one for one in self.attacks if not one.looks_at_weights]}
        return chosen.get(case.part, self.attacks)

    def found(self, case: Case, concept: str) -> Path:
        """Where what breaks a case lies."""
        return self.folder / f"{case.editor} {case.label} {concept}".replace(" ", "_")

    def measure(self, case: Case, concept: str) -> list[dict[str, Any]]:
        """Every figure of one erasure."""
        module = self.erase(case, concept)
        (certificate,) = certify_module(module, [1.0])
        figures = {
            "certificate": certificate.bounds[None],
            "certificate at 1": certificate.bounds[1.0],
            "drift": module.history[-1]["preservation_drift"],
            "seconds": sum(row["edit_seconds"] for row in module.history) / len(module.history),
        }
        gram, maps = module.attacked(module.maps)
        victim = Victim(
            self._pictures,
            gram=gram,
            maps=maps,
            weights=dict(module.edited_weights()),
            detector=EmojiDetector(),
            sampling=self.sampling,
        )
        rows = [{"figure": name, "value": value, "clusters": ""} for name, value in figures.items()]
        named = {"erased": [(concept, concept)], "kept": [(name, name) for name in kept_of(concept)]}
        if case.part != FRONTIER:
            named["synonyms"] = [(word, concept) for word in synonyms_of(concept)]
        for name, prompts in named.items():
            plain = [AdversarialPrompt(name, shown, 0, prompt) for prompt, shown in prompts]
            rows += [_row(name, measure(victim, plain, self.seeds, has="", original=False))] if plain else []
        goal = make_goal(concept, synonyms=synonyms_of(concept))
        own, shared = AttackStore(self.found(case, concept)), AttackStore(self.folder / "any_model")
        for attack in [Derived(RATIOS), *self.looked_at(case)]:
            # What does not look at the weights finds the same on every erasure.
            prompts = (own if attack.looks_at_weights else shared).run(attack, victim, goal)
            key = key_of(attack, victim, goal)
            if case.label == PUBLISHED and not own.found(key):
                own.add(key, prompts)
            found = measure_all(victim, attack, goal, prompts, self.seeds, original=False)
            rows += [_row(f"{attack.name} {one.rung.variant}".strip(), one) for one in found]
        self._pictures.use(None)
        return rows


def _row(figure: str, measured: Measured) -> dict[str, Any]:
    share = measured.rung.edited
    return {
        "figure": figure,
        "value": share.rate,
        "clusters": " ".join(f"{hits}/{total}" for hits, total in share.prompts),
    }


def recipe(case: Case, concept: str, arguments: argparse.Namespace) -> str:
    """Digest of what decides a case's figures beside the model."""
    made = [case.model, case.epochs, case.robust, case.uses_found, data_of(case, concept), RATIOS]
    asked = [arguments.pictures, arguments.steps, "" if case.part == FRONTIER else arguments.attacks]
    return hashlib.sha256(repr([made, asked]).encode()).hexdigest()[:12]


def measure_missing(path: Path, cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """Measure what the CSV lacks.

    Raises:
        ConfigurationError: if it is of other weights.
    """
    weights = unet_digest()
    rows: list[dict[str, Any]] = []
    if path.exists() and not arguments.overwrite:
        rows = list(read_table("robust.csv", path, "weights"))
    if any(row["weights"] != weights for row in rows):
        raise ConfigurationError(f"{path} was measured with other weights; give --overwrite, or another --output.")
    done = {(row["recipe"], row["part"], row["editor"], row["label"], row["concept"]) for row in rows}
    work = []
    for concept in arguments.concepts.split(","):
        for case in cases:
            key = (recipe(case, concept, arguments), case.part, case.editor, case.label, concept)
            work += [(case, concept, key)] if key not in done else []
    bench = Bench(arguments)
    for case, concept, key in track(work, description="erasures"):
        same = dict(zip(COLUMNS[1:6], key, strict=True))
        rows = [row for row in rows if any(row[name] != same[name] for name in COLUMNS[2:6])]
        rows += [{"weights": weights, **same, **row} for row in bench.measure(case, concept)]
        write_table(path, COLUMNS, rows)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robust", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--concepts", default=",".join(CONCEPTS), help="objects, separated by commas")
    parser.add_argument("--parts", default=f"{ABLATION},{CHOICES},{FRONTIER}")
    parser.add_argument("--attacks", default=LOOKED_AT, help="beside the derived embedding, for the ablation")
    parser.add_argument("--pictures", type=int, default=5, help="of each prompt or embedding")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of robust.csv, robust.md and robust.png")
    parser.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    be_quiet()
    path = arguments.output / "robust.csv"
    try:
        if not arguments.page:
            parts = {ABLATION: ablation, CHOICES: choices, FRONTIER: frontier}
            cases = [case for part in arguments.parts.split(",") for case in parts[part]()]
            measure_missing(path, cases, arguments)
        rows = read_table("robust.csv", path, "weights")
        command = command_of(parser, arguments, ("concepts", "parts", "attacks", "pictures", "steps"))
        print(write_page(rows, arguments.output, command, f"{arguments.steps} steps, guidance 4"))
    except ConfigurationError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
