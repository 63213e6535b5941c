"""The page of singular editors: its bound against maps themselves, and its sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import Configuration, method_of
from benchmarks.reach.bound import least_drift
from benchmarks.reach.page import BOUND, Row, write_page
from benchmarks.reach.plan import FIVE, ONE, ORIGINAL, PRICED, STYLE, tasks
from rece_lightning.core import Derivation, EmbeddingMap, Eraser, Method, ProjectedUCE, Projection
from rece_lightning.core.certificate import certify
from rece_lightning.core.diagnostics import preservation_drift
from rece_lightning.erasure.encoding import EncodedPair
from tests.helpers.plain import PlainPair
from tests.helpers.problems import Problem, random_problem


def encoded(pairs: list[PlainPair]) -> list[EncodedPair]:
    return [EncodedPair(one.rows, one.target_rows, len(one.rows) - 1, 0, one.weight) for one in pairs]


def mean_certificate(problem: Problem, maps: EmbeddingMap) -> float:
    found = [certify(problem.gram, maps, one.rows[None], one.target_rows[None]).relative for one in problem.pairs]
    return float(torch.cat(found).mean())


@given(
    seed=st.integers(0, 2**20),
    editor=st.sampled_from([Projection(1, 1.0), Projection(3, 30.0), ProjectedUCE(rank=1), ProjectedUCE(rank=3)]),
)
def test_no_singular_edit_gets_below_the_bound(seed: int, editor: Projection | ProjectedUCE) -> None:
    """Whatever directions, and whatever edit follows."""
    problem = random_problem(seed, width=7, outs=(8, 7), tokens=(2, 2), preserved=9)
    maps = Eraser(Method(editor=editor), problem.evidence, problem.gram).run(1).maps
    assert isinstance(maps, EmbeddingMap)
    kept = problem.preserving.preserved
    reached = mean_certificate(problem, maps)
    least = least_drift(problem.gram, encoded(problem.pairs), kept, reached)
    assert least <= preservation_drift(problem.gram, maps, kept) * (1 + 1e-9)


@given(seed=st.integers(0, 2**20), share=st.floats(0.05, 0.9))
def test_the_bound_grows_with_what_is_certified_and_ends_where_nothing_is_left(seed: int, share: float) -> None:
    problem = random_problem(seed, width=6, outs=(7,), tokens=(2,), preserved=8)
    pairs, kept = encoded(problem.pairs), problem.preserving.preserved
    (pair,) = problem.pairs
    way = ((pair.rows - pair.target_rows) @ problem.gram.total * (pair.rows - pair.target_rows)).sum()
    most = float((pair.rows @ problem.gram.total * pair.rows).sum() / way)
    some, more = (least_drift(problem.gram, pairs, kept, part * most) for part in (share, min(share + 0.1, 1.0)))
    assert 0 <= some <= more <= 1 + 1e-9
    assert least_drift(problem.gram, pairs, kept, 1.001 * most) == float("inf")


def test_the_page_says_what_holds_and_what_it_costs(tmp_path: Path) -> None:
    first = Row("r", FIVE, "weapons", ORIGINAL, "", "5/5", "4/5", "90/100", "")
    strong = replace(first, state="strong", settings="a", erased="0/5", preserved="70/100", derived="0/5 1/5",
                     drift=0.2, certificate=0.5, mean_certificate=0.6)  # fmt: skip
    weak = replace(strong, state="weak", preserved="88/100", derived="3/5 2/5")
    style = Row("r", STYLE, "ink style", ORIGINAL, "", "8/8", "", "8/8", "", "2/8")
    least = Row("r", BOUND, "5 objects", BOUND, "", least=(0.1, 0.2, float("inf")))
    page = write_page([first, strong, weak, style, least], tmp_path, "the command").read_text(encoding="utf-8")
    assert "*strong* preserves most, 70 % (" in page
    assert "20 points lost" in page
    assert "shows the style in 25 % (" in page
    assert "| 5 objects | 0.100 | 0.200 | inf |" in page
    none = write_page([first, weak], tmp_path, "the command").read_text(encoding="utf-8")
    assert "none of these holds the derived embedding" in none


def test_settings_were_chosen_on_others_than_are_judged() -> None:
    found = tasks()
    assert len({(task.part, task.name, state.name) for task in found for state in task.states}) == sum(
        len(task.states) for task in found
    )
    ones = [task.name for task in found if task.part == ONE]
    assert len(ones) == 4
    for task in found:
        assert not set(task.data["preserve"]) & {row.prompt for row in task.shots["kept"][0]}
        assert not set(task.data["preserve"]) & set(task.drift)


def test_the_robust_configuration_is_what_was_measured() -> None:
    shipped = method_of(Configuration.shipped("emoji_robust.yaml").settings)
    state = next(one for one in tasks()[0].states if one.name == PRICED)
    assert replace(shipped, derivation=Derivation()) == method_of(state.settings or {})


@pytest.mark.parametrize("part", [FIVE, STYLE])
def test_whatever_decides_a_row_is_in_its_recipe(part: str) -> None:
    task = next(one for one in tasks() if one.part == part)
    first, second = task.states[:2]
    assert task.recipe(first) != task.recipe(second)
    assert task.recipe(first) != replace(task, derived_seeds=9).recipe(first)
    assert task.recipe(first) != replace(task, data={**task.data, "target": "dog"}).recipe(first)
