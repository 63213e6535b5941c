"""The eraser: what it hands an editor and takes from it, its state, and what it measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from rece_lightning.core import (
    UCE,
    Derivation,
    Editor,
    EditProblem,
    EmbeddingMap,
    Eraser,
    Evidence,
    Gram,
    LayerMaps,
    Method,
    Moments,
    NullSpace,
    ProjectedUCE,
    Projection,
    Robust,
    TensorUCE,
    diagnostics,
)
from rece_lightning.core.budget import BUDGETS
from rece_lightning.core.diagnostics import regeneration_residual
from rece_lightning.core.embedding_map import AnyMap, stored
from rece_lightning.core.eraser import check_map, identity_like
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.robust import Joined
from tests.helpers.problems import Problem, drawn_pairs, drawn_preserved, random_problem, relative

EDITORS = [UCE(0.8, 0.3, 0.2), TensorUCE(0.8, 0.3, 0.2), NullSpace(0.8, 0.3, 0.2, 1e-3), Projection(1)]
EDITORS += [ProjectedUCE(0.8, 0.3, 0.2, rank=1)]
METHODS = [
    Method(editor=editor, accumulate=accumulate, derivation=Derivation(0.3, regularizer))
    for editor in EDITORS
    for accumulate in (False, True)
    for regularizer in ("norm", "standard")
] + [
    Method(editor=UCE(0.8, 0.3, 0.2), first_editor=NullSpace(threshold=1e-3), accumulate=True),
    Method(editor=Projection(1), first_editor=UCE()),
    Method(editor=UCE(), first_editor=ProjectedUCE(rank=1)),
    Method(robust=Robust(norms=(0.5,), ridges=(0.3,)), accumulate=True),
]


def name_of(method: Method) -> str:
    parts = [type(method.editor).__name__, type(method.first_editor).__name__, method.derivation.regularizer]
    return "-".join([*parts, *["accumulate"] * method.accumulate, *["robust"] * (method.robust is not None)])


def problem() -> Problem:
    """Wide enough that three epochs of every editor leave something."""
    return random_problem(3, width=12, outs=(14, 13), preserved=3)


def joined(width: int) -> Joined:
    rows = torch.randn(5, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moments = Moments.of(rows[:2], rows[2:4], 0.5)
    return Joined(moments, moments, moments.times(0.3), Moments.preserving(rows[4:]).preserved)


# Its state


@pytest.mark.parametrize("method", METHODS, ids=name_of)
@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_resumed_eraser_goes_on_bit_for_bit(method: Method, epochs: int) -> None:
    """What an accumulating loop holds is rebuilt, so the epochs after it are those of a run that was never stopped."""
    given = problem()
    whole = Eraser(method, given.evidence, given.gram).run(epochs)
    state = whole.state_dict()
    assert set(state) == {"map", "epoch"}
    assert state["epoch"] == epochs
    resumed = Eraser.from_state(state, method, given.evidence, given.gram)
    assert resumed.epoch == epochs
    assert torch.equal(stored(resumed.maps), stored(whole.maps))
    for _ in range(2):
        one, other = whole.step(), resumed.step()
        assert torch.equal(one.moments.erased, other.moments.erased)
        assert torch.equal(stored(one.step), stored(other.step))
        assert torch.equal(stored(whole.maps), stored(resumed.maps))
        assert whole.measure(one) == resumed.measure(other)
    assert whole.first_maps is not None
    assert resumed.first_maps is not None
    assert torch.equal(stored(whole.first_maps), stored(resumed.first_maps))


@pytest.mark.parametrize("method", METHODS, ids=name_of)
@pytest.mark.parametrize("epochs", [1, 3])
def test_methods_of_the_same_editors_share_their_first_edit(method: Method, epochs: int) -> None:
    """Under another loop from its first epoch on an eraser is one of that loop, bit for bit, whatever it ran before."""
    given = problem()
    loop = replace(method, accumulate=not method.accumulate, derivation=Derivation(0.7))
    begun = Eraser(loop, given.evidence, given.gram).run(epochs)

    other, alone = begun.under(method), Eraser(method, given.evidence, given.gram).run(1)

    assert other.epoch == 1
    for _ in range(2):
        one, wanted = other.step(), alone.step()
        assert torch.equal(one.moments.erased, wanted.moments.erased)
        assert torch.equal(stored(other.maps), stored(alone.maps))
        assert other.measure(one) == alone.measure(wanted)
    assert begun.epoch == epochs


@pytest.mark.parametrize("method", METHODS[::3], ids=name_of)
def test_the_stored_bits_count_and_not_those_of_the_machine_that_resumes(method: Method) -> None:
    """Another machine rounds differently: it goes on from what was saved."""
    given = problem()
    eraser = Eraser(method, given.evidence, given.gram).run(2)
    state = eraser.state_dict()
    state["map"] = state["map"] * (1 + 2.0**-45)
    resumed = Eraser.from_state(state, method, given.evidence, given.gram)
    assert torch.equal(stored(resumed.maps), state["map"])
    assert not torch.equal(stored(resumed.maps), stored(eraser.maps))
    assert type(resumed.maps) is type(eraser.maps)
    before = stored(resumed.maps)
    record = resumed.step()
    assert torch.equal(stored(record.before), before)
    torch.testing.assert_close(stored(resumed.maps), stored(eraser.run(1).maps), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_on_another_models_projections_the_map_is_reused_or_the_epochs_are(editor: Editor) -> None:
    given, other = problem(), replace(problem(), weights=random_problem(8, width=12, outs=(14, 13)).weights)
    method = Method(editor=editor, accumulate=True)
    state = Eraser(method, given.evidence, given.gram).run(3).state_dict()
    reused = Eraser.from_state(state, method, given.evidence, other.gram)
    assert torch.equal(stored(reused.maps), state["map"])
    anew = Eraser.from_state(state, method, given.evidence, other.gram, reuse_map=False)
    assert torch.equal(stored(anew.maps), stored(Eraser(method, given.evidence, other.gram).run(3).maps))
    assert relative(stored(anew.maps), state["map"]) > 1e-3, "the models do not differ here: a test of nothing"


def test_a_state_that_does_not_fit_is_refused_with_the_widths() -> None:
    given, narrow = problem(), random_problem(3, width=7)
    state = Eraser(Method(), given.evidence, given.gram).run(1).state_dict()
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: .*shape \[12, 12\].*embeddings 7 wide"):
        Eraser.from_state(state, Method(), narrow.evidence, narrow.gram)
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: .*shape \[12, 12\].*embeddings 12 wide"):
        Eraser.from_state(state, Method(editor=TensorUCE()), given.evidence, given.gram)
    layers = Eraser(Method(editor=TensorUCE()), given.evidence, given.gram).run(1).state_dict()
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: .*shape \[2, 12, 12\]"):
        Eraser.from_state(layers, Method(), given.evidence, given.gram)


# Its epochs


def test_before_an_epoch_there_is_the_identity_and_no_first_map() -> None:
    given = problem()
    eraser = Eraser(Method(), given.evidence, given.gram)
    assert eraser.epoch == 0
    assert eraser.first_maps is None
    assert torch.equal(stored(eraser.maps), torch.eye(12, dtype=torch.float64))
    assert eraser.run(0) is eraser
    assert eraser.first_maps is None
    layers = Eraser(Method(editor=TensorUCE()), given.evidence, given.gram).maps
    assert torch.equal(stored(layers), torch.eye(12, dtype=torch.float64).repeat(2, 1, 1))
    with pytest.raises(ValueError, match="keep_layers=True"):
        identity_like(Gram(given.gram.total), per_layer=True)


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_first_maps_are_those_of_epoch_0_whatever_follows(method: Method) -> None:
    given = problem()
    eraser = Eraser(method, given.evidence, given.gram).run(1)
    first = stored(eraser.maps).clone()
    assert eraser.first_maps is not None
    assert torch.equal(stored(eraser.first_maps), first)
    eraser.run(2)
    assert torch.equal(stored(eraser.first_maps), first)
    assert relative(stored(eraser.maps), first) > 1e-6


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("regularizer", ["norm", "standard", "surrogate"])
@pytest.mark.parametrize("count", [2, 4, 12])
def test_the_epochs_on_rows_are_those_on_moments(count: int, regularizer: str, accumulate: bool) -> None:
    generator, width = torch.Generator().manual_seed(4), 24
    gram = Gram.of((str(layer), torch.randn(16 + layer, width, generator=generator)) for layer in range(3))
    first, whole, preserved = drawn_pairs(count - 1, width, 1), drawn_pairs(count, width, 2), drawn_preserved(width)
    method = Method(derivation=Derivation(regularizer=regularizer), accumulate=accumulate)
    on_moments = Evidence(first.moments(preserved), whole.moments(preserved))
    on_rows = Evidence(on_moments.first, on_moments.whole, first_rows=first, whole_rows=whole)
    found, expected = (Eraser(method, evidence, gram).run(4).maps.of_layer(0) for evidence in (on_rows, on_moments))
    assert relative(found, expected) < 1e-8


# What it hands an editor


@dataclass(frozen=True)
class Watching(Editor):
    """UCE's edit that notes every problem it is handed, and how often it was fitted."""

    number: int = 0

    problems: ClassVar[list[tuple[int, EditProblem]]] = []
    fits: ClassVar[list[int]] = []

    def __call__(self, problem: EditProblem) -> AnyMap:
        """As UCE."""
        self.problems.append((self.number, problem))
        return UCE()(problem)

    def fitted(self, problem: EditProblem) -> Callable[[EditProblem], AnyMap]:
        """Note it."""
        self.fits.append(self.number)
        return self


@dataclass(frozen=True)
class WatchingLayers(Watching):
    """The same with a map a layer."""

    per_layer: ClassVar[bool] = True

    def __call__(self, problem: EditProblem) -> AnyMap:
        """As TensorUCE."""
        self.problems.append((self.number, problem))
        return TensorUCE()(problem)


@pytest.fixture(autouse=True)
def _nothing_watched() -> None:
    Watching.problems.clear()
    Watching.fits.clear()


@pytest.mark.parametrize("accumulate", [False, True])
def test_an_editor_is_handed_the_problem_of_the_epoch(accumulate: bool) -> None:
    given = problem()
    held = torch.ones(1, given.width, dtype=torch.float64)
    extra = joined(given.width)
    evidence = replace(given.evidence, invariants=held, joined=extra)
    method = Method(editor=Watching(1), first_editor=Watching(2), accumulate=accumulate)
    eraser = Eraser(method, evidence, given.gram)
    records = [eraser.step() for _ in range(3)]
    assert Watching.fits == [2, 1], "each editor is fitted once, when it first edits"
    assert [number for number, _ in Watching.problems] == [2, 1, 1]
    assert [record.editor for record in records] == [Watching(2), Watching(1), Watching(1)]
    erased: Tensor | float = 0.0
    for (_, found), record in zip(Watching.problems, records, strict=True):
        assert found.gram is eraser.gram
        assert found.before is record.before
        assert found.concepts == len(given.pairs)
        assert found.invariants is held
        assert found.prompts == ()
        assert relative(found.preserved, given.preserving.preserved + extra.preserved) < 1e-14
        now = given.first_moments.erased + extra.first.erased
        if record.derivation is not None:
            now = (given.moments.erasing_also(extra.whole)).derived(record.derivation).erased
        erased = now + erased if accumulate else now
        # What an attack found counts once, however many epochs are held.
        assert relative(found.moments.erased, erased + extra.found.erased) < 1e-12
        assert torch.equal(found.moments.erased, record.moments.erased)
        assert torch.equal(found.moments.preserved, found.preserved)


@pytest.mark.parametrize("accumulate", [False, True])
def test_an_editor_with_a_map_a_layer_is_handed_the_prompts(accumulate: bool) -> None:
    given = problem()
    eraser = Eraser(Method(editor=WatchingLayers(), accumulate=accumulate), given.evidence, given.gram)
    records = [eraser.step() for _ in range(3)]
    every: list[Moments] = []
    for (_, found), record in zip(Watching.problems, records, strict=True):
        now = (
            given.first_prompts if record.derivation is None else [m.derived(record.derivation) for m in given.prompts]
        )
        every = every + now if accumulate else now
        assert len(found.prompts) == len(every)
        for one, other in zip(found.prompts, every, strict=True):
            assert relative(one.erased, other.erased) < 1e-14
            assert relative(one.cross, other.cross) < 1e-14
        assert relative(found.moments.erased, sum(one.erased for one in every)) < 1e-12  # type: ignore[arg-type]
    assert isinstance(eraser.maps, LayerMaps)


# What it takes from an editor


@dataclass(frozen=True)
class Giving(Editor):
    """Gives whatever it was made with."""

    answer: Any = None

    def __call__(self, problem: EditProblem) -> AnyMap:
        """That."""
        return self.answer  # type: ignore[no-any-return]


@dataclass(frozen=True)
class GivingLayers(Giving):
    """The same in the name of one map a layer."""

    per_layer: ClassVar[bool] = True


def changed(width: int, value: float) -> Tensor:
    matrix = torch.eye(width, dtype=torch.float64)
    matrix[0, 1] = value
    return matrix


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"it gave NoneType where EmbeddingMap \[12, 12\] was asked for"),
        (torch.eye(12, dtype=torch.float64), r"it gave Tensor where EmbeddingMap \[12, 12\]"),
        (np.eye(12), r"it gave ndarray where"),
        (EmbeddingMap.identity(11), r"it gave EmbeddingMap \[11, 11\] where EmbeddingMap \[12, 12\]"),
        (EmbeddingMap(torch.ones(12, 11, dtype=torch.float64)), r"it gave EmbeddingMap \[12, 11\] where"),
        (LayerMaps.identity(2, 12), r"it gave LayerMaps \[2, 12, 12\] where EmbeddingMap \[12, 12\]"),
        (EmbeddingMap(torch.eye(12)), r"its map is not finite float64"),
        (EmbeddingMap(torch.eye(12, dtype=torch.complex128)), r"its map is not finite float64"),
        (EmbeddingMap(changed(12, float("nan"))), r"its map is not finite float64; look at its settings"),
        (EmbeddingMap(changed(12, float("inf"))), r"its map is not finite float64"),
    ],
)
def test_an_editor_that_gives_no_map_is_refused_by_name(answer: object, message: str) -> None:
    given = problem()
    eraser = Eraser(Method(editor=Giving(answer)), given.evidence, given.gram)
    with pytest.raises(ConfigurationError, match=f"^Giving: {message}"):
        eraser.step()
    assert eraser.epoch == 0
    assert torch.equal(stored(eraser.maps), torch.eye(12, dtype=torch.float64))
    # In a later epoch as in the first.
    later = Eraser(Method(editor=Giving(answer), first_editor=UCE()), given.evidence, given.gram).run(1)
    before = stored(later.maps).clone()
    with pytest.raises(ConfigurationError, match=f"^Giving: {message}"):
        later.step()
    assert later.epoch == 1
    assert torch.equal(stored(later.maps), before)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (EmbeddingMap.identity(12), r"it gave EmbeddingMap \[12, 12\] where LayerMaps \[2, 12, 12\]"),
        (LayerMaps.identity(3, 12), r"it gave LayerMaps \[3, 12, 12\] where LayerMaps \[2, 12, 12\]"),
        (LayerMaps(torch.stack([changed(12, 0.0), changed(12, float("nan"))])), r"its map is not finite float64"),
    ],
)
def test_an_editor_that_gives_no_map_a_layer_is_refused_by_name(answer: object, message: str) -> None:
    given = problem()
    with pytest.raises(ConfigurationError, match=f"^GivingLayers: {message}"):
        Eraser(Method(editor=GivingLayers(answer)), given.evidence, given.gram).step()


def test_a_map_is_taken_as_it_is() -> None:
    given, matrix = problem(), changed(12, 0.3)
    check_map(EmbeddingMap(matrix), EmbeddingMap.identity(12), Giving())
    eraser = Eraser(Method(editor=Giving(EmbeddingMap(matrix))), given.evidence, given.gram).run(2)
    torch.testing.assert_close(stored(eraser.maps), matrix @ matrix)


# What it measures

ALWAYS = {
    "preservation_drift", "regeneration_residual", "regeneration_residual_unedited", "mapped_residual", "map_change",
    "map_rank", "map_condition", "gram_scale", "erased_scale", "preserved_scale",
    *(f"regeneration_residual_at_{budget:g}" for budget in BUDGETS),
}  # fmt: skip
OBJECTIVE = {"objective_before", "objective_after"}


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_figures_of_every_epoch(method: Method) -> None:
    """The objective is UCE's and of one map; a norm ratio wants a derived embedding."""
    given = problem()
    eraser = Eraser(method, given.evidence, given.gram)
    for epoch in range(3):
        record = eraser.step()
        figures = eraser.measure(record)
        editor = method.first_editor or method.editor if epoch == 0 else method.editor
        expected = ALWAYS | ({"norm_ratio"} if epoch else set())
        if isinstance(editor, UCE) and not isinstance(editor, TensorUCE):
            expected = expected | OBJECTIVE
        assert set(figures) == expected
        assert all(isinstance(value, float) for value in figures.values())
        assert figures["gram_scale"] == given.gram.scale
        assert figures["erased_scale"] == pytest.approx(float(given.first_moments.erased.trace()) / given.width)
        assert figures["preserved_scale"] == pytest.approx(float(given.preserved.square().sum()) / given.width)
        residual = regeneration_residual(given.gram, eraser.maps, given.moments.erased)
        assert figures["regeneration_residual"] == pytest.approx(residual, rel=1e-12)
        if "objective_after" in figures:
            assert figures["objective_after"] <= figures["objective_before"]


def test_drift_is_of_what_is_held_out_and_left_out_where_nothing_is_preserved() -> None:
    given = random_problem(3, width=12, preserved=0)
    eraser = Eraser(Method(), given.evidence, given.gram)
    assert "preservation_drift" not in eraser.measure(eraser.step())
    rows = torch.randn(4, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    held_out = Moments.preserving(rows).preserved
    eraser = Eraser(Method(), replace(given.evidence, held_out=held_out), given.gram)
    found = eraser.measure(eraser.step())["preservation_drift"]
    assert found == diagnostics.preservation_drift(given.gram, eraser.maps, held_out) > 0


def test_the_unedited_residual_is_found_once_for_each_attacker(monkeypatch: pytest.MonkeyPatch) -> None:
    given, asked = problem(), []

    def counted(gram: Gram, maps: AnyMap, erased: Tensor, scale: float | None = None) -> float:
        asked.append((scale, bool((stored(maps) == torch.eye(12)).all())))
        return regeneration_residual(gram, maps, erased, scale)

    monkeypatch.setattr(diagnostics, "regeneration_residual", counted)
    eraser = Eraser(Method(), given.evidence, given.gram)
    unedited = EmbeddingMap.identity(12)
    for _ in range(2):
        record = eraser.step()
        for scale in (None, 0.5):
            figures = eraser.measure(record, scale)
            expected = regeneration_residual(given.gram, unedited, given.moments.erased, scale)
            assert figures["regeneration_residual_unedited"] == expected
            edited = regeneration_residual(given.gram, eraser.maps, given.moments.erased, scale)
            assert figures["regeneration_residual"] == edited > expected
    assert [scale for scale, whole in asked if whole] == [None, 0.5]


def test_figures_are_about_the_concepts_own_prompts() -> None:
    """Whatever joins changes the edit, and the residual is still that of the concepts."""
    given = problem()
    eraser = Eraser(Method(), replace(given.evidence, joined=joined(given.width)), given.gram)
    figures = eraser.measure(eraser.step())
    plain = Eraser(Method(), given.evidence, given.gram)
    assert relative(stored(eraser.maps), stored(plain.run(1).maps)) > 1e-3
    residual = regeneration_residual(given.gram, eraser.maps, given.moments.erased)
    assert figures["regeneration_residual"] == pytest.approx(residual, rel=1e-12)
    assert figures["erased_scale"] == pytest.approx(float(given.first_moments.erased.trace()) / given.width)
