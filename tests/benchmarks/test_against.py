"""Two checkouts in turns: each runs its own code, and the table says what the turns say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.against import SECTIONS, compare, in_turns, row

SPEED = """
class Problem:
    def __init__(self, shapes, device, concepts):
        self.concepts = concepts
    def ours(self, epochs):
        return {factor} * epochs * self.concepts
def seconds(work, device):
    return float(work())
"""


def checkout(root: Path, factor: float) -> Path:
    """One whose epoch takes so many seconds a concept."""
    (root / "benchmarks").mkdir(parents=True)
    (root / "benchmarks" / "full_size.py").write_text("def projection_shapes(kind): return [(2, 2)]\n")
    (root / "benchmarks" / "speed.py").write_text(SPEED.format(factor=factor))
    return root


def test_both_checkouts_run_their_own_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = checkout(tmp_path / "one", 2.0), checkout(tmp_path / "other", 0.5)
    monkeypatch.setattr("benchmarks.against.__file__", str(one / "benchmarks" / "against.py"))
    lines = compare(other, ["loop-sd1", "loop-sd1-20"], "cpu", 2, tmp_path, lambda *given, folder: (0.0, 0.0))
    assert lines[2] == f"| {SECTIONS['loop-sd1']} | 1.500 | 6.000 | 4.000 | 4.00–4.00 | – | – |"
    assert lines[3] == f"| {SECTIONS['loop-sd1-20']} | 30.000 | 120.000 | 4.000 | 4.00–4.00 | – | – |"


def test_commands_run_in_folders_of_their_own(tmp_path: Path) -> None:
    ran: list[tuple[str, ...]] = []
    folders: set[Path] = set()

    def child(*given: str, folder: Path) -> tuple[float, float]:
        assert folder.is_dir()
        ran.append(given)
        folders.add(folder)
        return (2.0, 100.0) if str(tmp_path) in given[0] else (3.0, 110.0)

    lines = compare(tmp_path, ["command"], "cpu", 3, tmp_path / "checkpoint", child)
    assert lines[-1].endswith("| 2.000 | 3.000 | 1.500 | 1.50–1.50 | 100 | 110 |")
    assert len(folders) == len(ran) == 8
    assert all(given[1:] == ran[0][1:] for given in ran)
    assert ran[0][1:3] == ("fit", "--config")


def test_who_begins_changes_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []

    def work(name: str, took: list[float]) -> tuple[float, float]:
        order.append(name)
        return took.pop(0), 0.0

    times = {"other": [9.0, 1.0, 2.0, 4.0], "this": [9.0, 1.1, 2.0, 5.0]}
    found = in_turns({name: lambda name=name: work(name, times[name]) for name in list(times)}, 3)  # type: ignore[misc]
    assert order[:4] in (["this", "other", "other", "this"], ["other", "this", "this", "other"])
    assert [took for took, _ in found["other"]] == [1.0, 2.0, 4.0]
    assert row("loop", found) == "| loop | 2.000 | 2.000 | 1.000 | 1.00–1.25 | – | – |"
