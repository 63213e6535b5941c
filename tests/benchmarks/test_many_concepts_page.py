"""The benchmark of many concepts: what it measures, its table and its page."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.harness import method_of
from benchmarks.many_concepts.page import page, thirds, write_page
from benchmarks.many_concepts.plan import (
    ALL,
    AUTO,
    CHOSEN,
    COUNTS,
    ERASED_PICTURES,
    KEPT_PICTURES,
    ORIGINAL,
    Task,
    Way,
    cells,
    grid,
    recipe,
)
from benchmarks.many_concepts.table import Row
from benchmarks.many_concepts.table import table as many_table
from rece_lightning import RECE, ConceptData, ConfigurationError

EDITED = Row(
    "abc", 10, "UCE", ALL, "epochs 1", "r1", seconds=1.5, remaining=0.1, drift=0.2,
    erased=("10", "00", "00", "00", "00", "00"), kept=("1", "1", "0", "1", "1", "1"),
    kept_names=("a", "b", "c", "d", "e", "f"), kept_drifts=(0.1, 0.2, 0.9, 0.8, 0.1, 0.3), worst=("c", "d"),
)  # fmt: skip
UNEDITED = Row(
    "abc", 10, ORIGINAL, "", "", "r0", remaining=1.0, drift=0.0, erased=("11",) * 6, kept=("1",) * 6,
    kept_names=EDITED.kept_names, kept_drifts=(0.0,) * 6, moments=(7.0, 24.0, 0.95, 0.0, 88.0, 1e5),
)  # fmt: skip
REFUSED = Row(
    "abc", 10, "null space", AUTO, "editor null_space", "r2", error="no direction | is free".replace("|", "/")
)


def test_what_one_count_erases_larger_ones_erase_and_what_is_looked_at_none_does() -> None:
    tasks = [Task(count) for count in COUNTS]
    for smaller, larger in pairwise(tasks):
        assert set(smaller.erased) < set(larger.erased)
    for task in tasks:
        assert len(task.erased) == task.count
        assert not set(task.erased) & set(task.kept)
        assert set(task.looked_at) <= set(task.kept)
        assert task.looked_at == tasks[0].looked_at
        assert len(task.shots["kept"]) == min(KEPT_PICTURES, len(tasks[-1].kept))
        assert len(task.shots["erased"]) == ERASED_PICTURES[task.count]
        assert all(len(shots) <= 4 for shots in task.limited(4).values())


def test_every_method_is_one_that_a_run_takes() -> None:
    task = Task(10)
    chosen = [part[0] for part in grid().values()]
    found = list(cells(task, chosen))
    assert [way.name for way, _ in found[-len(CHOSEN) :]] == list(CHOSEN)
    assert len({(way.name, preserve) for way, preserve in found}) == len(found)
    for way, preserve in found:
        RECE(method=method_of(way.settings))
        if preserve:
            assert ConceptData(**task.data(preserve)).pairs
    for part in grid().values():
        assert len({way.told for way in part}) == len(part)
        for way in part:
            RECE(method=method_of(way.settings))


def test_a_recipe_tells_settings_and_pictures_apart() -> None:
    task, way = Task(10), Way("UCE", {}, 1)
    others = [
        recipe(task, Way("UCE", {"editor.lamb": 1.0}, 1), ALL, None),
        recipe(task, way, AUTO, None),
        recipe(task, way, ALL, 4),
        recipe(Task(1), way, ALL, None),
    ]
    assert len({recipe(task, way, ALL, None), *others}) == 5


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = many_table(tmp_path)
    assert table.read() == []
    path = table.write([UNEDITED, EDITED, REFUSED])
    found = table.read()
    assert found[:2] == [
        Row(**{**vars(UNEDITED), "seconds": found[0].seconds}),  # NaN is not itself
        EDITED,
    ]
    assert found[2].error == REFUSED.error
    path.write_text(path.read_text().replace("0.9|", "", 1).replace("11|", "12|", 1))
    with pytest.raises(ConfigurationError, match="damaged"):
        table.read()


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    text = "\n".join(page([UNEDITED, EDITED, REFUSED]))
    gone, kept = 1 - 1 / 12, 5 / 6
    assert pytest.approx(2 / (1 / gone + 1 / kept)) == EDITED.harmonic
    low, high = EDITED.interval
    assert low < EDITED.harmonic < high
    for part in ("| **UCE** | all |", "refused: no direction", "95 %", "1.0e+05", "SPEED 89.6 %", "c, d"):
        assert part in text
    most, least = thirds(EDITED)
    assert (most.hits, most.total) == (1, 2)
    assert (least.hits, least.total) == (2, 2)
    assert write_page([UNEDITED, EDITED, REFUSED], tmp_path).name == "many_concepts.md"
    assert (tmp_path / "many_concepts.png").stat().st_size > 1000
    with pytest.raises(ConfigurationError, match="nothing was measured"):
        many_table(tmp_path).rows()


def test_one_concept_is_resampled_over_its_pictures() -> None:
    """One prompt resampled is itself: its interval would have no width."""
    alone = Row(**{**vars(EDITED), "erased": ("0101010101",)})
    low, high = alone.interval
    assert high - low > 0.2
