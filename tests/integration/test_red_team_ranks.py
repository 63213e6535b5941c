"""Attacks by two processes: the table, the files and the pictures of one."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rece_lightning.attacks import AdversarialPrompt, AttackStore, read_embeddings
from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS, Row
from tests.helpers.ranks_red_team import CONCEPTS
from tests.integration.test_many_devices import run

REPOSITORY = Path(__file__).resolve().parents[2]
TIMES = ("seconds", "loss", "loss_before", "key")
"""What differs in a table by the clock, or by the last digits of a map that was summed in another order."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("attacks")
    done = run("-m", "tests.helpers.ranks_red_team", folder, where=REPOSITORY, limit=550)
    printed = "".join(path.read_text()[-3000:] for path in folder.glob("*/printed.txt"))
    assert "codes [[0], [0, 0], [0, 0]]" in done.stdout, done.stderr[-3000:] + printed
    return [folder / "1", folder / "2", folder / "loop"]


def rows(place: Path, name: str) -> list[dict[str, str]]:
    with (place / "run" / name).open(encoding="utf-8", newline="") as stream:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(stream)]


def told(place: Path, rank: int = 0) -> dict[str, Any]:
    return dict(json.loads((place / f"ran-{rank}.json").read_text()))


@pytest.mark.timeout(600)
def test_the_table_is_that_of_one_process(places: list[Path]) -> None:
    one, two = (rows(place, "red_team.csv") for place in places[:2])
    assert len(one) == len(two)
    for mine, theirs in zip(one, two, strict=True):
        assert mine.keys() == theirs.keys()
        for key in ("attack", "variant", "concept", "control", "has", "queries"):
            assert theirs[key] == mine[key]
        # A picture that is nearly as much one thing as another may be either where the last digits differ.
        for name in ("original", "edited", "original_prompts", "edited_prompts"):
            total = int(mine[f"{name}_total"])
            assert total == int(theirs[f"{name}_total"])
            assert abs(int(mine[f"{name}_hits"]) - int(theirs[f"{name}_hits"])) <= max(1, total // 10)
    # Prompts, four attacks (two points of a curve), a control; and all of them together.
    assert [row["concept"] for row in one[:3]] == CONCEPTS
    assert len(one) == 3 + 3 + 6 + 3 + 4 + 7
    assert sum(int(row["original_total"]) for row in one) > 50


@pytest.mark.timeout(600)
def test_what_was_found_lies_in_the_files_of_one_process(places: list[Path]) -> None:
    one, two = (rows(place, PROMPTS) for place in places[:2])
    assert one == two
    found = [read_embeddings(place / "run" / EMBEDDINGS) for place in places[:2]]
    assert len(found[0]) == len(found[1]) == 6 + 4
    for mine, theirs in zip(*found, strict=True):
        assert (mine.attack, mine.concept, mine.variant) == (theirs.attack, theirs.concept, theirs.variant)
        assert mine.embedding is not None
        assert theirs.embedding is not None
        # Gradient steps magnify the last digits of a map that was summed in another order.
        torch.testing.assert_close(mine.embedding, theirs.embedding, rtol=1e-2, atol=5e-3)
    assert not list((places[1] / "run").glob("*.rank-*"))


@pytest.mark.timeout(600)
def test_each_attack_runs_once_on_either_rank(places: list[Path]) -> None:
    shares = [told(places[1], rank)["ran"] for rank in range(2)]
    assert abs(len(shares[0]) - len(shares[1])) <= 1
    assert sorted(shares[0] + shares[1]) == sorted(told(places[0])["ran"])


@pytest.mark.timeout(600)
def test_every_rank_knows_the_figures(places: list[Path]) -> None:
    assert told(places[1], 0)["figures"] == told(places[1], 1)["figures"]
    # As in the table: of three prompts and an attack one may differ between one process and two.
    assert told(places[0])["figures"] == pytest.approx(told(places[1])["figures"], abs=0.34)
    assert "attack_success/mma" in told(places[0])["figures"]


@pytest.mark.timeout(600)
def test_the_pictures_that_got_through_are_those_of_one_process(places: list[Path]) -> None:
    sheets = [place / "run" / "images" / "sheet-red_team.webp" for place in places[:2]]
    assert sheets[0].exists() == sheets[1].exists()
    if sheets[0].exists():
        one, two = (np.asarray(Image.open(sheet), dtype=int) for sheet in sheets)
        assert one.shape == two.shape
        assert np.abs(one - two).mean() < 1


@pytest.mark.timeout(600)
def test_what_attacks_between_epochs_find_joins_on_every_rank(places: list[Path]) -> None:
    mine, theirs = (torch.load(places[2] / f"joined-{rank}.pt", weights_only=True) for rank in range(2))
    assert mine["sums"].any()
    assert mine.pop("sums").equal(theirs.pop("sums"))
    assert mine.pop("map").equal(theirs.pop("map"))
    # Each concept once, on whichever rank its attack ran.
    assert mine == theirs == {"found": len(CONCEPTS)}


# The files of several processes


def found(name: str, restart: int = 0, *, embedding: bool = False) -> AdversarialPrompt:
    rows = torch.full((3, 2), float(restart)) if embedding else None
    return AdversarialPrompt("mma", "bomb", restart, f"{name} {restart}", embedding=rows, loss_before=1.0, loss=0.5)


def told_of(rows: list[Row]) -> list[tuple[str, str]]:
    return [(key, row.prompt) for key, row in rows]


def test_ranks_write_beside_each_other_and_together_at_the_end(tmp_path: Path) -> None:
    before = AttackStore(tmp_path)
    before.add("a", [found("a")])
    first = AttackStore(tmp_path)
    second = AttackStore(tmp_path, 1, first.known)
    assert [one.prompt for one in second.found("a")] == ["a 0"]
    second.add("c", [found("c"), found("c", 1)])
    first.add("d", [found("d", embedding=True)])
    second.add("b", [found("b", embedding=True)])
    assert {path.name for path in tmp_path.iterdir()} == {
        PROMPTS, EMBEDDINGS, "adversarial_prompts.rank-1.csv", "adversarial_embeddings.rank-1.safetensors",
    }  # fmt: skip
    assert len((tmp_path / "adversarial_prompts.rank-1.csv").read_text().splitlines()) == 3
    first.put_together(sorted([*first.fresh, *second.fresh], key=lambda row: row[0]))
    assert {path.name for path in tmp_path.iterdir()} == {PROMPTS, EMBEDDINGS}
    again = AttackStore(tmp_path)
    assert told_of(again.known) == [("a", "a 0"), ("c", "c 0"), ("c", "c 1"), ("b", "b 0"), ("d", "d 0")]


@pytest.mark.parametrize("died", ["before they were put together", "before the parts were removed"])
def test_what_stopped_ranks_found_is_not_lost_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    first = AttackStore(tmp_path)
    second, third = AttackStore(tmp_path, 1, []), AttackStore(tmp_path, 2, [])
    first.add("a", [found("a")])
    second.add("b", [found("b"), found("b", 1)])
    third.add("c", [found("c", embedding=True)])
    if died.endswith("removed"):
        monkeypatch.setattr("rece_lightning.attacks.store.discard", lambda path: None)
        AttackStore(tmp_path)
        monkeypatch.undo()
        assert len(list(tmp_path.iterdir())) == 4
    for _ in range(2):
        again = AttackStore(tmp_path)
        assert told_of(again.known) == [("a", "a 0"), ("b", "b 0"), ("b", "b 1"), ("c", "c 0")]
        assert {path.name for path in tmp_path.iterdir()} == {PROMPTS, EMBEDDINGS}
