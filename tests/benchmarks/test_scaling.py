"""The benchmark of scaling: what it goes on from, and the model of the cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import Piece, Table, fill
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.page import Constants, Timing, constants, page
from benchmarks.scaling.parts import BATCH, MATRICES, PARTS, Sizes
from rece_lightning.core.errors import ConfigurationError

WIDTH = 16
UNITS = {part: 10 * (place + 1) for place, part in enumerate(PARTS)}


def timings(processes: int, repeats: int = 3) -> list[Timing]:
    """Each unit of the n-th part takes n milliseconds, and 3 more on the first repeat; two take half of it."""
    return [
        Timing(part, processes, repeat, UNITS[part], units * (place + 1 + 3 * (repeat == 0)) / 1e3 / processes)
        for repeat in range(repeats)
        for place, (part, units) in enumerate(UNITS.items())
        if processes > 1 or part not in ("sum", "call")
    ]


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path / "scaling.csv", Timing)
    every = {one.key: one for one in (*timings(1), *timings(2))}
    asked: list[tuple[str, int, int]] = []

    def measure(sizes: Sizes, processes: int, todo: list[tuple[str, int]]) -> Iterator[Timing]:
        for part, repeat in todo:
            asked.append((part, processes, repeat))
            yield every[part, processes, repeat]

    monkeypatch.setattr(scaling, "measure", measure)
    work = [scaling.piece(Sizes(), processes, 3) for processes in (1, 2)]
    assert [len(piece.recipes) for piece in work] == [3 * (len(PARTS) - 2), 3 * len(PARTS)]
    rows = fill(table, work, whole=True)
    assert [replace(one, recipe="") for one in rows] == [every[one.key] for one in rows]
    assert {one.key for one in rows} == set(every)
    for known in range(0, len(every) + 1, 13):
        table.write(rows[:known])
        asked.clear()
        assert sorted(fill(table, work, whole=True), key=str) == sorted(rows, key=str)
        assert sorted(asked) == sorted(one.key for one in rows[known:])
        assert table.read()[:known] == rows[:known]
    other: list[Piece[Timing]] = [scaling.piece(replace(Sizes(), steps=1), processes, 3) for processes in (1, 2)]
    with pytest.raises(ConfigurationError, match="other settings"):
        fill(table, other, whole=True)
    table.path.write_text("part,processes\nreading,one\n")
    with pytest.raises(ConfigurationError, match="damaged"):
        table.read()


def test_constants_are_the_medians_of_a_unit() -> None:
    found = constants([*timings(1), *timings(2)], WIDTH)
    each = {part: (place + 1) / 1e3 for place, part in enumerate(PARTS)}
    assert found.read == pytest.approx(each["reading"])
    assert (found.encode, found.count) == pytest.approx((each["encoding"], each["moments"]))
    assert (found.picture, found.attack) == pytest.approx((each["generation"], each["attacks"]))
    assert found.algebra == pytest.approx(each["algebra"])
    # What two say to each other is timed on two, there and back. A larger message cannot cost less.
    assert found.call == pytest.approx(each["call"] / 4)
    assert found.byte == 0.0
    slower = [replace(one, seconds=5 * one.seconds) if one.part == "sum" else one for one in timings(2)]
    found = constants([*timings(1), *slower], WIDTH)
    assert found.call + found.byte * 8 * MATRICES * WIDTH**2 == pytest.approx(5 * each["sum"] / 4)
    assert found.reduction(2) == pytest.approx(5 * each["sum"] / 2)


@given(prompts=st.integers(1, 10**6), devices=st.integers(1, 300))
def test_devices_share_what_can_be_shared_and_nothing_else(prompts: int, devices: int) -> None:
    found = Constants(1e-5, 2e-3, 1e-4, 0.2, 1e-3, 1e-8, 0.1, 1.0, WIDTH)
    one, many = found.erasure(prompts, 1), found.erasure(prompts, devices)
    assert one["sum"] == 0
    assert one["encoding"] == pytest.approx(prompts * found.encode)
    for part in ("reading", "algebra"):
        assert many[part] == one[part]
    for part, each in (("encoding", found.encode), ("moments", found.count)):
        # The busiest device has its share, and at most a batch more.
        assert one[part] / devices - 1e-9 <= many[part] <= one[part] / devices + BATCH * each
    assert found.reduction(devices) <= found.reduction(devices + 1)


def test_the_page_shows_every_part_and_warns() -> None:
    told = {"command": "the command", "machine": "a machine.", "weights": "abc", "sizes": "few.", "warning": "one core"}
    text = "\n".join(page([*timings(1), *timings(2)], WIDTH, told))
    for part in PARTS:
        assert f"| {part}: " in text
    assert "| 2.00 |" in text
    assert "**one core**" in text
    assert "**" not in "".join(page([*timings(1), *timings(2)], WIDTH, {**told, "warning": ""}))
