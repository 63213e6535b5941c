"""The article's other systems: what is asked, who is asked, and what the page makes of it."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.article.bench import _for_training
from benchmarks.article.page import claims, page, plot
from benchmarks.article.plan import (
    ANCHORS,
    DERIVED,
    FLOOR,
    ORIGINAL,
    RECE,
    RECE_TUNED,
    UCE,
    UNSAFE,
    WORLDS,
    Edit,
    Guarded,
    Trained,
    asked,
    contenders,
    names_of,
    seeds,
    things,
)
from benchmarks.article.table import Row, table
from benchmarks.results.derived import answer
from benchmarks.results.plan import ERASED, HELD, SYNONYMS
from rece_lightning.baselines import SLD


def test_nothing_that_is_kept_is_preserved_or_a_target() -> None:
    for thing in things():
        listed = {prompt.strip().lower() for prompt in thing.data["preserve"]}
        assert not listed & {row.prompt for row in thing.groups[HELD]}
        if thing.kind != "styles":
            assert {one["target"] for one in thing.data["concepts"]} <= set(ANCHORS.values())
        assert len(asked(thing)[FLOOR]) == len(asked(thing)[ERASED])
        assert all(row.prompt not in {own.prompt for own in asked(thing)[ERASED]} for row in asked(thing)[FLOOR])


def test_every_system_of_the_article_is_there_in_both_worlds() -> None:
    weapons = things()[0]
    assert tuple(names_of(weapons)) == UNSAFE
    for world in WORLDS:
        found = {one.name: one.how for one in contenders(world, weapons)}
        for name in ("negative prompt", "SLD weak", "SLD medium", "SLD strong", "SLD max", "SAFREE", "output filter"):
            assert isinstance(found[name], Guarded)
        for name in ("CA, model-based", "CA, noise-based", "SA"):
            assert isinstance(found[name], Trained)
        assert any(name.startswith("ESD-") for name in found)
        for name in (UCE, RECE, RECE_TUNED, "SPEED, tuned", "DP, tuned", "CURE, tuned", "OCE, tuned"):
            assert isinstance(found[name], Edit)
        assert found[ORIGINAL] is None
        guarded = found["SLD weak"]
        assert isinstance(guarded, Guarded)
        # 15 of 50 published steps are 4 of 12.
        assert guarded.make(["bomb"]) == SLD("weak", "bomb", warmup=4)


def test_a_recipe_tells_methods_things_and_groups_apart() -> None:
    made = [
        one.recipe(thing, group)
        for thing in things()
        for one in contenders("emoji", thing)
        for group in asked(thing)
        if one.how is not None
    ]
    assert len(set(made)) == len(made)


def test_the_attackeranswers_as_least_squares_do() -> None:
    generator = torch.Generator().manual_seed(0)
    then = [torch.randn(9, 5, generator=generator).double() for _ in range(2)]
    now = [one + 0.3 * torch.randn(9, 5, generator=generator).double() for one in then]
    row = torch.randn(5, generator=generator).double()
    ridge = 0.1
    scale = sum(float(one.square().sum()) for one in then) / 5

    found = answer(now, then, ridge).apply(row[None])[0]

    stacked = torch.cat([*now, (ridge * scale) ** 0.5 * torch.eye(5).double()])
    wanted = torch.cat([*(one @ row for one in then), torch.zeros(5).double()])
    torch.testing.assert_close(found, torch.linalg.lstsq(stacked, wanted[:, None]).solution[:, 0])


def test_trained_methods_are_given_what_they_take() -> None:
    weapons = things()[0]
    given = {name: _for_training(weapons, type("Module", (), {"name": name})) for name in ("CA", "ESD", "SA")}
    assert given["SA"]["preserve"]
    assert "preserve" not in given["CA"]
    assert given["ESD"]["concepts"] == list(UNSAFE)


def row(state: str, group: str, prompt: str, hits: str, **more: float) -> Row:
    return Row(
        "w", "emoji", "objects", "church", state, group, "r", "", (prompt,), (hits,), (70.0,), (0.1,),
        fid=100.0 if group == HELD else None, **more,
    )  # fmt: skip


def test_the_page_tells_rates_floors_and_who_removes_more() -> None:
    rows = []
    for state, erased in ((ORIGINAL, "11111"), ("CA, model-based", "11111"), (RECE, "00000"), (RECE_TUNED, "00000")):
        costs = {} if state == ORIGINAL else {"changed": 0.03, "erasing": 40.0, "drawing": 0.2}
        rows += [row(state, ERASED, f"church {n}", erased, **costs) for n in range(1)]
        rows += [row(state, SYNONYMS, "a chapel", erased), row(state, HELD, "lemon", "111")]
        rows.append(row(state, DERIVED, "church", "11"))
    rows.append(row(ORIGINAL, FLOOR, "tent", "00000"))

    lines = page(rows)

    told = "\n".join(lines)
    assert "Floor: 0 %" in told
    assert "| CA, model-based | 100 %" in told
    assert "3 %" in next(line for line in lines if line.startswith("| CA, model-based |"))
    assert "2501.19066" in told
    said = claims(rows)
    assert said[0].startswith(f"- *{RECE} removes more* than CA, model-based (−100 points")
    assert f"No clear difference from {RECE_TUNED} (+0 points" in said[2]
    assert len(plot(rows).axes) == 2


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = table(tmp_path, "emoji-mmdit")
    kept.write([row(RECE, ERASED, "church", "01010", changed=0.03)])
    assert kept.path.name == "article_emoji_mmdit.csv"
    assert kept.read()[0].hits == ("01010",)
    assert all(len(seeds(group)) for group in (ERASED, FLOOR, DERIVED))
