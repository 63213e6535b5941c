"""Settings that choose themselves: the rule, the grid on the model's own scale, and what stays fixed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning.core import UCE, Derivation, Eraser, Evidence, Gram, Method, Moments, NullSpace, Projection
from rece_lightning.core.editors import ProjectedUCE
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.grid import EPOCHS, PRESERVES, PRICES, SHRINKAGES, Scales, grid
from rece_lightning.core.tuning import SPARE, Choice, Tuning, tune

WIDTH = 24


class World:
    """Some weights, a concept that differs from its target, and others beside it."""

    def __init__(self, seed: int = 0, weights: float = 1.0, embeddings: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        common = draw(1, WIDTH)
        self.weights = [weights * draw(16, WIDTH) for _ in range(3)]
        self.target = embeddings * (common.expand(4, WIDTH) + 0.1 * draw(4, WIDTH))
        self.concept = self.target + embeddings * draw(4, WIDTH)
        self.preserved = embeddings * (common + draw(40, WIDTH))
        self.held_out = embeddings * (common + draw(20, WIDTH))

    @property
    def gram(self) -> Gram:
        return Gram.of([(f"layer {place}", weight) for place, weight in enumerate(self.weights)])

    @property
    def evidence(self) -> Evidence:
        moments = Moments.of(self.concept, self.target) + Moments.preserving(self.preserved)
        return Evidence(moments, moments, held_out=self.held_out.mT @ self.held_out)

    def choose(self, method: Method | None = None, tuning: Tuning | None = None) -> Choice:
        asked, how = method or Method(), tuning or Tuning()
        return tune(how.start(asked), how, {"text": self.evidence}, {"text": self.gram})

    def scales(self) -> Scales:
        return Scales(self.gram.scale, float(self.concept.square().sum()) / WIDTH)

    def figures(self, method: Method, epochs: int) -> tuple[float, float]:
        """Remaining and drift as they are defined: layer by layer and row by row."""
        matrix = Eraser(method, self.evidence, self.gram).run(epochs).maps.of_layer(0)
        answered, size, moved, whole = 0.0, 0.0, 0.0, 0.0
        for weight in self.weights:
            edited = weight @ matrix
            for concept, target in zip(self.concept, self.target, strict=True):
                difference = weight @ concept - weight @ target
                answered += float((edited @ concept - weight @ target) @ difference)
                size += float(difference @ difference)
            for row in self.held_out:
                moved += float((edited @ row - weight @ row).square().sum())
                whole += float((weight @ row).square().sum())
        return answered / size, moved / whole


def expected(remaining: float, drift: float) -> float:
    erased = 1 - min(1.0, max(0.0, SPARE + (1 - SPARE) * remaining))
    kept = 1 - min(1.0, drift)
    return 0.0 if erased * kept == 0 else 2 / (1 / erased + 1 / kept)


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_best_of_the_grid_by_the_rule(seed: int) -> None:
    world = World(seed)
    choice = world.choose()
    tried = [(m, n) for m, counts in grid(Method(), None, world.scales()) for n in counts]
    assert choice.tried == len(tried) == 3 * (3 * 2 + 1)
    assert {n for _, n in tried} == {1, 2, EPOCHS}
    values = [expected(*world.figures(m, n)) for m, n in tried]
    best = max(range(len(tried)), key=lambda place: values[place])
    assert (choice.chosen.method, choice.chosen.epochs) == tried[best]
    assert choice.chosen.expected == pytest.approx(values[best], rel=1e-9)
    assert sorted(values)[-2] < values[best] - 1e-9  # so that it is a choice
    assert min(values) < values[best] - 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_front_holds_what_no_other_setting_beats(seed: int) -> None:
    world = World(seed)
    choice = world.choose()
    points = []
    for method, counts in grid(Method(), None, world.scales()):
        for epochs in counts:
            remaining, drift = world.figures(method, epochs)
            points.append((max(0.0, SPARE + (1 - SPARE) * remaining), drift))
    assert len(choice.front) > 1
    for one in choice.front:
        left, drift = one.point
        beaten = [p for p in points if p[0] < left - 1e-9 and p[1] < drift - 1e-9]
        assert not beaten
    assert choice.chosen in choice.front


@pytest.mark.parametrize(("weights", "embeddings"), [(10.0, 1.0), (1.0, 0.1), (0.01, 30.0)])
@pytest.mark.parametrize("aim", ["balanced", "robust"])
def test_the_same_model_in_other_units_is_given_the_same_choice(weights: float, embeddings: float, aim: str) -> None:
    one, other = World(1), World(1, weights, embeddings)
    first, second = one.choose(tuning=Tuning(aim)), other.choose(tuning=Tuning(aim))
    assert first.chosen.epochs == second.chosen.epochs
    assert first.chosen.method.accumulate == second.chosen.method.accumulate
    assert first.chosen.expected == pytest.approx(second.chosen.expected, rel=1e-3)
    editors = [choice.chosen.method.editor for choice in (first, second)]
    assert all(isinstance(editor, UCE) for editor in editors)
    assert editors[0].preserve_scale == editors[1].preserve_scale  # type: ignore[attr-defined]
    if aim == "robust":
        assert editors[0].price == editors[1].price is not None  # type: ignore[attr-defined]
    # λ₂ goes with the embeddings' square, λ with the weights'.
    assert editors[1].lamb == pytest.approx(embeddings**2 * editors[0].lamb, rel=1e-3)  # type: ignore[attr-defined]
    scale = first.chosen.method.derivation.scale
    if aim == "robust":  # its one edit derives nothing
        return
    assert second.chosen.method.derivation.scale == pytest.approx(weights**2 * scale, rel=1e-3)


def test_what_was_set_stays() -> None:
    asked = Method(
        editor=UCE(preserve_scale=0.5),
        derivation=Derivation(0.02, regularizer="standard"),
        accumulate=True,
        tokens="all",
    )
    tried = list(grid(asked, 3, World().scales()))
    assert {counts for _, counts in tried} == {(3,)}
    for method, _ in tried:
        assert isinstance(method.editor, UCE)
        assert (method.editor.preserve_scale, method.editor.erase_scale) == (0.5, 1.0)
        assert (method.derivation, method.accumulate, method.tokens) == (asked.derivation, True, "all")
        assert method.editor.lamb != asked.editor.lamb  # type: ignore[attr-defined]  # it was not set
    chosen = World().choose(asked, Tuning(epochs=3)).chosen
    assert chosen.epochs == 3
    assert chosen.method.derivation == asked.derivation
    alone = World().choose(tuning=Tuning(epochs=1))
    assert alone.chosen.epochs == 1
    assert alone.tried == len(PRESERVES)


def test_the_budget_bounds_the_drift() -> None:
    world = World()
    free = world.choose()
    budget = 0.7 * free.chosen.drift
    bound = world.choose(tuning=Tuning(drift_budget=budget))
    assert bound.chosen.drift <= budget < free.chosen.drift
    assert bound.chosen.expected < free.chosen.expected
    assert f"within a drift of {budget:g}" in bound.reason
    least = min(one.drift for one in free.front)
    with pytest.raises(ConfigurationError, match=r"model\.drift_budget: .*least .* raise it") as refused:
        world.choose(tuning=Tuning(drift_budget=1e-9))
    assert f"{least:.3g}" in str(refused.value)


def test_robust_takes_a_singular_editor_and_counts_what_the_derived_embedding_regains() -> None:
    world = World()
    choice = world.choose(tuning=Tuning("robust"))
    assert choice.chosen.method.editor.singular
    assert choice.chosen.method.projections == "v"
    assert choice.tried == len(PRICES) * len(PRESERVES)
    assert choice.chosen.regained is not None
    balanced = world.choose().chosen
    by_attack = [Eraser(one.method, world.evidence, world.gram).run(one.epochs) for one in (choice.chosen, balanced)]
    residuals = [
        eraser.measure(eraser_record(eraser, one.method))["regeneration_residual"]
        for eraser, one in zip(by_attack, (choice.chosen, balanced), strict=True)
    ]
    assert residuals[0] > 2 * residuals[1]
    shrunk = world.choose(Method(editor=ProjectedUCE(rank=1)), Tuning("robust"))
    assert shrunk.tried == len(SHRINKAGES) * len(PRESERVES)
    assert shrunk.chosen.method.editor.price is None  # type: ignore[attr-defined]
    assert "editor.shrinkage" in shrunk.chosen.settings
    given = Projection(rank=1, shrinkage=7.0)
    kept = world.choose(Method(editor=given, projections="kv"), Tuning("robust")).chosen.method
    assert kept.editor == given
    with pytest.raises(ConfigurationError, match=r"NullSpace can be inverted.* give ProjectedUCE"):
        Tuning("robust").start(Method(editor=NullSpace()))


def test_robust_goes_by_shrinkage_where_nothing_is_preserved() -> None:
    world = World()
    world.preserved = torch.zeros(0, WIDTH, dtype=torch.float64)

    choice = world.choose(tuning=Tuning("robust"))

    assert choice.chosen.method.editor.price is None  # type: ignore[attr-defined]
    assert any("price" in reason for reason in choice.refused)


def eraser_record(eraser: Eraser, method: Method) -> Any:
    """Of the last epoch of a second eraser, for its figures."""
    again = Eraser(method, eraser.evidence, eraser.gram)
    record = again.step()
    for _ in range(eraser.epoch - 1):
        record = again.step()
    return record


@pytest.mark.parametrize(
    ("tune_setting", "budget", "given", "aim"),
    [
        (None, None, False, "balanced"),
        (None, None, True, None),
        ("off", None, False, None),
        (False, None, False, None),
        ("balanced", 0.1, True, "balanced"),
        ("robust", None, False, "robust"),
    ],
)
def test_a_method_that_is_given_stands_unless_tuning_is_asked_for(
    tune_setting: Any, budget: float | None, given: bool, aim: str | None
) -> None:
    found = Tuning.of(tune_setting, budget, given=given)
    assert (None if found is None else found.aim) == aim
    assert found is None or found.drift_budget == budget


@pytest.mark.parametrize(
    ("tune_setting", "budget", "said"),
    [
        ("balance", None, "model.tune: unknown value 'balance'; did you mean 'balanced'"),
        (True, None, "model.tune: unknown value True"),
        ("balanced", 0, "model.drift_budget: 0 makes no sense"),
        ("robust", float("nan"), "model.drift_budget: nan makes no sense"),
        ("off", 0.1, "model.drift_budget: 0.1: only tuning reads it; give model.tune: balanced"),
    ],
)
def test_bad_values_are_refused(tune_setting: Any, budget: float | None, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("(", r"\(")):
        Tuning.of(tune_setting, budget, given=False)


def test_settings_without_figures_are_left_out_and_said() -> None:
    """Without λ₂ and with nothing preserved the first system is singular; the others are not."""
    world = World()
    choice = world.choose(Method(editor=NullSpace(preserve_scale=0.0)))
    assert choice.tried > 0
    bare = Moments.of(world.concept, world.target)
    nothing = {"text": Evidence(bare, bare)}
    with pytest.raises(ConfigurationError, match=r"model\.tune: no setting has figures: .*singular"):
        tune(Method(editor=UCE(lamb=0.0)), Tuning(), nothing, {"text": world.gram})


def test_the_choice_is_told_in_plain_types() -> None:
    choice = World().choose()
    plain = json.loads(json.dumps(choice.plain()))
    assert plain["aim"] == "balanced"
    assert Method.from_plain(plain["method"]) == choice.chosen.method
    assert plain["chosen"]["epochs"] == choice.chosen.epochs
    assert plain["front"][0]["remaining"] == choice.front[0].remaining
    assert str(choice.chosen) in plain["reason"]
    assert plain["rule"].startswith("The setting with the highest harmonic mean")


def test_of_several_text_spaces_the_worst_counts() -> None:
    one, other = World(0), World(1)
    tuning = Tuning()
    evidence, grams = {"text": one.evidence, "pooled": other.evidence}, {"text": one.gram, "pooled": other.gram}
    chosen = tune(Method(), tuning, evidence, grams).chosen
    figures = [world.figures(chosen.method, chosen.epochs) for world in (one, other)]
    assert chosen.remaining == pytest.approx(max(remaining for remaining, _ in figures))
    assert chosen.drift == pytest.approx(max(drift for _, drift in figures))
