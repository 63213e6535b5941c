"""The benchmark of many concepts: what it measures, its table and its page."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.harness import method_of
from benchmarks.many_concepts.bound import least_drift
from benchmarks.many_concepts.page import page, thirds, write_page
from benchmarks.many_concepts.plan import (
    ALL,
    AUTO,
    BOUND,
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
    tuned,
)
from benchmarks.many_concepts.table import Row
from benchmarks.many_concepts.table import table as many_table
from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.core.editors.uce import UCE, edit
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments

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
    names = [way.name for way, _ in found]
    assert names[-1] == BOUND
    assert names[-1 - len(tuned()) : -1] == [way.name for way in tuned()]
    assert [name for name in names if name in CHOSEN] == list(CHOSEN)
    assert len({(way.name, preserve) for way, preserve in found}) == len(found)
    for way, preserve in found:
        RECE(method=method_of(way.settings))
        if preserve:
            assert ConceptData(**task.data(preserve)).pairs
    for part in grid().values():
        assert len({(str(way.settings), way.epochs) for way in part}) == len(part)
        for way in part:
            RECE(method=method_of(way.settings))


def test_a_recipe_tells_settings_and_pictures_apart() -> None:
    task, way = Task(10), Way("UCE", {}, 1)
    others = [
        recipe(task, Way("UCE", {"editor.lamb": 1.0}, 1), ALL, None),
        recipe(task, way, AUTO, None),
        recipe(task, way, ALL, 4),
        recipe(Task(1), way, ALL, None),
        recipe(task, Way("UCE", {}, 1, "balanced"), ALL, None),
        recipe(task, Way(BOUND, {}, 1), ALL, None),
    ]
    assert len({recipe(task, way, ALL, None), *others}) == len(others) + 1


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


def test_what_was_tuned_stands_beside_the_best_of_the_others_and_the_bound() -> None:
    ruled = replace(EDITED, method=tuned()[0].name, settings="lamb 0.06, epochs 2", kept=("1",) * 6)
    least = Row("abc", 10, BOUND, ALL, "", "r", least=(0.03, 0.015, 0.005))
    lines = page([UNEDITED, EDITED, ruled, least])
    assert f"- {ruled.method}: lamb 0.06, epochs 2" in lines
    shown = next(line for line in lines if line.startswith("| 10 |") and "best" not in line and "UCE:" in line)
    worse = f"{100 * (EDITED.harmonic - ruled.harmonic):.0f}".replace("-", "−")
    assert shown.endswith(f"| {worse} to {worse} |")
    assert "| 10 | 0.030 | 0.015 | 0.005 |" in lines
    # The bound is no method: no line of the tables, nothing that trades best.
    assert not [line for line in lines if BOUND in line and line.startswith("|")]


@pytest.mark.parametrize("rank", [3, 40])
def test_no_linear_edit_is_below_the_bound_and_uces_reach_it(rank: int) -> None:
    """Against edits of every kind at hand: of each the drift is at least what the bound says for what it leaves."""
    generator = torch.Generator().manual_seed(rank)
    width = 16
    weights = [torch.randn(5, width, generator=generator, dtype=torch.float64) for _ in range(4)]
    gram = Gram(torch.stack([weight.mT @ weight for weight in weights]).sum(0))
    concepts, kept = (torch.randn(count, width, generator=generator, dtype=torch.float64) for count in (4, rank))
    target = torch.randn(1, width, generator=generator, dtype=torch.float64).expand_as(concepts)
    moments = replace(Moments.of(concepts, target), preserved=Moments.preserving(kept).preserved)

    def left(maps: list[torch.Tensor]) -> float:
        ways = [((concepts @ m.mT - target) @ w.mT).square().sum() for m, w in zip(maps, weights, strict=True)]
        return float(sum(ways) / sum(((concepts - target) @ w.mT).square().sum() for w in weights))

    def drift(maps: list[torch.Tensor]) -> float:
        moved = [((kept @ m.mT - kept) @ w.mT).square().sum() for m, w in zip(maps, weights, strict=True)]
        return float(sum(moved) / sum((kept @ w.mT).square().sum() for w in weights))

    identity = torch.eye(width, dtype=torch.float64)
    found = []
    for scale in (0.01, 0.1, 1.0, 10.0):
        editor = edit(moments, UCE(1.0, scale, 1e-6)).matrix
        others = [edit(moments, UCE(1.0, scale * 2.0**k, 1e-6)).matrix for k in range(4)]  # a map for each layer
        singular = editor - editor[:, :1] @ torch.linalg.pinv(editor[:, :1]) @ editor
        noise = 0.1 * torch.randn(width, width, generator=generator, dtype=torch.float64)
        found += [[editor] * 4, others, [singular] * 4, [editor + noise] * 4, [0.5 * (identity + editor)] * 4]
    for maps in found:
        assert drift(maps) >= least_drift(gram, moments, left(maps)) - 1e-6
    # UCE's own are on the front, up to the multipliers that were tried.
    for maps in found[::5]:
        assert drift(maps) == pytest.approx(least_drift(gram, moments, left(maps)), abs=0.02)


def test_one_concept_is_resampled_over_its_pictures() -> None:
    """One prompt resampled is itself: its interval would have no width."""
    alone = Row(**{**vars(EDITED), "erased": ("0101010101",)})
    low, high = alone.interval
    assert high - low > 0.2
