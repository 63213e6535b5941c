"""How far does each attack bring an erased concept back? Writes red_team.csv, red_team.md, red_team.png and .svg.

    python -m benchmarks.red_team --robust configs/emoji_robust.yaml

The ladder of attacks on the embedded world's original model, on UCE's edit, on RECE's, and on that of ``--robust``,
one erased object or style at a time. Success is the share of pictures in which the detector sees what was erased. The
CSV is written after every attack, and what stands in it is not measured again; adversarial prompts and embeddings lie
in ``--folder``. The defaults take six objects and two styles under small budgets; ``--concepts all --seeds 5`` takes
twelve and four, ``--published`` the budgets of the papers, which take days.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.recipes import command_of, unet_digest
from benchmarks.red_team_page import write_page
from benchmarks.red_team_plan import Settings, erasures, goals, read_robust, victims
from benchmarks.results_plan import Erasure
from benchmarks.tables import write_table
from rece_lightning.attacks import AdversarialPrompt, Attack, AttackStore, Victim
from rece_lightning.attacks.ladder import LADDER
from rece_lightning.attacks.outcome import NO_ATTACK, Measured, measure, measure_all
from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import ReceError
from rece_lightning.data.tables import read_table

HERE = Path(__file__).parent
COLUMNS = (
    "state", "kind", "erased", "attack", "variant", "control", "has", "seed", "prompts", "broken", "clusters",
    "queries", "seconds", "recipe",
)  # fmt: skip
Row = dict[str, Any]


def row_of(state: str, erasure: Erasure, seed: int, recipe: str, measured: Sequence[Measured]) -> Row:
    """Measurements of the same attack and variant as one row; a control stands under what was erased."""
    rungs = [one.rung for one in measured]
    return {
        "state": state,
        "kind": erasure.kind,
        "erased": erasure.name,
        "attack": rungs[0].attack,
        "variant": rungs[0].variant,
        "control": int(rungs[0].control),
        "has": rungs[0].has,
        "seed": seed,
        "prompts": sum(rung.edited_prompts.total for rung in rungs),
        "broken": sum(rung.edited_prompts.hits for rung in rungs),
        "clusters": " ".join(f"{hits}/{total}" for rung in rungs for hits, total in rung.edited.prompts),
        "queries": sum(rung.queries for rung in rungs),
        "seconds": round(sum(rung.seconds for rung in rungs), 2),
        "recipe": recipe,
    }


class Bench:
    """Measures what the CSV lacks.

    Args:
        settings: of erasures and attacks.
        output: the CSV.
        folder: of what the attacks find.
    """

    def __init__(self, settings: Settings, output: Path, folder: Path) -> None:
        self.settings, self.output = settings, output
        self.store = AttackStore(folder)
        self.rows: list[Row] = list(read_table("red_team.csv", output, "state")) if output.exists() else []
        self.weights = unet_digest()
        self.wanted: set[str] = set()
        self._console, self._started, self._made = Console(stderr=True), time.monotonic(), 0

    def run(self, things: Sequence[Erasure]) -> list[Row]:
        """Measure, and return the rows that were asked for."""
        total = 0
        left: list[tuple[int, Erasure]] = []
        for place, erasure in enumerate(things):
            there = {row["recipe"] for row in self.rows}
            own = {recipe for state in self.settings.states() for recipe in self._recipes(erasure, state).values()}
            self.wanted |= own
            if own - there:
                left.append((place, erasure))
                total += len(own - there)
        for place, erasure in left:
            for state, victim in victims(self.settings, erasure):
                self._state(erasure, place, state, victim, total)
        return [row for row in self.rows if row["recipe"] in self.wanted]

    def _recipes(self, erasure: Erasure, state: str) -> dict[tuple[int, str], str]:
        found = {}
        for seed in range(self.settings.seeds):
            described = {attack.name: attack.describe() for attack in self.settings.made(seed, erasure.kind)}
            for name, settings in {NO_ATTACK: {"attack": NO_ATTACK}, **described}.items():
                found[seed, name] = self.settings.recipe(self.weights, erasure, state, settings, seed)
        return found

    def _state(self, erasure: Erasure, place: int, state: str, victim: Victim, total: int) -> None:
        recipes = self._recipes(erasure, state)
        for seed in range(self.settings.seeds):
            for attack in [None, *self.settings.made(seed, erasure.kind)]:
                recipe = recipes[seed, NO_ATTACK if attack is None else attack.name]
                if recipe in {row["recipe"] for row in self.rows}:
                    continue
                found = self._attack(erasure, place, victim, attack, seed)
                groups: dict[tuple[str, bool], list[Measured]] = {}
                for one in found:
                    groups.setdefault((one.rung.variant, one.rung.control), []).append(one)
                self.rows += [row_of(state, erasure, seed, recipe, own) for own in groups.values()]
                write_table(self.output, COLUMNS, self.rows)
                self._made += 1
                self._tell(
                    f"{erasure.name}, {state}, seed {seed}: {NO_ATTACK if attack is None else attack.name}", total
                )

    def _attack(self, erasure: Erasure, place: int, victim: Victim, attack: Attack | None, seed: int) -> list[Measured]:
        seeds, found = self.settings.picture_seeds(seed), []
        for goal in goals(erasure, attack, place):
            if attack is None:
                plain = [AdversarialPrompt(NO_ATTACK, goal.concept, 0, goal.prompt)]
                found.append(measure(victim, plain, seeds, has="the concept's prompt", original=False))
            else:
                prompts = self.store.run(attack, victim, goal)
                found += measure_all(victim, attack, goal, prompts, seeds, original=False)
        return found

    def _tell(self, what: str, total: int) -> None:
        spent = time.monotonic() - self._started
        left = spent / self._made * (total - self._made)
        self._console.print(
            f"{self._made}/{total} {what} ({spent / 60:.1f} min, about {left / 60:.0f} left)", highlight=False
        )


def parsed() -> tuple[argparse.Namespace, str]:
    """The arguments, and the command that they make."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.red_team", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--robust", type=Path, help="configuration whose model section is that of the robust state")
    parser.add_argument("--attacks", default=",".join(LADDER), help="names, separated by commas")
    parser.add_argument("--concepts", default="default", help="objects and styles, separated by commas; or all")
    parser.add_argument("--seeds", type=int, default=1, help="of attacks and pictures")
    parser.add_argument("--pictures", type=int, default=2, help="of each prompt or embedding and seed")
    parser.add_argument("--steps", type=int, default=8, help="of the sampler")
    parser.add_argument("--published", action="store_true", help="budgets of the papers")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the table and the page")
    parser.add_argument("--folder", type=Path, help="of what the attacks find; below --output by default")
    arguments = parser.parse_args()
    names = ("robust", "attacks", "concepts", "seeds", "pictures", "steps", "published")
    return arguments, command_of(parser, arguments, names)


def main() -> None:
    """Measure and write."""
    arguments, command = parsed()
    output: Path = arguments.output
    settings = Settings(
        arguments.robust,
        tuple(name.strip() for name in arguments.attacks.split(",")),
        arguments.published,
        arguments.seeds,
        arguments.pictures,
        arguments.steps,
    )
    try:
        if settings.robust is not None:
            read_robust(settings.robust)
        things = erasures([name.strip() for name in arguments.concepts.split(",")])
        settings.made(0, "objects")
        output.mkdir(parents=True, exist_ok=True)
        bench = Bench(settings, output / "red_team.csv", arguments.folder or output / "red_team_found")
        rows = bench.run(things)
        page = write_page(rows, settings, output, f"{command}` on {torch.get_num_threads()} of {os.cpu_count()} cores")
    except ReceError as error:
        fail(str(error))
    others = len(bench.rows) - len(rows)
    if others:
        print(f"{others} rows of {bench.output} are of other settings or weights, and not on the page.")
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
