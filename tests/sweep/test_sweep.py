"""``rece sweep``: the figures without pictures, the front, the choice, and going on after a kill."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData
from rece_lightning.core import UCE, Method, NullSpace, TensorUCE
from rece_lightning.core.diagnostics import preservation_drift, regeneration_residual
from rece_lightning.core.embedding_map import LayerMaps
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.front import pareto_front
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.sweep.choice import Choice
from rece_lightning.sweep.grid import EPOCHS, Setting
from rece_lightning.sweep.ranking import Figures, Ranking
from rece_lightning.sweep.table import SweepTable
from tests.helpers.command import Outcome, run_command, write_config
from tests.helpers.erasures import make_xl_checkpoint

LAMB = "model.method.editor.lamb"
BASE = Setting(Method(), 3, " ")
DATA: dict[str, Any] = {
    "concepts": ["bomb", "axe"],
    "preserve": [" ", "key"],
    "validation": [{"prompt": "bomb"}, {"prompt": "axe"}, {"prompt": "rocket", "kind": "preserved"}],
}


def loaded_model(folder: Path) -> LoadedModel:
    return LoadedModel((str(folder), None, None, None))


def ranking_of(folder: Path, data: ConceptData, preserved: list[str] | None = None) -> Ranking:
    kept = data.preserved if preserved is None else preserved
    return Ranking(loaded_model(folder), {" ": data.pairs}, kept, data.held_out)


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
    ranked = []
    for index in range(20):
        figures = Figures(1 - index / 19, 1.0, index / 19, 0.0, 1.0, 1.0, 0.0)
        ranked.append((replace(BASE, method=Method(editor=UCE(lamb=float(index)))), figures))
    choice = Choice.of(ranked, "remaining")
    assert len(choice.front) == 20
    chosen = choice.worth_measuring(4)
    assert len(chosen) == len(set(chosen)) == 4
    # The ends erase nothing, or keep nothing.
    assert all(5 <= place <= 14 for place in chosen)
    assert choice.promising() in (9, 10)


# Figures


METHODS = {
    "published": Method(),
    "tensor": Method(editor=TensorUCE()),
    "null space": Method(editor=NullSpace()),
    "accumulating": Method(editor=UCE(lamb=2.0), accumulate=True, tokens="last"),
    "other first editor": Method(first_editor=UCE(preserve_scale=1.0, lamb=0.5)),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_figures_are_those_of_a_run(tiny_model: Path, tmp_path: Path, method: Method) -> None:
    module, data = RECE(pretrained=str(tiny_model), method=method), ConceptData(**DATA)
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    ranking = ranking_of(tiny_model, data)
    settings = [Setting(method, epochs, " ") for epochs in (3, 1, 2)]
    results = dict(ranking.rank(settings))
    for setting in settings:
        figures, logged = results[setting], module.history[setting.epochs - 1]
        assert isinstance(figures, Figures)
        assert figures.residual == pytest.approx(logged["regeneration_residual"], rel=1e-6)
        assert figures.drift == pytest.approx(logged["preservation_drift"], rel=1e-6)
    last = results[settings[0]]
    assert isinstance(last, Figures)
    assert last.weight_change == pytest.approx(module.session.change()["weight_change"], rel=1e-6)
    assert last.remaining < 1
    # Pictures are drawn with the weights that the run would export.
    for (name, weight), (other, drawn) in zip(
        module.erasure().weights(), ranking.erasure(settings[0]).weights(), strict=True
    ):
        assert name == other
        assert torch.allclose(weight, drawn, rtol=1e-5, atol=1e-7)


def test_settings_that_differ_in_epochs_share_their_erasers(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = ranking_of(tiny_model, ConceptData(**DATA))
    made = []
    make = ranking.erasers
    monkeypatch.setattr(ranking, "erasers", lambda setting: made.append(setting) or make(setting))
    settings = [replace(BASE, epochs=epochs) for epochs in (4, 2, 1)]
    assert [setting.epochs for setting, _ in ranking.rank(settings)] == [1, 2, 4]
    assert len(made) == 1


def test_projections_that_stay_count_as_they_are(tiny_model: Path) -> None:
    """An edit of the keys alone leaves the values to the attacker: figures over the keys alone would hide them."""
    data = ConceptData(**DATA)
    ranking = ranking_of(tiny_model, data)
    setting = replace(BASE, method=Method(projections="k"))
    figures = dict(ranking.rank([setting]))[setting]
    assert isinstance(figures, Figures)
    loaded = ranking.loaded
    keys = {name for space in ranking.spaces(setting) for name in space.readers}
    matrix = ranking.erasers(setting).run(setting.epochs).first.maps.of_layer(0)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    names, weights = zip(*loaded.base.read_projections(), strict=True)
    maps = LayerMaps(torch.stack([matrix if name in keys else eye for name in names]))
    gram = Gram.of(zip(names, weights, strict=True), keep_layers=True)
    erased = ranking.evidence(setting)["text"].whole.erased
    held_out = Moments.preserving(torch.cat(list(loaded.encoder.encode(data.held_out).embeddings))).preserved
    assert figures.residual == pytest.approx(regeneration_residual(gram, maps, erased), rel=1e-6)
    assert figures.drift == pytest.approx(preservation_drift(gram, maps, held_out), rel=1e-6)
    assert 0 < len(keys) < len(names)


def test_a_singular_setting_says_so_and_the_others_go_on(tiny_model: Path) -> None:
    ranking = ranking_of(tiny_model, ConceptData(**DATA), [])
    settings = [replace(BASE, method=Method(editor=UCE(1.0, 0.0, 0.0))), BASE]
    results = dict(ranking.rank(settings))
    assert isinstance(results[settings[0]], str)
    assert isinstance(results[settings[1]], Figures)


def test_a_setting_that_edits_nothing_says_so(tiny_model: Path) -> None:
    ranking = ranking_of(tiny_model, ConceptData(**DATA))
    setting = replace(BASE, method=Method(layers="decoder"))
    message = dict(ranking.rank([setting]))[setting]
    assert isinstance(message, str)
    assert "model.method.layers" in message


def test_figures_are_about_the_first_text_space_whatever_is_edited(tmp_path: Path) -> None:
    ranking = ranking_of(make_xl_checkpoint(tmp_path / "xl"), ConceptData(**DATA))
    spaces = (None, ("text",), ("pooled",))
    settings = [replace(BASE, method=Method(spaces=names)) for names in spaces]
    both, text, pooled = (replace(figures, seconds=0.0) for _, figures in ranking.rank(settings))
    assert both == text
    assert text.remaining < 1
    # Nothing that cross-attention reads was edited.
    assert (pooled.remaining, pooled.drift, pooled.weight_change) == (1.0, 0.0, 0.0)
    assert pooled.regained == pytest.approx(1.0)
    edited = [{name for name, _ in ranking.erasure(setting).weights()} for setting in settings]
    assert edited[0] == edited[1] | edited[2]
    assert edited[2] == {"add_embedding.linear_1.weight"}


# The table


def test_a_table_gives_its_settings_back(tmp_path: Path) -> None:
    methods = [Method(), Method(editor=NullSpace(lamb=0.5), first_editor=UCE(), layers="^up", spaces=("text",))]
    settings = [
        Setting(method, epochs, target) for method in methods for epochs, target in ((1, " "), (3, 'a "toy", x'))
    ]
    table = SweepTable(tmp_path / "sweep.csv")
    for place, setting in enumerate(settings):
        table.add(setting, "singular" if place == 1 else Figures(*(float(place),) * 7))
    again = SweepTable(tmp_path / "sweep.csv")
    assert list(again.settings.values()) == settings
    assert again.found == table.found
    with (tmp_path / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [json.loads(row["method"]) for row in rows] == [setting.method.plain() for setting in settings]


def test_a_table_of_another_layout_or_with_an_editor_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "former.csv").write_text("setting,model.lamb,error\n0,0.1,\n")
    with pytest.raises(ConfigurationError, match="no table of this version's sweep"):
        SweepTable(tmp_path / "former.csv")
    path = tmp_path / "sweep.csv"
    SweepTable(path).add(BASE, "singular")
    path.write_text(path.read_text().replace('""UCE""', '""no.such.Forget""'))
    with pytest.raises(ConfigurationError, match=r"sweep\.csv: model\.method\.editor: .*no\.such\.Forget"):
        SweepTable(path)


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
    grid = ("--grid", f"{LAMB}=0.1,1,10", "--grid", "trainer.max_epochs=1,2", "--measure", "0")
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
    told = ("method", EPOCHS, "residual", "drift")
    settings = [{key: row[key] for key in told} for row in lines(folder)]
    former = [{key: row[key] for key in told} for row in csv.DictReader(whole.splitlines())]
    assert sorted(map(json.dumps, settings)) == sorted(map(json.dumps, former))
    # A wider grid adds to what is there; other prompts are another sweep.
    assert sweep(capsys, config, "--grid", f"{LAMB}=100", "--measure", "0").code == 0
    assert len(lines(folder)) == 7
    outcome = sweep(capsys, config, *grid, "--data.preserve", "[fish]")
    assert (outcome.code, "another preserved" in outcome.err) == (2, True)
    assert len(lines(folder)) == 7


OWN_EDITOR = """
from dataclasses import dataclass

import torch
from rece_lightning.core import EmbeddingMap
from rece_lightning.core.editors import Editor


@dataclass(frozen=True)
class Forget(Editor):
    strength: float = 1.0

    def __call__(self, problem):
        moments, eye = problem.moments, torch.eye(problem.gram.width, dtype=torch.float64)
        gone = moments.erased @ torch.linalg.inv(moments.erased + moments.preserved + eye)
        return EmbeddingMap(eye - self.strength * gone)
"""


def test_an_editor_of_a_users_own_is_ranked_and_recommended(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swept_editors.py").write_text(OWN_EDITOR)
    monkeypatch.syspath_prepend(tmp_path)
    config = write_config(tmp_path, tiny_model, data=DATA)
    editor = "model.method.editor"
    grid = ("--grid", f"{editor}=UCE,swept_editors.Forget", "--grid", f"{editor}.strength=0.5,1", "--measure", "0")
    outcome = sweep(capsys, config, *grid, "--output", "out")
    assert outcome.code == 0, outcome.err
    methods = [json.loads(row["method"])["editor"] for row in lines(tmp_path / "out")]
    assert [one["class_path"] for one in methods] == ["UCE", "swept_editors.Forget", "swept_editors.Forget"]
    assert not any(row["error"] for row in lines(tmp_path / "out"))
    # What is there is read again, and fit takes what was recommended, were it the user's own.
    assert sweep(capsys, config, *grid, "--output", "out").code == 0
    assert len(lines(tmp_path / "out")) == 3
    recommended = yaml.safe_load((tmp_path / "out/recommended.yaml").read_text())
    recommended["model"]["method"]["editor"] = methods[1]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recommended))
    outcome = run_command(capsys, "fit", "--config", "own.yaml")
    assert outcome.code == 0, outcome.err


def test_the_front_is_measured_and_the_best_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation = {"detector": "rece_lightning.metrics.EmojiDetector", "pictures_per_prompt": 1, "steps": 2}
    callbacks = [{"class_path": "Evaluation", "init_args": evaluation}]
    config = write_config(tmp_path, "emoji", data=DATA, trainer={"callbacks": callbacks})
    grid = ("--grid", f"{LAMB}=0.1,10", "--measure", "1", "--output", "out")
    outcome = sweep(capsys, config, *grid)
    assert outcome.code == 0, outcome.err
    columns = {row["column"] for row in csv.DictReader((tmp_path / "out/evaluation.csv").open())}
    # The unedited model, the configuration as it is, and one of the front (which may be the same).
    assert {"original", "setting-0"} <= columns
    # The floor of what is erased is drawn once, and stands with every picture of it.
    floors: dict[str, set[str]] = {}
    for row in csv.DictReader((tmp_path / "out/evaluation.csv").open()):
        floors.setdefault(f"{row['prompt']} {row['role']}", set()).add(row["floor"])
    assert floors["rocket kept"] == {""}
    assert all(len(found) == 1 and found < {"0", "1"} for name, found in floors.items() if "kept" not in name)
    page = (tmp_path / "out/sweep.html").read_text()
    assert "Recommended: setting" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    recommended = yaml.safe_load((tmp_path / "out/recommended.yaml").read_text())
    assert recommended["data"]["concepts"] == DATA["concepts"]
    editor = recommended["model"]["method"]["editor"]
    assert (editor["class_path"], editor["init_args"]["lamb"] in (0.1, 10.0)) == ("UCE", True)
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
        (("--gird", f"{LAMB}=1"), ["--grid"]),
        (("--grid", f"{LAMB}=1", "--mesure", "3"), ["--mesure", "did you mean '--measure'"]),
        (("--grid", f"{LAMB}=1", "--measure", "-1"), ["--measure", "-1"]),
        (("--grid", f"{LAMB}=1", "--model.lambd", "3"), ["model.lambd", f"did you mean '{LAMB}'"]),
        (("--grid", f"{LAMB}=1", "--erased-by", "hope"), ["--erased-by", "remaining"]),
        (("--grid", f"{LAMB}=1", "--model.method.robust", "{norms: [1.0]}"), ["model.method.robust", "leave it out"]),
        (("--grid", "model.lamb=1"), ["--grid model.lamb: it is model.method.editor.lamb now."]),
        (("--grid", f"{LAMB}=1", "--data.synonyms", "auto"), ["data.synonyms", "auto"]),
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
