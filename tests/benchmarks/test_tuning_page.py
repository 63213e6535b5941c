"""What the page of tuning says follows from its rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.harness import HERE, Table
from benchmarks.tuning import __main__ as main
from benchmarks.tuning import robust
from benchmarks.tuning.__main__ import Bench, line_pieces
from benchmarks.tuning.page import NONE, Row, on_mmdit, one_line, over, regrets, within
from benchmarks.tuning.plan import CHOSEN_ON, JUDGED_ON, MMDIT, OTHERS, UNASKED

ROW = Row("", "grid", JUDGED_ON[0], "a", 0, 0, 10, 0, 0, 10, 10, *(math.nan,) * 9)


def test_a_correlation_is_taken_within_each_concept() -> None:
    """Two concepts at different levels: pooled the figure says the opposite."""
    rows = []
    for level, concept in ((0, CHOSEN_ON[0]), (5, CHOSEN_ON[1])):
        for place in range(5):
            figure = place / 10 - level
            rows.append(replace(ROW, concept=concept, own_hits=level + place, remaining=figure, drift=-figure))
    assert within(rows, "remaining") == pytest.approx(1.0)
    assert within(rows, "drift") == pytest.approx(-1.0)
    assert over(rows, "remaining") < 0.5


def test_the_regret_is_the_best_in_hindsight_minus_the_chosen_one() -> None:
    rows = [replace(ROW, edit=NONE, own_hits=10), *(replace(ROW, edit=name, own_hits=9) for name in OTHERS)]
    rows += [replace(ROW, edit="chosen", chosen=1, own_hits=2), replace(ROW, edit="other", own_hits=0)]
    best, chosen = 1.0, 2 / (1 / 0.8 + 1)
    lines = regrets(rows)
    assert lines[2].startswith(f"| {JUDGED_ON[0]} | 10 of 10, 10 of 10 | 2 of 10, 10 of 10 |")
    assert lines[2].endswith(f"| {100 * (best - chosen):.0f} |")
    assert lines[-1].endswith(f"**{100 * (best - chosen):.1f}** |")


def test_the_second_world_has_a_regret_of_its_own() -> None:
    assert on_mmdit([ROW]) == []
    what = {"part": "grid, MMDiT", "concept": MMDIT[1]}
    rows = [replace(ROW, edit=name, own_hits=10, **what) for name in (NONE, *OTHERS)]
    rows += [replace(ROW, edit="chosen", chosen=1, own_hits=0, **what), replace(ROW, edit="better", own_hits=0)]
    lines = on_mmdit(rows)
    # The better edit is of the other world.
    assert lines[-2].startswith(f"| {MMDIT[1]} | 10 of 10, 10 of 10 | 0 of 10, 10 of 10 |")
    assert lines[-1].endswith("**0.0** |")


def test_recipes_of_the_second_world_name_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe() -> str:
        (piece,) = line_pieces(Bench("emoji-mmdit"), "one line, MMDiT", MMDIT[:1])
        return next(iter(piece.recipes.values()))

    before = recipe()
    monkeypatch.setattr(main, "unet_digest", lambda world="emoji": "the first" if world == "emoji" else "the second")
    after = recipe()
    monkeypatch.setattr(main, "unet_digest", lambda world="emoji": "another" if world == "emoji" else "the second")
    assert recipe() == after
    assert before != after


def test_the_page_stands_on_whole_halves_of_the_concepts() -> None:
    assert set(CHOSEN_ON).isdisjoint(JUDGED_ON)
    assert len(CHOSEN_ON) == len(JUDGED_ON) == 6
    rows = Table(HERE / "tuning.csv", Row).rows()
    assert {row.concept for row in rows if row.part == "grid"} == set(JUDGED_ON)
    assert {row.concept for row in rows if row.part == "wide grid"} <= set(CHOSEN_ON)
    assert sum(row.chosen for row in rows if row.part == "grid") == len(JUDGED_ON)
    assert one_line(rows, "one line", UNASKED)[-1].startswith("| together |")


def test_the_page_of_the_robust_rule_tells_what_it_takes_and_what_pictures_would() -> None:
    def row(group: str, price: float, drift: float, kept: str) -> robust.Row:
        return robust.Row("w", group, 0.1, price, "r", 0.05, drift, 0.3, ("000",), ("000",), (kept,))

    rows = [row(robust.SECOND, 5.0, 0.3, "10"), row(robust.SECOND, 15.0, 0.1, "11")]

    told = "\n".join(robust.lines(rows))

    assert "The rule takes price 15 and λ₁ 0.1" in told
    assert "regret 0 points" in told
    assert rows[1].expected > rows[0].expected
    assert rows[0].seen == pytest.approx(3 / (1 + 1 + 2))
