"""How far does each attack bring an erased concept back? Writes red_team.csv, red_team.md, red_team.png and .svg.

    python -m benchmarks.red_team --robust benchmarks/red_team/projection.yaml --tuned

The ladder of attacks on the embedded world's original model, on UCE's edit, on RECE's, and on that of ``--robust``,
one erased object or style at a time. Success is the share of pictures in which the detector sees what was erased. The
CSV is written after every attack, and what stands in it is not measured again; adversarial prompts and embeddings lie
in ``--folder``. The defaults take six objects and two styles under small budgets; ``--concepts all --seeds 5`` takes
twelve and four, ``--published`` the budgets of the papers, which take days. ``--tuned`` adds edits whose settings
choose themselves, of six objects under one seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.harness import Piece, Table, World, command, command_of, fill, table_parser, unet_digest
from benchmarks.red_team.page import Row, write_page
from benchmarks.red_team.plan import BUDGETS, ORIGINAL, PLAIN, ROBUST, TUNED, UCE, UNASKED, Plan, erasures, goals
from benchmarks.results.groups import floor_prompts
from benchmarks.results.plan import Erasure
from rece_lightning.attacks import AdversarialPrompt, Attack, AttackStore, Victim
from rece_lightning.attacks.outcome import NO_ATTACK, Measured, measure, measure_all
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.session import ErasureSession


class Bench:
    """Measures attacks on the states of erasures.

    Args:
        plan: of erasures and attacks.
        folder: of what the attacks find.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.store, self.world = plan, AttackStore(folder), World()
        self._fitted: dict[tuple[str, str], ErasureSession] = {}

    def piece(self, erasure: Erasure, place: int, state: str) -> Piece[Row]:
        """Every attack on one state of an erasure.

        Args:
            erasure: of the plan.
            place: its place there.
            state: of its model.
        """
        attacks = self.attacks(erasure, state)
        unasked = self.unasked(erasure) if state == ORIGINAL else {}

        def measured(missing: list[str]) -> Iterator[list[Row]]:
            victim = self.victim(erasure, state)
            for recipe in missing:
                if recipe in unasked:
                    yield self.floor(erasure, victim, unasked[recipe], recipe)
                else:
                    yield self.measure(erasure, place, state, victim, attacks[recipe], recipe)

        return Piece(f"{erasure.name}: {state}", {recipe: recipe for recipe in (*attacks, *unasked)}, measured)

    def unasked(self, erasure: Erasure) -> dict[str, int]:
        """Recipe → seed of the floor."""
        described = {"attack": NO_ATTACK, "variant": UNASKED}
        return {
            self.plan.recipe(unet_digest(), erasure, {}, described, seed): seed for seed in range(self.plan.seeds)
        }  # fmt: skip

    def floor(self, erasure: Erasure, victim: Victim, seed: int, recipe: str) -> list[Row]:
        """How often the original shows what is erased where nobody asks for it."""
        found = []
        for goal in goals(erasure, None, 0):
            (asked,) = floor_prompts(erasure, [EvaluationPrompt(goal.prompt, goal.concept)])
            plain = [AdversarialPrompt(NO_ATTACK, goal.concept, 0, asked.prompt)]
            seeds = self.plan.picture_seeds(seed)
            found.append(measure(victim, plain, seeds, has="nothing", original=False, variant=UNASKED))
        return [row_of(ORIGINAL, erasure, seed, recipe, found)]

    def attacks(self, erasure: Erasure, state: str) -> dict[str, tuple[int, Attack | None]]:
        """Recipe → seed and attack; without an attack the concept's own prompt."""
        plan, edit, found = self.plan, self.plan.edit(erasure, state), {}
        for seed in range(plan.seeds):
            if seed and state in TUNED:
                continue
            for attack in [None, *plan.attacks_on(state, seed, erasure.kind)]:
                described: Mapping[str, object] = {"attack": NO_ATTACK} if attack is None else attack.describe()
                found[plan.recipe(unet_digest(), erasure, edit, described, seed)] = seed, attack
        return found

    def victim(self, erasure: Erasure, state: str) -> Victim:
        """The model of a state. One ``fit`` serves the original, UCE and RECE."""
        name = state if state in (ROBUST, *TUNED) else PLAIN
        if (erasure.name, name) not in self._fitted:
            self._fitted = {(erasure.name, name): self.plan.fit(erasure, name)}
        session = self._fitted[erasure.name, name]
        maps = {ORIGINAL: None, UCE: session.first_maps}.get(state, session.maps)
        return self.world.victim(session, maps, self.plan.sampling)

    def measure(
        self,
        erasure: Erasure,
        place: int,
        state: str,
        victim: Victim,
        made: tuple[int, Attack | None],
        recipe: str,
    ) -> list[Row]:
        """The rows of one attack under one seed: one a variant, a control's apart."""
        seed, attack = made
        seeds = self.plan.picture_seeds(seed)
        groups: dict[tuple[str, bool], list[Measured]] = {}
        for goal in goals(erasure, attack, place):
            if attack is None:
                plain = [AdversarialPrompt(NO_ATTACK, goal.concept, 0, goal.prompt)]
                found = [measure(victim, plain, seeds, has="the concept's prompt", original=False)]
            else:
                prompts = self.store.run(attack, victim, goal)
                found = measure_all(victim, attack, goal, prompts, seeds, original=False)
            for one in found:
                groups.setdefault((one.rung.variant, one.rung.control), []).append(one)
        return [row_of(state, erasure, seed, recipe, own) for own in groups.values()]


def row_of(state: str, erasure: Erasure, seed: int, recipe: str, measured: Sequence[Measured]) -> Row:
    """Measurements of the same attack and variant as one row; a control stands under what was erased."""
    rungs = [one.rung for one in measured]
    return Row(
        state=state,
        kind=erasure.kind,
        erased=erasure.name,
        attack=rungs[0].attack,
        variant=rungs[0].variant,
        control=int(rungs[0].control),
        has=rungs[0].has,
        seed=seed,
        prompts=sum(rung.edited_prompts.total for rung in rungs),
        broken=sum(rung.edited_prompts.hits for rung in rungs),
        clusters=" ".join(f"{hits}/{total}" for rung in rungs for hits, total in rung.edited.prompts),
        queries=sum(rung.queries for rung in rungs),
        seconds=round(sum(rung.seconds for rung in rungs), 2),
        recipe=recipe,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("red_team", __doc__, "the table and the page")
    parser.add_argument("--robust", type=Path, help="configuration whose model section is that of the robust state")
    parser.add_argument("--attacks", default=",".join(BUDGETS), help="names, separated by commas")
    parser.add_argument("--concepts", default="default", help="objects and styles, separated by commas; or all")
    parser.add_argument("--seeds", type=int, default=1, help="of attacks and pictures")
    parser.add_argument("--pictures", type=int, default=2, help="of each prompt or embedding and seed")
    parser.add_argument("--steps", type=int, default=8, help="of the sampler")
    parser.add_argument("--tuned", action="store_true", help="also states whose settings choose themselves")
    parser.add_argument("--published", action="store_true", help="budgets of the papers")
    parser.add_argument("--folder", type=Path, help="of what the attacks find; below --output by default")
    with command(parser, argv) as given:
        names = tuple(name.strip() for name in given.attacks.split(","))
        plan = Plan(given.robust, names, given.published, given.seeds, given.pictures, given.steps, given.tuned)
        things = erasures([name.strip() for name in given.concepts.split(",")])
        plan.made(0, "objects")
        bench = Bench(plan, given.folder or given.output / "red_team_found")
        work = [bench.piece(one, place, state) for place, one in enumerate(things) for state in plan.states()]
        work += [bench.piece(one, place, state) for place, one in enumerate(things) for state in plan.tuned_states(one)]
        table = Table(given.output / "red_team.csv", Row)
        rows = table.rows() if given.page else fill(table, work, overwrite=given.overwrite)
        wanted = {recipe for piece in work for recipe in piece.recipes}
        own = [row for row in rows if row.recipe in wanted]
        options = ("robust", "attacks", "concepts", "seeds", "pictures", "steps", "published", "tuned")
        said = f"{command_of(parser, given, options)}` on {torch.get_num_threads()} of {os.cpu_count()} cores"
        page = write_page(own, plan, given.output, said)
        if len(own) < len(rows):
            others = len(rows) - len(own)
            print(f"{others} rows of {table.path} are of other settings or weights, and not on the page.")
        print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
