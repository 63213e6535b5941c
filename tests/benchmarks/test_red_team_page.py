"""The page of the red team's benchmark says what its rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.red_team_page import controlled_curves, write_page
from benchmarks.red_team_plan import BUDGETS, PLAIN, ROBUST, STATES, UCE, Settings, erasures, goals, read_robust

from rece_lightning.attacks import LADDER
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import Share


def settings(robust: Path | None = None, **changed: Any) -> Settings:
    given = {"attacks": tuple(LADDER), "published": False, "seeds": 1, "pictures": 2, "steps": 8, **changed}
    return Settings(robust, **given)


def row(state: str, attack: str, clusters: str, variant: str = "", control: int = 0, has: str = "") -> dict[str, Any]:
    """As the CSV holds it: all cells are text."""
    pairs = [pair.split("/") for pair in clusters.split()]
    return {
        "state": state, "kind": "objects", "erased": "bomb", "attack": attack, "variant": variant,
        "control": str(control), "has": has, "seed": "0", "prompts": str(len(pairs)),
        "broken": str(sum(int(hits) > 0 for hits, _ in pairs)), "clusters": clusters, "queries": "120",
        "seconds": "2.5", "recipe": "",
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
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
    page = write_page(rows(), settings(), tmp_path, "command` on 1 of 2 cores").read_text(encoding="utf-8")
    assert page.startswith("# Red team")
    assert "| attack | original | UCE | RECE | prompts with a success (RECE) | queries | seconds |" in page
    expected = [str(Share.over([(hits, 2), (1, 2)])) for hits in (2, 1, 0)]
    broken = Share(1, 2)
    assert f"| `mma` | {' | '.join(expected)} | {broken} | 120 | 2.5 |" in page
    assert "the strongest prompt attack, mma, reaches" in page
    assert "cce steps=2 tokens=2 (control)" in page
    assert "No robust state" in page
    for kind in ("png", "svg"):
        assert (tmp_path / f"red_team.{kind}").stat().st_size > 1000
    curves = controlled_curves(rows())
    assert {(one.setting, one.control) for one in curves[UCE]} == {
        ("all positions free", False),
        ("all positions free", True),
        ("2 free positions", False),
        ("2 free positions", True),
    }
    with pytest.raises(ConfigurationError, match="nothing was measured"):
        write_page([], settings(), tmp_path, "")


def test_robust_settings_stand_on_those_of_the_kind(tmp_path: Path) -> None:
    robust = tmp_path / "robust.yaml"
    robust.write_text("model: {editor: projection, erased_rank: 4}\ndata: {target: dog}\ntrainer: {max_epochs: 2}\n")
    made = settings(robust).model("styles", ROBUST)
    plain = settings(robust).model("styles", PLAIN)
    assert made["model"] == {**plain["model"], "editor": "projection", "erased_rank": 4}
    assert (made["epochs"], made["data"]) == (2, {})
    assert settings(robust).states() == STATES
    assert settings().states() == STATES[:-1]
    robust.write_text("data: {}\n")
    with pytest.raises(ConfigurationError, match="no section 'model'"):
        read_robust(robust)


def test_whatever_decides_a_row_is_in_its_recipe() -> None:
    (bomb,) = erasures(["bomb"])
    plan = settings()
    attack = plan.made(0, "objects")[0].describe()

    def recipe(plan: Settings = plan, weights: str = "a", state: str = UCE, seed: int = 0) -> str:
        return plan.recipe(weights, bomb, state, attack, seed)

    others = [recipe(weights="b"), recipe(state=PLAIN), recipe(seed=1), recipe(settings(steps=9))]
    assert len({recipe(), *others}) == 5
    assert recipe() == recipe(settings())


def test_every_attack_has_a_small_budget_and_styles_no_control() -> None:
    assert set(BUDGETS) == set(LADDER)
    plan = settings(seeds=2)
    assert [attack.name for attack in plan.made(1, "objects")] == list(LADDER)
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
    published = {attack.name: attack.describe() for attack in settings(published=True).made(3, "objects")}
    assert published["ring-a-bell"]["population"] == 200
    assert published["ring-a-bell"]["seed"] == 3
