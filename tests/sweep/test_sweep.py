"""``rece sweep``: the grid, the figures without pictures, the front, the choice, and going on after a kill."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData
from rece_lightning.core.diagnostics import preservation_drift, regeneration_residual
from rece_lightning.core.embedding_map import LayerMaps
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.module import DECISIVE
from rece_lightning.sweep.choice import Choice, pareto_front
from rece_lightning.sweep.grid import EPOCHS, TARGET, Setting, Values, parse_grid, settings_of
from rece_lightning.sweep.ranking import Figures, Ranking
from tests.helpers.command import Outcome, run_command, write_config

DATA: dict[str, Any] = {
    "concepts": ["bomb", "axe"],
    "preserve": [" ", "key"],
    "validation": [{"prompt": "bomb"}, {"prompt": "axe"}, {"prompt": "rocket", "kind": "preserved"}],
}


def base_of(module: RECE, **more: Any) -> dict[str, Any]:
    return {**{f"model.{key}": module.hparams[key] for key in DECISIVE}, EPOCHS: 3, TARGET: " ", **more}


# The grid


def test_every_combination_is_tried_once() -> None:
    values = Values()
    grid = parse_grid(["model.lamb=0.1,1e-1,1", "trainer.max_epochs=1,2", "model.regular_scale=[0.1,1]"], values)
    assert grid["model.lamb"] == [0.1, 1.0]
    settings = settings_of(grid, base_of(RECE()))
    # λ counts in later epochs alone: UCE is tried once for every λ₂. The base comes first.
    assert len(settings) == 1 + 2 * (2 + 1)
    assert settings[0].epochs == 3
    assert sum(setting.epochs == 1 for setting in settings) == 2


def test_values_with_commas_of_their_own() -> None:
    values = Values()
    text = "model.first_edit={preserve_scale: 1.0, lamb: 0.5},null"
    assert parse_grid([text], values) == {"model.first_edit": [{"preserve_scale": 1.0, "lamb": 0.5}, None]}
    assert parse_grid(['data.target=" ","a toy",5'], values) == {TARGET: [" ", "a toy", "5"]}


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("model.lambd=1", ["model.lambd", "did you mean 'model.lamb'"]),
        ("model.pretrained=a,b", ["model.pretrained", "no setting that a sweep can vary"]),
        ("model.lamb=1,two", ["model.lamb", "two"]),
        ("model.lamb=-1", ["model.lamb", "-1", "0 or greater"]),
        ("model.lamb=.nan", ["model.lamb", "nan"]),
        ("model.accumulate=ture", ["model.accumulate", "ture"]),
        ("model.tokens=last,allign", ["model.tokens", "allign", "did you mean 'aligned'"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs", "0", "1 or more"]),
        ("model.lamb", ["no values"]),
        ("model.lamb=", ["no values"]),
        ("model.lamb=[1,", ["cannot be read"]),
    ],
)
def test_grids_that_cannot_be_used(argument: str, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(parse_grid([argument], Values()), base_of(RECE()))
    for part in parts:
        assert part in str(caught.value)


def test_a_grid_too_large_or_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        parse_grid(["model.lamb=1", "model.lamb=2"], Values())
    many = ",".join(str(1 + index) for index in range(400))
    with pytest.raises(ConfigurationError, match="160,000 settings"):
        parse_grid([f"model.lamb={many}", f"model.preserve_scale={many}"], Values())


# Front and choice

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


@given(POINTS)
def test_the_front_holds_what_no_point_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front([(float(a), float(b)) for a, b in points])

    def beats(other: tuple[int, int], point: tuple[int, int]) -> bool:
        return other[0] <= point[0] and other[1] <= point[1] and other != point

    unbeaten = {point for point in points if not any(beats(other, point) for other in points)}
    assert {points[place] for place in front} == unbeaten
    assert len(front) == len(unbeaten)
    assert [points[place] for place in front] == sorted(unbeaten)


def test_a_setting_without_a_figure_is_on_no_front() -> None:
    assert pareto_front([(float("nan"), 0.0), (1.0, 1.0), (0.0, float("nan"))]) == [1]


def test_what_is_measured_lies_on_the_front_where_it_promises_most() -> None:
    base = base_of(RECE())
    ranked = []
    for index in range(20):
        figures = Figures(1 - index / 19, 1.0, index / 19, 0.0, 1.0, 1.0, 0.0)
        ranked.append((Setting.of({"model.lamb": float(index)}, base), figures))
    choice = Choice.of(ranked, "remaining")
    assert len(choice.front) == 20
    chosen = choice.worth_measuring(4)
    assert len(chosen) == len(set(chosen)) == 4
    # The ends erase nothing, or keep nothing.
    assert all(5 <= place <= 14 for place in chosen)
    assert choice.promising() in (9, 10)


# Figures


@pytest.mark.parametrize("model", [{}, {"technique": "tensor"}, {"accumulate": True, "tokens": "last", "lamb": 2.0}])
def test_figures_are_those_of_a_run(tiny_model: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    module, data = RECE(pretrained=str(tiny_model), **model), ConceptData(**DATA)
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    plain = RECE(pretrained=str(tiny_model))
    ranking = Ranking(plain, {" ": data.pairs}, data.preserved, data.held_out)
    values = {f"model.{key}": value for key, value in model.items()}
    settings = [Setting.of({**values, EPOCHS: epochs}, base_of(plain)) for epochs in (3, 1, 2)]
    found = dict(ranking.rank(settings))
    for setting in settings:
        figures, logged = found[setting], module.history[setting.epochs - 1]
        assert isinstance(figures, Figures)
        assert figures.residual == pytest.approx(logged["regeneration_residual"], rel=1e-6)
        assert figures.drift == pytest.approx(logged["preservation_drift"], rel=1e-6)
    last = found[settings[0]]
    assert isinstance(last, Figures)
    assert last.weight_change == pytest.approx(module.session.change()["weight_change"], rel=1e-6)
    assert last.remaining < 1


def test_projections_that_stay_count_as_they_are(tiny_model: Path) -> None:
    """An edit of the keys alone leaves the values to the attacker: figures over the keys alone would hide them."""
    module, data = RECE(pretrained=str(tiny_model)), ConceptData(**DATA)
    ranking = Ranking(module, {" ": data.pairs}, data.preserved, data.held_out)
    setting = Setting.of({"model.projections": "k"}, base_of(module))
    figures = dict(ranking.rank([setting]))[setting]
    assert isinstance(figures, Figures)
    keys = set(module.base.select("k", None))
    matrix = ranking.loop(setting).run(setting.epochs).of_layer(0)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    names, weights = zip(*module.base.read_projections(), strict=True)
    maps = LayerMaps(torch.stack([matrix if name in keys else eye for name in names]))
    gram = Gram.of(zip(names, weights, strict=True), keep_layers=True)
    erased = ranking.evidence(setting).whole.erased
    kept = Moments.preserving(torch.cat(list(module.session.encoder.encode(data.held_out).embeddings))).preserved
    assert figures.residual == pytest.approx(regeneration_residual(gram, maps, erased), rel=1e-6)
    assert figures.drift == pytest.approx(preservation_drift(gram, maps, kept), rel=1e-6)
    assert 0 < len(keys) < len(names)


def test_a_singular_setting_says_so_and_the_others_go_on(tiny_model: Path) -> None:
    module, data = RECE(pretrained=str(tiny_model)), ConceptData(**DATA)
    ranking = Ranking(module, {" ": data.pairs}, [], data.held_out)
    bad = {"model.lamb": 0.0, "model.preserve_scale": 0.0}
    settings = [Setting.of(values, base_of(module)) for values in (bad, {})]
    results = dict(ranking.rank(settings))
    assert isinstance(results[settings[0]], str)
    assert isinstance(results[settings[1]], Figures)


# The command


def sweep(capsys: pytest.CaptureFixture[str], config: Path, *more: str | Path) -> Outcome:
    return run_command(capsys, "sweep", "--config", config, *more)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_killed_sweep_goes_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, tiny_model, data=DATA)
    grid = ("--grid", "model.lamb=0.1,1,10", "--grid", "trainer.max_epochs=1,2", "--measure", "0")
    outcome = sweep(capsys, config, *grid)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "runs/run/sweep"
    whole = (folder / "sweep.csv").read_text()
    assert len(lines(folder)) == 6
    assert "Not measured with pictures" in (folder / "sweep.html").read_text()
    # Killed in the middle of a line.
    kept = "".join(whole.splitlines(keepends=True)[:4])
    (folder / "sweep.csv").write_text(kept + whole.splitlines()[4][:30])
    assert sweep(capsys, config, *grid).code == 0
    again = (folder / "sweep.csv").read_text()
    assert again.startswith(kept)
    settings = [{key: row[key] for key in ("model.lamb", EPOCHS, "residual", "drift")} for row in lines(folder)]
    former = [
        {key: row[key] for key in ("model.lamb", EPOCHS, "residual", "drift")}
        for row in csv.DictReader(whole.splitlines())
    ]
    assert sorted(map(json.dumps, settings)) == sorted(map(json.dumps, former))
    # A wider grid adds to what is there; other prompts are another sweep.
    assert sweep(capsys, config, "--grid", "model.lamb=100", "--measure", "0").code == 0
    assert len(lines(folder)) == 7
    outcome = sweep(capsys, config, *grid, "--data.preserve", "[fish]")
    assert (outcome.code, "another preserved" in outcome.err) == (2, True)
    assert len(lines(folder)) == 7


def test_the_front_is_measured_and_the_best_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation = {"detector": "rece_lightning.metrics.EmojiDetector", "pictures_per_prompt": 1, "steps": 2}
    callbacks = [{"class_path": "Evaluation", "init_args": evaluation}]
    config = write_config(tmp_path, "emoji", data=DATA, trainer={"callbacks": callbacks})
    grid = ("--grid", "model.lamb=0.1,10", "--measure", "1", "--output", "out")
    outcome = sweep(capsys, config, *grid)
    assert outcome.code == 0, outcome.err
    columns = {row["column"] for row in csv.DictReader((tmp_path / "out/evaluation.csv").open())}
    # The unedited model, the configuration as it is, and one of the front (which may be the same).
    assert {"original", "setting-0"} <= columns
    page = (tmp_path / "out/sweep.html").read_text()
    assert "Recommended: setting" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    recommended = yaml.safe_load((tmp_path / "out/recommended.yaml").read_text())
    assert recommended["data"]["concepts"] == DATA["concepts"]
    assert recommended["model"]["lamb"] in (0.1, 10.0)
    # What is there is not measured again.
    before = (tmp_path / "out/evaluation.csv").stat().st_mtime_ns
    assert sweep(capsys, config, *grid).code == 0
    assert (tmp_path / "out/evaluation.csv").stat().st_mtime_ns == before
    outcome = run_command(
        capsys, "fit", "--config", "out/recommended.yaml", "--trainer.callbacks", "[]", "--data.validation", "[]"
    )
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ((), ["--grid"]),
        (("--gird", "model.lamb=1"), ["--grid"]),
        (("--grid", "model.lamb=1", "--mesure", "3"), ["--mesure", "did you mean '--measure'"]),
        (("--grid", "model.lamb=1", "--measure", "-1"), ["--measure", "-1"]),
        (("--grid", "model.lamb=1", "--model.lambd", "3"), ["model.lambd", "did you mean"]),
        (("--grid", "model.lamb=1", "--erased-by", "hope"), ["--erased-by", "remaining"]),
        (("--grid", "model.lamb=1", "--model.robust", "{norms: [1.0]}"), ["model.robust", "leave it out"]),
        (("--grid", "model.lamb=1", "--data.synonyms", "auto"), ["data.synonyms", "auto"]),
    ],
)
def test_mistakes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...], parts: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = sweep(capsys, write_config(tmp_path, tiny_model, data=DATA), *more)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err
    assert not (tmp_path / "runs").exists()
