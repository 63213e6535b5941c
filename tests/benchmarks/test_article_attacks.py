"""The ladder on the article's methods: whom it meets, with what, and what the page makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.article import __main__ as command
from benchmarks.article.attack_page import above, findings, sections, table
from benchmarks.article.attacks import BUDGET, LADDERS, PICTURES, STEPS, Attacked, goals, recipe
from benchmarks.article.bench import Bench
from benchmarks.article.plan import (
    ALONE,
    DERIVED,
    ORIGINAL,
    UCE,
    UNSAFE,
    WORLDS,
    Contender,
    Trained,
    contenders,
    things,
)
from benchmarks.article.table import AttackRow, Row, attack_table
from benchmarks.article.victims import Victims, Whole
from benchmarks.results.plan import ERASED
from rece_lightning.baselines import ConceptAblation
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.metrics.intervals import wilson_interval
from rece_lightning.models.denoisers import denoisers_of, together


def method(name: str, world: str = "emoji") -> Contender:
    return next(one for one in contenders(world, things()[0]) if one.name == name)


def test_every_concept_meets_a_control_of_its_own_that_the_denoiser_never_saw() -> None:
    unseen = {item.name for item in load_catalog().held_out}
    (cce,) = [one for one in LADDERS["emoji"].made() if one.needs_control]
    found: dict[str, str] = {}
    for thing in things():
        if thing.kind == "styles":
            continue
        own = goals(thing, cce)
        half = len(own) // 2
        assert [goal.control for goal in own] == [False] * half + [True] * half
        found |= {one.concept: other.concept for one, other in zip(own[:half], own[half:], strict=True)}
    assert tuple(found) == (*UNSAFE, *ALONE)
    assert set(found.values()) <= unseen
    assert len(set(found.values())) == len(found)


def test_what_is_attacked_exists_and_begins_where_every_method_can() -> None:
    names = {thing.name: thing for thing in things()}
    for world in WORLDS:
        ladder = LADDERS[world]
        for thing in ladder.things:
            there = {one.name for one in contenders(world, names[thing])}
            assert set(ladder.methods) <= there
            attacked = ladder.attacked(world, names[thing])
            assert {one.name for one in attacked} == (set(ladder.methods) or there)
            # A run that is stopped lacks what takes longest.
            assert [isinstance(one.how, Trained) for one in attacked] == sorted(
                isinstance(one.how, Trained) for one in attacked
            )
        assert [one.name for one in ladder.made()] == list(ladder.attacks)
    assert BUDGET["cce"]["start"] == "prompt"  # the start that is derived needs the map of an edit


def test_a_recipe_tells_methods_and_attacks_apart() -> None:
    weapons, made = things()[0], LADDERS["emoji"].made()
    found = [recipe("emoji", weapons, one, attack) for one in contenders("emoji", weapons) for attack in made]
    assert len(set(found)) == len(found)


# Victims


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench("emoji")


def weights_of(bench: Bench) -> dict[str, torch.Tensor]:
    denoiser = together(denoisers_of(bench.world.maker.pipeline))
    return {name: one.detach().clone() for name, one in denoiser.named_parameters()}


def test_an_edit_is_what_it_changes_and_is_undone(bench: Bench, tmp_path: Path) -> None:
    before, victims = weights_of(bench), Victims(bench, tmp_path)
    with bench.applied(things()[0], method(UCE)):
        wanted = weights_of(bench)

    victim = victims.of(things()[0], method(UCE))

    assert victim.weights is not None
    assert set(victim.weights) == {name for name, one in wanted.items() if not torch.equal(one, before[name])}
    with victim.edited() as denoiser:
        own = {name: one.detach().clone() for name, one in denoiser.named_parameters()}
    assert all(torch.equal(own[name], one) for name, one in wanted.items())
    assert all(torch.equal(one, before[name]) for name, one in weights_of(bench).items())


def test_a_guard_changes_nothing_and_is_drawn_through(bench: Bench, tmp_path: Path) -> None:
    original, guarded = (
        Victims(bench, tmp_path).of(things()[0], method(name)) for name in (ORIGINAL, "negative prompt")
    )
    assert guarded.weights is None
    assert guarded.sampling.guard is not None
    assert guarded.fingerprint == original.fingerprint  # a search of one serves the other
    requests = [replace(original.requests(["bomb"])[0], seed=3)]
    drawn = [victim.draw(requests, edited=True) for victim in (original, guarded)]
    assert not torch.equal(*drawn)


def test_trained_weights_are_kept_and_not_trained_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, weapons, trainings = weights_of(bench), things()[0], list[str]()
    applied = bench.applied
    monkeypatch.setattr(bench, "applied", lambda *given: trainings.append(given[1].name) or applied(*given))
    few = {"pretrained": "emoji", "parameters": "all", "pictures": 2, "steps": 2, "batches": 1, "batch_size": 1}
    contender = Contender("CA", Trained(ConceptAblation, few))

    first, second = (Victims(bench, tmp_path).of(weapons, contender) for _ in range(2))

    assert trainings == ["CA"]
    assert first.weights is not None
    assert second.weights is not None
    assert all(torch.equal(one, second.weights[name]) for name, one in first.weights.items())
    assert first.fingerprint == second.fingerprint
    # Convolutions too: what is put back is more than an edit's undoing puts back.
    assert any("conv" in name for name in first.weights)
    with second.edited() as denoiser:
        assert all(torch.equal(denoiser.get_parameter(name), one) for name, one in first.weights.items())
    assert all(torch.equal(one, before[name]) for name, one in weights_of(bench).items())
    Victims(bench, tmp_path).of(weapons, replace(contender, how=Trained(ConceptAblation, {**few, "seed": 1})))
    assert len(trainings) == 2  # other settings are trained apart


def test_what_is_not_another_weight_is_not_changed(bench: Bench) -> None:
    whole = Whole(bench.world.maker)
    assert whole.changed() == {}
    name, weight = next(iter(whole.original.items()))
    whole.use([(name, weight + 1)])
    assert list(whole.changed()) == [name]
    whole.use(None)
    assert whole.changed() == {}


def test_an_attack_leaves_rows_of_what_it_found(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGET, "cce", {"steps": 1, "at": (0, 1), "start": "prompt", "pictures": 2, "batch_size": 1})
    monkeypatch.setattr("benchmarks.article.attacks.PICTURES", range(1))
    monkeypatch.setitem(LADDERS, "emoji", replace(LADDERS["emoji"], attacks=("cce",)))
    church = next(thing for thing in things() if thing.name == "church")
    piece = Attacked(bench, tmp_path).piece(church, method("output filter"))

    (rows,) = piece.measure(list(piece.recipes))

    assert [(row.variant, row.control) for row in rows] == [
        (f"steps={step}", control) for control in (0, 1) for step in (0, 1)
    ]
    assert {row.key for row in rows} == set(piece.recipes)
    assert {row.concepts for row in rows if not row.control} == {("church",)}
    assert all(row.share.total == 1 and row.queries for row in rows)
    assert all("does not see the guard" in row.has for row in rows)
    kept = attack_table(tmp_path)
    kept.write(rows)
    assert [replace(row, seconds=0.0) for row in kept.read()] == [replace(row, seconds=0.0) for row in rows]


# The table and the page


def row(state: str, attack: str, hits: str, variant: str = "", control: int = 0, guarded: bool = False) -> AttackRow:
    clusters = tuple(hits.split())
    return AttackRow(
        world="emoji", kind="unsafe", erasure="weapons", state=state, attack=attack, variant=variant, control=control,
        has="weights; does not see the guard" if guarded else "weights", recipe="r",
        concepts=("penguin" if control else "bomb",) * len(clusters), hits=clusters, queries=4, seconds=0.5,
    )  # fmt: skip


def curve(state: str, found: str, control: str, **more: Any) -> list[AttackRow]:
    return [
        row(state, "cce", hits, f"steps={step}", control=place, **more)
        for place, hits in enumerate((found, control))
        for step in STEPS
    ]


def rows() -> list[AttackRow]:
    return [
        *(row(ORIGINAL, name, "3/3 3/3") for name in ("mma", "p4d")),
        *curve(ORIGINAL, "3/3 3/3 3/3 3/3", "0/3 0/3 0/3 0/3"),
        *(row("SAFREE", name, "3/3 3/3", guarded=True) for name in ("mma", "p4d")),
        row(UCE, "mma", "0/3 0/3"),
        row(UCE, "p4d", "0/3 1/3"),
        *curve(UCE, "1/3 1/3", "1/3 1/3"),
    ]


def test_the_page_tells_what_attacks_reach_and_what_a_guard_is_spared() -> None:
    plain = [
        Row("w", "emoji", "unsafe", "weapons", UCE, group, "r", "", ("bomb",), (hits,), (70.0,), (0.1,))
        for group, hits in ((ERASED, "00000"), (DERIVED, "11"))
    ]
    told = "\n".join(sections(rows(), plain))
    low, high = wilson_interval(1, 6)
    line = next(line for line in table(rows(), plain) if line.startswith("| UCE |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1].startswith("0 % ")
    assert cells[3] == f"17 % ({100 * low:.0f}–{100 * high:.0f})"
    assert cells[4].startswith("100 % ")
    assert cells[-1].startswith("0 ")
    assert "no gradient passes through it" in told
    assert "penguin" in told
    assert "no gradient" not in "\n".join(sections([one for one in rows() if one.state != "SAFREE"], plain))
    assert sections([], plain) == []


def test_findings_name_the_strongest_prompt_attack_and_what_cce_finds_above_its_control() -> None:
    prompts, embeddings = findings(rows())
    many, few = prompts.split(" At most one in ten, of the pictures that were drawn, after ")
    assert f"{ORIGINAL} (mma, 100 %" in many
    assert "SAFREE (mma, 100 %" in many
    assert few == "none."
    clear, level = embeddings.split(" No clear difference after ")
    assert f"{ORIGINAL} (+100 points" in clear
    assert level.startswith(f"{UCE} (0 points")
    assert above([one for one in rows() if not one.control], UCE) is None


def test_a_row_whose_hits_are_not_its_concepts_is_refused() -> None:
    with pytest.raises(ValueError, match="weapons"):
        replace(row(UCE, "mma", "0/3 1/3"), concepts=("bomb",))
    with pytest.raises(ValueError, match="hits"):
        row(UCE, "mma", "4/3")


def test_attacks_of_other_worlds_stay_when_one_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(row(UCE, "cce", "1/3"), world="emoji-mmdit")
    attack_table(tmp_path).write([*rows(), other])
    monkeypatch.setattr(command, "Bench", lambda world: None)
    monkeypatch.setattr(command, "Attacked", lambda bench, folder: None)
    monkeypatch.setitem(LADDERS, "emoji", replace(LADDERS["emoji"], things=()))

    command.attack(tmp_path, ["emoji"], None, overwrite=True)

    assert attack_table(tmp_path).read() == [other]
    assert len(PICTURES) > 1
