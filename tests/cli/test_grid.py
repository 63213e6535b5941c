"""``--grid``: keys, types and combinations, and what is refused of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from rece_lightning.cli.grid import parse_grid, settings_of
from rece_lightning.core import (
    UCE,
    Derivation,
    Editor,
    EditProblem,
    EmbeddingMap,
    Method,
    NullSpace,
    ProjectedUCE,
    Projection,
)
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.sweep.grid import EPOCHS, TARGET, Setting

EDITOR, DERIVATION = "model.method.editor", "model.method.derivation"
BASE = Setting(Method(), 3, " ")


@dataclass(frozen=True)
class Forget(Editor):
    """An editor of a user's own."""

    strength: float = 1.0
    rounds: int = 1

    def __call__(self, problem: EditProblem) -> EmbeddingMap:
        return EmbeddingMap.identity(problem.gram.width)


OWN = f"{__name__}.Forget"


def settings(*arguments: str, base: Setting = BASE) -> list[Setting]:
    return settings_of(parse_grid(arguments), base)


def refused(*arguments: str, base: Setting = BASE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settings(*arguments, base=base)
    return str(caught.value)


def test_every_combination_is_tried_once() -> None:
    grid = parse_grid([f"{EDITOR}.lamb=0.1,1e-1,1", "trainer.max_epochs=1,2", f"{DERIVATION}.scale=[0.1,1]"])
    assert grid[f"{DERIVATION}.scale"] == [0.1, 1.0]
    found = settings_of(grid, BASE)
    # λ counts in later epochs alone: UCE is tried once for every λ₂. The base comes first.
    assert len(found) == 1 + 2 * (2 + 1)
    assert found[0] is BASE
    assert sum(setting.epochs == 1 for setting in found) == 2
    assert {setting.method.editor for setting in found} == {UCE(), UCE(lamb=1.0)}


def test_what_only_the_surrogate_reads_is_no_other_setting() -> None:
    found = settings(f"{DERIVATION}.surrogate_items=first,second,both", f"{DERIVATION}.regularizer=norm,surrogate")
    assert len(found) == 1 + 3


def test_values_with_commas_of_their_own() -> None:
    text = "model.method.first_editor={class_path: UCE, init_args: {preserve_scale: 1.0, lamb: 0.5}},null"
    found = settings(text)
    assert [one.method.first_editor for one in found] == [None, UCE(preserve_scale=1.0, lamb=0.5)]
    assert parse_grid(['data.target=" ","a toy",5']) == {TARGET: [" ", "a toy", "5"]}
    assert [one.method.layers for one in settings("model.method.layers=^up,null,5")] == [None, "^up", "5"]
    assert [one.method.spaces for one in settings("model.method.spaces=[text],[text,pooled]")][1:] == [
        ("text",),
        ("text", "pooled"),
    ]
    assert [one.method.spaces for one in settings("model.method.spaces=text")][1:] == [("text",)]


def test_an_editor_by_its_name_takes_over_what_it_shares() -> None:
    base = replace(BASE, method=Method(editor=UCE(preserve_scale=0.0, lamb=2.0)))
    found = settings(f"{EDITOR}=NullSpace,Projection", base=base)
    assert [one.method.editor for one in found[1:]] == [NullSpace(preserve_scale=0.0, lamb=2.0), Projection()]
    found = settings(f"{EDITOR}=ProjectedUCE", f"{EDITOR}.rank=1,0.9", f"{EDITOR}.lamb=0.1,1", base=base)
    assert {one.method.editor for one in found[1:]} == {
        ProjectedUCE(preserve_scale=0.0, lamb=lamb, rank=rank) for lamb in (0.1, 1.0) for rank in (1, 0.9)
    }
    found = settings(f"{EDITOR}={{class_path: NullSpace, init_args: {{threshold: 0.5}}}}", base=base)
    assert found[1].method.editor == NullSpace(threshold=0.5)


def test_an_argument_counts_where_the_editor_has_it() -> None:
    found = settings(f"{EDITOR}=UCE,Projection", f"{EDITOR}.lamb=0.1,1", f"{EDITOR}.shrinkage=3,5")
    assert {one.method.editor for one in found} == {UCE(), UCE(lamb=1.0), Projection(), Projection(shrinkage=5.0)}
    # The configuration's own editor is none of the grid's.
    message = refused(f"{EDITOR}=Projection", f"{EDITOR}.lamb=0.1,1")
    assert f"--grid {EDITOR}.lamb: Projection has no such setting, UCE" not in message
    assert f"{EDITOR}.lamb: Projection has no such setting" in message
    assert f"add --grid {EDITOR}=UCE" in message


def test_an_editor_of_a_users_own_is_one_of_the_grid() -> None:
    found = settings(f"{EDITOR}=UCE,{OWN}", f"{EDITOR}.strength=0.5,1e-1", f"{EDITOR}.lamb=0.1,1")
    assert [one.method.editor for one in found] == [UCE(), UCE(lamb=1.0), Forget(0.5), Forget(0.1)]
    assert "cannot be used; give a whole number" in refused(f"{EDITOR}={OWN}", f"{EDITOR}.rounds=1,many")


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        (f"{EDITOR}.lambd=1", [f"{EDITOR}.lambd", f"did you mean '{EDITOR}.lamb'"]),
        ("model.methud.tokens=all", ["no setting that a sweep can vary", "did you mean 'model.method.tokens'"]),
        ("model.pretrained=a,b", ["model.pretrained", "no setting that a sweep can vary"]),
        ("model.method.robust.norms=[1]", ["model.method.robust.norms", "no setting that a sweep can vary"]),
        (f"{EDITOR}.lamb=1,two", [f"{EDITOR}.lamb", "'two'", "a number"]),
        (f"{EDITOR}.lamb=-1", [f"--grid {EDITOR}.lamb: -1", "0 or greater"]),
        (f"{EDITOR}.lamb=.nan", [f"--grid {EDITOR}.lamb: nan"]),
        (
            f"{EDITOR}.shrinkage=1",
            [f"{EDITOR}.shrinkage: UCE has no such setting", f"have; add --grid {EDITOR}=ProjectedUCE"],
        ),
        (f"{EDITOR}=UCE,Projecton", [EDITOR, "'Projecton'", "did you mean 'Projection'"]),
        (f"{EDITOR}=no.such.Editor", [EDITOR, "no.such.Editor"]),
        (f"{EDITOR}=pathlib.Path", [EDITOR, "pathlib.Path is no subclass"]),
        (f"{EDITOR}=5", [EDITOR, "5 is no editor"]),
        ("model.method.first_editor.lamb=1", ["model.method.first_editor is null", "add --grid"]),
        ("model.method.first_editor=TensorUCE", ["model.method.first_editor", "does not go with UCE"]),
        (f"{DERIVATION}.scale=0", [f"--grid {DERIVATION}.scale: 0", "greater than 0"]),
        (f"{DERIVATION}.scale=a", [f"{DERIVATION}.scale", "'a'", "a number"]),
        (f"{DERIVATION}.scal=1", [f"did you mean '{DERIVATION}.scale'"]),
        (f"{DERIVATION}=5", [DERIVATION, "5 is no Derivation"]),
        ("model.method.accumulate=ture", ["model.method.accumulate", "ture", "true or false"]),
        ("model.method.tokens=last,allign", ["model.method.tokens", "allign", "did you mean 'aligned'"]),
        ("trainer.max_epochs=0", [EPOCHS, "0", "1 or more"]),
        ("trainer.max_epochs=two", [EPOCHS, "two", "a whole number"]),
        (f"{EDITOR}.lamb", ["no values"]),
        (f"{EDITOR}.lamb=", ["no values"]),
        (f"{EDITOR}.lamb=[1,", ["cannot be read"]),
    ],
)
def test_grids_that_cannot_be_used(argument: str, parts: list[str]) -> None:
    message = refused(argument)
    assert message.startswith("--grid")
    assert message.count("--grid ") == 1 + message.count("add --grid ") + message.count("write --grid ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("model.lamb", "model.method.editor.lamb"),
        ("model.regular_scale", "model.method.derivation.scale"),
        ("model.editor", "model.method.editor"),
    ],
)
def test_a_key_of_the_former_layout_ends_in_the_new_one(key: str, now: str) -> None:
    message = refused(f"{key}=1")
    assert message.startswith(f"--grid {key}: it is {now} now")
    assert message.count(".") == 1 + key.count(".") + now.count(".")


def test_a_grid_too_large_or_given_twice_is_refused() -> None:
    assert "twice" in refused(f"{EDITOR}.lamb=1", f"{EDITOR}.lamb=2")
    many = ",".join(str(1 + index) for index in range(400))
    assert "160,000 settings" in refused(f"{EDITOR}.lamb={many}", f"{EDITOR}.preserve_scale={many}")


# What a setting says of itself


def test_a_setting_is_the_same_however_it_was_reached() -> None:
    one = Setting(Method(editor=UCE(lamb=1)), 1, " ")  # type: ignore[arg-type]
    other = Setting(Method(editor=Projection(), first_editor=UCE(lamb=1.0), derivation=Derivation(5.0)), 1, " ")
    assert one.identity == other.identity
    assert replace(one, epochs=2).identity != replace(other, epochs=2).identity
    assert one.but_epochs == replace(one, epochs=7).but_epochs


@pytest.mark.parametrize(
    ("changes", "described"),
    [
        ({}, "the configuration as it is"),
        ({"method": Method(editor=UCE(lamb=0.5)), "epochs": 2}, "editor.lamb 0.5, max_epochs 2"),
        ({"method": Method(editor=Projection(shrinkage=5.0))}, "editor Projection, editor.shrinkage 5"),
        ({"method": Method(derivation=Derivation(5.0)), "epochs": 1}, "max_epochs 1"),
        ({"method": Method(spaces=("text",)), "target": "toy"}, 'spaces ["text"], target toy'),
    ],
)
def test_a_setting_is_described_by_what_it_has_otherwise(changes: dict[str, Any], described: str) -> None:
    assert replace(BASE, **changes).describe(BASE) == described
