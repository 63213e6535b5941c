"""The page of the red team's benchmark says what its rows say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Table, method_of
from benchmarks.red_team.page import Row, controlled_curves, write_page
from benchmarks.red_team.plan import (
    BUDGETS,
    ORIGINAL,
    PLAIN,
    RECE_TUNED,
    ROBUST,
    ROBUST_TUNED,
    STATES,
    TUNED,
    TUNED_ATTACKS,
    UCE,
    UNASKED,
    Plan,
    erasures,
    goals,
)
from rece_lightning.attacks import LADDER
from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.core import Projection
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import Difference, Share


def plan_of(robust: Path | None = None, **changed: Any) -> Plan:
    given = {"attacks": tuple(BUDGETS), "published": False, "seeds": 1, "pictures": 2, "steps": 8, **changed}
    return Plan(robust, **given)


def row(state: str, attack: str, clusters: str, variant: str = "", control: int = 0, has: str = "") -> Row:
    pairs = [pair.split("/") for pair in clusters.split()]
    return Row(
        state=state, kind="objects", erased="bomb", attack=attack, variant=variant, control=control, has=has, seed=0,
        prompts=len(pairs), broken=sum(int(hits) > 0 for hits, _ in pairs), clusters=clusters, queries=120,
        seconds=2.5, recipe="",
    )  # fmt: skip


def rows() -> list[Row]:
    found = []
    for place, state in enumerate(STATES[:-1]):
        found += [
            row(state, "no attack", f"{2 - place}/2"),
            row(state, "mma", f"{2 - place}/2 1/2", has="text encoder"),
        ]
        for control in (0, 1):
            for tokens in ("", " tokens=2"):
                found += [
                    row(
                        state, "cce", f"{min(step, 2 - control)}/2", f"steps={step}{tokens}", control, "embedding input"
                    )
                    for step in (0, 2)
                ]
    return found


def test_page_has_every_attack_in_every_state_and_the_figure_beside_it(tmp_path: Path) -> None:
    page = write_page(rows(), plan_of(), tmp_path, "command` on 1 of 2 cores").read_text(encoding="utf-8")
    assert page.startswith("# Red team")
    assert "| attack | original | UCE | RECE | prompts with a success (RECE) | queries | seconds |" in page
    expected = [str(Share.over([(hits, 2), (1, 2)])) for hits in (2, 1, 0)]
    broken = Share(1, 2)
    assert f"| `mma` | {' | '.join(expected)} | {broken} | 120 | 2.5 |" in page
    assert "the strongest prompt attack, mma, reaches" in page
    assert "cce steps=2 tokens=2 (control)" in page
    assert "No robust state" in page
    # Queries and seconds are a mean over the erasures that an attack was run on.
    more = [*rows(), replace(row(PLAIN, "mma", "0/2", has="text encoder"), erased="axe", queries=0, seconds=0.5)]
    page = write_page(more, plan_of(), tmp_path, "command` on 1 of 2 cores").read_text(encoding="utf-8")
    assert "| 60 | 1.5 |" in page
    assert "| 120 | 2.5 |" in page
    assert "- `cce` was run on 1 of them, with 1 seed: bomb." in page
    assert "`mma` was run on" not in page
    for kind in ("png", "svg"):
        assert (tmp_path / f"red_team.{kind}").stat().st_size > 1000
    curves = controlled_curves(rows())
    assert {(one.setting, one.control) for one in curves[UCE]} == {
        ("all positions free", False),
        ("all positions free", True),
        ("2 free positions", False),
        ("2 free positions", True),
    }
    table = Table(tmp_path / "red_team.csv", Row)
    with pytest.raises(ConfigurationError, match="nothing was measured"):
        table.rows()
    table.write(rows())
    assert table.rows() == rows()


def test_tuned_states_stand_beside_the_others_on_the_same_objects_and_attacks(tmp_path: Path) -> None:
    found = [*rows(), replace(row(UCE, "mma", "0/2"), erased="snake"), replace(row(UCE, "mma", "0/2"), seed=1)]
    found.append(row(ORIGINAL, "no attack", "0/2 1/2", UNASKED))
    found += [row(RECE_TUNED, "no attack", "0/2"), row(RECE_TUNED, "mma", "2/2 2/2", has="text encoder")]
    page = write_page(found, plan_of(), tmp_path, "command` on 1 of 2 cores").read_text(encoding="utf-8")
    whole, own = page.split("## Settings that choose themselves")
    assert "Floor: where nobody asks for it the original shows what is erased in 25 %" in own
    assert "Floor: " in whole
    assert RECE_TUNED not in whole
    header = f"| attack | original | UCE | RECE | {RECE_TUNED} |"
    assert header in own
    # UCE's rows of another object and of another seed are left out of this table, and are in the other one.
    shares = [Share.over([(hits, 2), (1, 2)]) for hits in (2, 1, 0)] + [Share.over([(2, 2), (2, 2)])]
    assert f"| `mma` | {' | '.join(map(str, shares))} |" in own
    assert f"| `mma` | {shares[0]} | {Share.over([(1, 2), (1, 2), (0, 2), (0, 2)])} |" in whole


def test_tuned_states_are_of_six_objects_one_seed_and_what_a_rule_chooses() -> None:
    plan = plan_of(tuned=True, seeds=2)
    things = erasures(["all"])
    assert [one.name for one in things if plan.tuned_states(one)] == [one.name for one in erasures(["default"])[:6]]
    assert not plan_of().tuned_states(things[0])
    assert {attack.name for attack in plan.attacks_on(RECE_TUNED, 0, "objects")} == set(TUNED_ATTACKS)
    assert plan.attacks_on(RECE_TUNED, 1, "objects") == []
    assert [attack.name for attack in plan.attacks_on(UCE, 1, "objects")] == list(BUDGETS)
    models = [plan.edit(things[0], state) for state in (UCE, PLAIN, *TUNED)]
    assert len({str(model) for model in models}) == len(models)
    session = plan.fit(things[0], ROBUST_TUNED)
    assert session.method.singular
    assert session.tuned.choice is not None


def test_robust_settings_stand_on_those_of_the_kind(tmp_path: Path) -> None:
    robust = tmp_path / "robust.yaml"
    robust.write_text(
        "model: {method: {editor: {class_path: Projection, init_args: {rank: 4}}}}\n"
        "data: {target: dog}\ntrainer: {max_epochs: 2}\n"
    )
    made = plan_of(robust).state("styles", ROBUST)
    plain = plan_of(robust).state("styles", PLAIN)
    assert made.settings == {**plain.settings, "editor": "Projection", "editor.rank": 4}
    assert made.words == {**plain.words, "editor": "projection", "erased_rank": 4}
    assert method_of(made.settings).editor == Projection(rank=4)
    assert (made.epochs, made.data) == (2, {})
    assert plan_of(robust).states() == STATES
    assert plan_of().states() == STATES[:-1]
    robust.write_text("data: {}\n")
    with pytest.raises(ConfigurationError, match="no section 'model'"):
        plan_of(robust).state("styles", ROBUST)
    robust.write_text("model: {editor: projection, erased_rank: 4}\n")
    with pytest.raises(ConfigurationError, match=r"robust\.yaml: model\.editor: it is model\.method\.editor now"):
        plan_of(robust).state("styles", ROBUST)


def test_the_shipped_robust_state_ends_at_its_certificate() -> None:
    made = plan_of(PACKAGE / "configs" / "emoji_robust.yaml").state("objects", ROBUST)
    assert made.words["robust"]["certificate"] == 0.15
    assert made.configuration is not None
    assert made.configuration.certificate == "any"
    (stop,) = made.configuration.stopping
    assert (stop.monitor, stop.stopping_threshold) == ("certificate", 0.15)


def test_whatever_decides_a_row_is_in_its_recipe() -> None:
    (bomb,) = erasures(["bomb"])
    plan = plan_of()
    attack = plan.made(0, "objects")[0].describe()

    def recipe(plan: Plan = plan, weights: str = "a", state: str = UCE, seed: int = 0) -> str:
        return plan.recipe(weights, bomb, plan.edit(bomb, state), attack, seed)

    others = [recipe(weights="b"), recipe(state=PLAIN), recipe(seed=1), recipe(plan_of(steps=9))]
    assert len({recipe(), *others}) == 5
    assert recipe() == recipe(plan_of())


def test_what_comes_back_from_a_noise_stands_beside_what_that_is_worth(tmp_path: Path) -> None:
    """Not among attacks by prompt; beside the control and beside other noise."""
    noises, has = ("noise=inverted text=none", "noise=alike text=own"), "weights, starting noise, pictures"
    found = [row(UCE, "no attack", "0/2"), row(UCE, "mma", "1/2", has="text encoder")]
    found += [
        row(UCE, "inverted", clusters, noise, control, has)
        for noise, control, clusters in (
            (noises[0], 0, "1/1 1/1"), (noises[0], 1, "1/1 0/1"), (noises[1], 0, "0/1 0/1"), (noises[1], 1, "0/1 1/1"),
        )
    ]  # fmt: skip
    page = write_page(found, plan_of(), tmp_path, "command` on 1 of 2 cores").read_text(encoding="utf-8")
    assert (
        f"- UCE: {Share(0, 2)} under the own prompt; the strongest prompt attack, mma, reaches {Share(1, 2)}." in page
    )
    own = page.split("## Beside the control")[1]
    attack, control = Share.over([(1, 1), (1, 1)]), Share.over([(1, 1), (0, 1)])
    above = Difference.of(attack, control)
    assert f"- UCE: inverted {noises[0]} {attack}, control {control}, difference {above}." in own
    assert f"- UCE: from other noise, inverted {noises[1]} {Share.over([(0, 1), (0, 1)])}." in own
    assert "red_team.svg" not in own


def test_every_attack_has_a_small_budget_and_styles_no_control() -> None:
    assert set(BUDGETS) == set(LADDER)
    plan = plan_of(seeds=2)
    assert [attack.name for attack in plan.made(1, "objects")] == list(BUDGETS)
    assert {attack.budget.seed for attack in plan.made(1, "objects")} == {1}
    assert not any(attack.needs_control for attack in plan.made(0, "styles"))
    things = erasures(["default"])
    assert {thing.kind for thing in things} == {"objects", "styles"}
    for thing in things:
        for goal in goals(thing, None, 0):
            assert goal.concept == thing.name
            assert goal.pairs
            assert goal.carriers
    with pytest.raises(ConfigurationError, match="did you mean 'bomb'"):
        erasures(["bmob"])


def test_published_budgets_are_the_attacks_own() -> None:
    published = {attack.name: attack.describe() for attack in plan_of(published=True).made(3, "objects")}
    assert published["ring-a-bell"]["population"] == 200
    assert published["ring-a-bell"]["seed"] == 3
