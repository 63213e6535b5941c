"""``rece compare``: runs side by side, and what it refuses to put there."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from rece_lightning import load_pipeline
from rece_lightning.attacks.outcome import together, write_rungs
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.results.comparison import FIRST, ORIGINAL, Column, Comparison
from rece_lightning.evaluation.results.costs import StateCost, read_costs, write_costs
from rece_lightning.evaluation.results.counts import Count, counts_of, read_counts, write_counts
from rece_lightning.evaluation.results.figures import QualityLine, write_quality
from rece_lightning.evaluation.results.sheets import read_tiles, save_sheet, sheet_path
from rece_lightning.evaluation.results.states import (
    Shot,
    State,
    balance_draws,
    best_balance,
    best_share,
    central_interval,
)
from rece_lightning.metrics import EmojiDetector, Figure, Share
from rece_lightning.reporting.page import concept_rows, reproducing_commands
from rece_lightning.reporting.side_by_side import states_table
from rece_lightning.runs.comparing import compared_states
from rece_lightning.runs.results import Results
from tests.helpers.command import run_command, write_config
from tests.reporting.test_report_ladder import rung

PROMPTS = 12
ERASED = [Shot(f"bomb {index}", "bomb", "erased", 0) for index in range(PROMPTS)]
KEPT = [Shot(f"rocket {index}", "rocket", "kept", 0) for index in range(PROMPTS)]


def state(name: str, erased: int, kept: int, **more: Any) -> State:
    """A state that detects the first of each."""
    hits: dict[Shot, bool | None] = {shot: index < erased for index, shot in enumerate(ERASED)}
    hits |= {shot: index < kept for index, shot in enumerate(KEPT)}
    return State(name, hits, **more)


class Page(HTMLParser):
    """What a screen reader and a network see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.named: list[str] = []
        self.fetched: list[str] = []
        self.bold: list[str] = []
        self._strong = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.alts.append(given["alt"] or "")
        if tag == "svg":
            assert given["role"] == "img"
            self.named.append(given["aria-label"] or "")
        if given.get("tabindex") == "0":
            assert given["aria-label"]
        self.fetched += [
            value or ""
            for key, value in attrs
            if key in ("src", "href") and not (value or "").startswith(("data:", "#"))
        ]
        self._strong = tag == "strong"

    def handle_data(self, data: str) -> None:
        if self._strong:
            self.bold.append(data)
        self._strong = False


def make_run(
    folder: Path, hits: dict[str, State], *, pictures: bool = True, model: dict[str, Any] | None = None, steps: int = 20
) -> Path:
    """A measured run as Evaluation leaves it."""
    counts = [Count(key, shot, hit) for key, found in hits.items() for shot, hit in found.hits.items()]
    write_counts(counts, folder / "evaluation.csv")
    for key, found in hits.items():
        if pictures:
            save_sheet(torch.rand(len(found.hits), 3, 32, 32), sheet_path(folder / "images", key))
    evaluation = {
        "class_path": "Evaluation",
        "init_args": {"detector": {"class_path": "EmojiDetector"}, "steps": steps},
    }
    config = {
        "model": {"pretrained": "emoji", **(model or {})},
        "data": {"concepts": ["bomb"]},
        "trainer": {"max_epochs": 2, "callbacks": [evaluation]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


# The table


def test_the_best_is_marked_only_where_it_is_more_than_chance() -> None:
    close = [state("original", 12, 12, edited=False), state("a", 1, 8), state("b", 2, 8)]
    assert best_share(close, ("erased",), high=False) is not None
    assert not any(cell["best"] for row in states_table(close)["rows"] for cell in row["cells"])
    clear = [state("original", 12, 12, edited=False), state("a", 0, 8), state("b", 9, 8)]
    marked = [
        (row["name"], cell["text"]) for row in states_table(clear)["rows"] for cell in row["cells"] if cell["best"]
    ]
    # Erased, and the harmonic mean with it; never the unedited model, though it keeps most.
    assert [name for name, _ in marked] == ["a", "a"]
    assert marked[0][1] == str(Share(0, 12))


def test_equal_states_are_never_told_apart() -> None:
    alike = [state("a", 3, 8, figures={"weight_change": 2.0}), state("b", 3, 8, figures={"weight_change": 1.0})]
    best = best_balance(alike)
    assert best is not None
    assert not best.clear
    assert best.place == 1  # which changes the weights less


@pytest.mark.parametrize(("erased", "kept"), [((0, 0), (12, 12)), ((6, 3), (6, 9))])
def test_the_balance_lies_within_its_interval(erased: tuple[int, int], kept: tuple[int, int]) -> None:
    for gone, stays in zip(erased, kept, strict=True):
        found = state("a", gone, stays)
        low, high = central_interval(found.draws)
        assert low <= found.balance <= high
        assert (low == high) == (gone in (0, 12) and stays in (0, 12))


def test_draws_of_prompts_with_several_pictures_are_wider() -> None:
    """Pictures that always agree count as one: resampling them alone would hide it."""
    rng = np.random.default_rng(3)
    hits = rng.integers(0, 2, 40).astype(float)
    kept = np.ones((40, 2))
    apart = balance_draws(np.column_stack([hits, np.ones(40)]), kept)
    together = balance_draws(np.column_stack([hits[:8] * 5, np.full(8, 5.0)]), kept[:8])
    assert np.ptp(central_interval(together)) > 1.5 * np.ptp(central_interval(apart))


# Files


def test_counts_come_back_as_they_were_written(tmp_path: Path) -> None:
    counts = [
        Count("rece", Shot('say "a, b"', "a\nb", "erased", 2**40), None),
        Count("rece", ERASED[0], True),
        Count("uce", KEPT[0], False, "turtle"),
    ]
    assert read_counts(write_counts(counts, tmp_path / "evaluation.csv")) == counts


def test_a_tile_shows_the_picture_of_its_line(tmp_path: Path) -> None:
    colors = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    pictures = colors[:, :, None, None].expand(-1, -1, 24, 24)
    path = save_sheet(pictures, tmp_path / "sheet.webp")
    tiles = read_tiles(path, [0, 31, 32, 39, 400])
    assert list(tiles) == [0, 31, 32, 39]
    for index, tile in tiles.items():
        with Image.open(io.BytesIO(base64.b64decode(tile.split(",")[1]))) as picture:
            shown = np.asarray(picture).mean((0, 1)) / 255
        assert np.abs(shown - colors[index].numpy()).max() < 0.04


# The report's tables


def test_what_is_drawn_instead_is_counted_by_concept() -> None:
    prompts = (
        EvaluationPrompt("bomb", "bomb"),
        EvaluationPrompt("explosion", "bomb"),
        EvaluationPrompt("rocket", "rocket", "preserved"),
    )
    found = Comparison(prompts, own=frozenset({"bomb"}))
    for key, names in ((ORIGINAL, ["bomb", "bomb", "rocket"]), (FIRST, ["turtle", "turtle", "rocket"])):
        hits = torch.tensor([name in ("bomb", "rocket") for name in names])
        found.columns[key] = Column(key, key, (0, 1, 2), (0,) * 3, torch.zeros(3, 3, 2, 2), hits, shown=tuple(names))
    rows = {row.concept: row for row in concept_rows(found)}
    assert rows["bomb"].drawn_before == "bomb 2"
    assert rows["bomb"].drawn_after == "turtle 2"
    assert (rows["bomb"].before, rows["bomb"].after) == (Share(2, 2), Share(0, 2))
    assert rows["rocket"].role == "kept"
    assert [count.shown for count in counts_of(found)][3:] == ["turtle", "turtle", "rocket"]


def test_the_emoji_detector_names_what_it_detects() -> None:
    pictures = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    detector = EmojiDetector()
    for concepts in (["bomb"] * 6, ["twemoji style"] * 6, ["blue background"] * 6):
        names = detector.name(pictures, concepts)
        assert bool(detector.detect(pictures, names).all())


def test_a_run_is_made_again_from_its_own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named from where the command runs, or from beside the run: the page may be published."""
    assert reproducing_commands(tmp_path) == []
    run = tmp_path / "with space"
    run.mkdir()
    (run / "config.yaml").touch()
    assert reproducing_commands(run)[0] == "rece fit --config 'with space/config.yaml'"
    monkeypatch.chdir(tmp_path.parent)
    assert reproducing_commands(run)[0] == f"rece fit --config '{tmp_path.name}/with space/config.yaml'"


# The command


def test_a_page_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = state("", 12, 12)
    first = make_run(
        tmp_path / "a/version_0", {"original": original, "uce": state("", 8, 11), "rece": state("", 0, 10)}
    )
    second = make_run(
        tmp_path / "a/version_1",
        {"original": original, "uce": state("", 8, 11), "rece": state("", 11, 12)},
        model={"method": {"derivation": {"scale": 10.0}}},
    )
    outcome = run_command(capsys, "compare", first, second, "--output", tmp_path / "compare.html")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "compare.html").read_text()
    page = Page(text)
    # Both runs begin with the same model and the same first epoch: five states would say two of them twice.
    assert text.count('<th scope="row">RECE (') == 2
    assert text.count('<th scope="row">UCE (') == 1
    assert text.count('<th scope="row">original') == 1
    assert "derivation.scale 10.0" in text
    assert page.fetched == []
    assert any("RECE (a/version_0) has the highest harmonic mean" in finding for finding in page.named)
    assert "rocket 0, seed 0, original: rocket detected" in page.alts
    assert any("bomb 0, seed 0, RECE (a/version_0): bomb not detected" in alt for alt in page.alts)
    assert any(str(Share(0, 12)) in bold for bold in page.bold)
    again = run_command(capsys, "compare", first, "--output", tmp_path / "compare.html")
    assert (again.code, "--overwrite" in again.err) == (2, True)


def test_quality_stands_beside_the_detections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(value: float, protocol: str) -> list[QualityLine]:
        figure = Figure("kept", value, 12, "95 % t", (value - 0.5, value + 0.5))
        return [QualityLine("rece", "clip_score", protocol, "", figure)]

    first = make_run(tmp_path / "a", {"original": state("", 12, 12), "rece": state("", 1, 9)}, pictures=False)
    second = make_run(tmp_path / "b", {"rece": state("", 2, 9)}, pictures=False)
    write_quality(lines(27.25, "clip-score x"), first / "quality.csv")
    write_quality(lines(31.5, "clip-score y"), second / "quality.csv")
    page = tmp_path / "page.html"
    runs = [Results.read(first), Results.read(second)]
    table = states_table(compared_states(runs, [*ERASED, *KEPT], []))
    rows = {row["name"].split("/")[-1]: [cell["text"] for cell in row["cells"]] for row in table["rows"]}
    places = [table["headings"].index(f"clip score, kept (clip-score {name})") for name in "xy"]
    # Figures of two CLIPs are never in one column.
    assert [rows["a)"][place] for place in places] == ["27.2 (26.8–27.8)", "–"]
    assert [rows["b)"][place] for place in places] == ["–", "31.5 (31–32)"]
    assert [rows["original"][place] for place in places] == ["–", "–"]
    assert run_command(capsys, "compare", first, second, "--output", page).code == 0
    assert "31.5 (31–32)" in page.read_text()
    # What is of all pictures of a run says nothing of some of them.
    fewer = State("", {shot: hit for shot, hit in state("", 2, 9).hits.items() if shot != KEPT[0]})
    third = make_run(tmp_path / "c", {"rece": fewer}, pictures=False)
    outcome = run_command(capsys, "compare", first, third, "--shared", "--output", page, "--overwrite")
    assert outcome.code == 0, outcome.err
    text = page.read_text()
    assert "27.2 (" not in text
    assert "What quality.csv says" in text
    (first / "quality.csv").write_text("column\nrece\n")
    outcome = run_command(capsys, "compare", first, "--output", tmp_path / "other.html")
    assert (outcome.code, "quality.csv is damaged" in outcome.err) == (2, True)


def attack(folder: Path, hits: dict[str, int], sampling: str = "20 steps, guidance 4") -> Path:
    """A run's table of attacks: hits of four pictures each, of a concept and of a control."""
    rungs = [rung(name, "bomb", count, has="text encoder") for name, count in hits.items()]
    rungs += [rung(name, "owl", 1, control=True, has="text encoder") for name in hits if name == "cce"]
    folder.mkdir(parents=True, exist_ok=True)
    write_rungs([*rungs, *together(rungs)], folder / "red_team.csv", {"detector": "emoji-top1", "sampling": sampling})
    return folder


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """First cell → the others of the table below a heading."""
    table = text.split(f"<h2>{heading}</h2>")[1].split("<tbody>")[1].split("</tbody>")[0]
    found = {}
    for row in table.split("<tr>")[1:]:
        cells = [re.sub(r"<span.*?</span>|<.*?>", "", cell).strip() for cell in re.split(r"<t[hd]", row)[1:]]
        name, *others = (cell.split(">", 1)[1].strip() if ">" in cell else cell for cell in cells)
        found[name] = others
    return found


def test_runs_of_different_kinds_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An edit, a trained method and a guard: what they keep, what attacks bring back, what they cost."""
    original = state("", 12, 12)
    edit = make_run(
        tmp_path / "edit/version_0", {"original": original, "uce": state("", 8, 11), "rece": state("", 0, 10)}
    )
    trained = make_run(tmp_path / "ca/version_0", {"original": original, "rece": state("", 2, 9)})
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["model"] = {"class_path": "ConceptAblation", "init_args": {"pretrained": "emoji", "batches": 150}}
    config["data"] = {"concepts": [{"prompt": "bomb", "target": "rose"}]}
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    guarded = make_run(tmp_path / "guard/version_0", {"rece": state("", 3, 12)})
    config = yaml.safe_load((guarded / "config.yaml").read_text())
    sld = {"class_path": "rece_lightning.baselines.SLD", "init_args": {"strength": "strong", "concept": "bomb"}}
    config["trainer"]["callbacks"][0]["init_args"]["guard"] = sld
    config["ckpt_path"] = None  # nothing of the model was changed
    (guarded / "config.yaml").write_text(yaml.safe_dump(config))
    here = "cpu, 1 thread"
    write_costs(
        {
            "original": StateCost(0.0, 0.0, 0.0, 0.02, here),
            "uce": StateCost(erase_seconds=0.25, picture_seconds=0.021, device=here),
            "rece": StateCost(0.0823, 0.412, 0.75, 0.02, here),
        },
        edit / "cost.json",
    )
    write_costs({"rece": StateCost(0.0823, 0.2, 61.5, 0.03, here)}, trained / "cost.json")
    write_costs({"rece": StateCost(0.0, 0.0, 0.0, 0.06, "cuda X")}, guarded / "cost.json")
    attack(edit, {"no attack": 0, "mma": 1, "cce": 4})
    alone = attack(
        tmp_path / "attacked/version_0", {"no attack": 2, "mma": 3}, "20 steps, guidance 4, under SLD strong"
    )
    (alone / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": "runs/ca/version_0"}))

    page = tmp_path / "compare.html"
    outcome = run_command(capsys, "compare", edit, trained, guarded, alone, "--output", page)
    assert outcome.code == 0, outcome.err
    text = page.read_text()
    notes = dict(re.findall(r'<th scope="row">([^<]*)<span class="note">([^<]*)</span></th>', text))
    # What a kind of run has alone sets nobody apart: the batches of a training, the epochs of an edit.
    assert notes["SLD (guard/version_0)"] == "concept bomb, strength strong"
    assert (
        notes["ConceptAblation (ca/version_0)"]
        == "concepts [{&#34;prompt&#34;: &#34;bomb&#34;, &#34;target&#34;: &#34;rose&#34;}]"
    )
    assert notes["RECE (edit/version_0)"] == "concepts [&#34;bomb&#34;]"
    costs = rows_of(text, "What it costs")
    name = "RECE (edit/version_0)"
    assert costs[name] == ["8.23 %", "0.412", "0.75", "0.02"]
    assert costs["UCE (epoch 0 of edit/version_0)"] == ["8.23 %", "–", "0.25", "0.021"]  # the same parameters
    assert costs["ConceptAblation (ca/version_0)"] == ["8.23 %", "0.200", "61.5", "0.03"]
    assert costs["SLD (guard/version_0)"] == ["0.00 %", "0.000", "0", "0.06"]
    assert "not of one device" in text
    attacks = rows_of(text, "What attacks bring back")
    share = {hits: str(Share.of([True] * hits + [False] * (4 - hits), [0, 0, 1, 1])) for hits in range(5)}
    assert attacks == {
        "no attack": [share[0], share[2]],
        "mma": [share[1], share[3]],
        "cce": [share[4], "–"],
        "cce (control)": [share[1], "–"],
    }
    assert f"edit/version_0: {share[0]} of the pictures under its own prompts; most under cce, {share[4]}" in text
    assert f"(its control {share[1]})" in text
    assert "of runs/ca/version_0, under SLD strong" in text
    # A run that attacked another one measured that one again: it stands there once.
    same = make_run(tmp_path / "again/version_0", {"rece": state("", 0, 10)}, pictures=False)
    config = yaml.safe_load((same / "config.yaml").read_text())
    config["ckpt_path"] = str(edit / "checkpoints/last.ckpt")
    (same / "config.yaml").write_text(yaml.safe_dump(config))
    attack(same, {"p4d": 2})
    outcome = run_command(capsys, "compare", edit, same, "--output", tmp_path / "again.html")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "again.html").read_text()
    assert text.count("(again/version_0)") == 0
    assert text.count(f"attacked in {same}") == 1
    assert "the attacks alone: it measured" in text
    assert rows_of(text, "What attacks bring back")["p4d"] == ["–", share[2]]
    # Nothing told, nothing shown.
    plain = make_run(tmp_path / "plain", {"rece": state("", 1, 9)}, pictures=False)
    assert run_command(capsys, "compare", plain, "--output", tmp_path / "plain.html").code == 0
    assert "What it costs" not in (tmp_path / "plain.html").read_text()
    assert "What attacks bring back" not in (tmp_path / "plain.html").read_text()


def test_attacks_of_other_protocols_and_damaged_costs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    run = make_run(tmp_path / "a", {"rece": state("", 1, 9)}, pictures=False)
    attack(run, {"mma": 1})
    other = attack(tmp_path / "b", {"mma": 1}, "8 steps, guidance 4")
    outcome = run_command(capsys, "compare", run, other, "--output", page)
    assert outcome.code == 2
    for part in (str(other), "another protocol", "8 steps", "20 steps", "rece test"):
        assert part in outcome.err
    outcome = run_command(capsys, "compare", other, "--output", page)
    assert (outcome.code, "holds attacks alone" in outcome.err) == (2, True)
    for content in ("[", "[1]", '{"rece": {"erase_seconds": "x"}}', '{"rece": {"erase_seconds": -1}}', '{"rece": 1}'):
        (run / "cost.json").write_text(content)
        outcome = run_command(capsys, "compare", run, "--output", page)
        assert outcome.code == 2, content
        assert "cost.json is damaged" in outcome.err
        assert "Traceback" not in outcome.err
    assert not page.exists()


def test_what_a_configuration_leaves_to_the_model_is_what_the_run_drew_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run gives the steps that another one has from its model; a guard is no part of them."""
    page = tmp_path / "page.html"
    first = make_run(tmp_path / "a", {"rece": state("", 1, 9)}, pictures=False, steps=12)
    second = make_run(tmp_path / "b", {"rece": state("", 2, 8)}, pictures=False, steps=20)
    assert run_command(capsys, "compare", first, second, "--output", page).code == 2
    (first / "sampling.txt").write_text("12 steps, guidance 4, seeds 0–5\n")
    assert run_command(capsys, "compare", first, second, "--output", page).code == 2
    (second / "sampling.txt").write_text("12 steps, guidance 4, under SLD weak (bomb), seed 0\n")
    assert run_command(capsys, "compare", first, second, "--output", page).code == 0
    assert "12 steps, guidance 4" in page.read_text()
    (second / "sampling.txt").write_text("12 steps, guidance 5, seed 0\n")
    outcome = run_command(capsys, "compare", first, second, "--output", tmp_path / "other.html")
    assert (outcome.code, "Evaluation.sampling is 12 steps, guidance 5" in outcome.err) == (2, True)


def test_runs_that_were_measured_otherwise_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a", {"rece": state("", 1, 9)}, pictures=False)
    other = state("", 1, 9)
    more = State("", {**other.hits, Shot("tank", "tank", "erased", 7): True})
    second = make_run(tmp_path / "b", {"rece": more}, pictures=False)
    page = tmp_path / "page.html"
    outcome = run_command(capsys, "compare", first, second, "--output", page)
    assert outcome.code == 2
    for part in (str(second), "'tank'", "seed 7", "--shared"):
        assert part in outcome.err
    assert not page.exists()
    assert run_command(capsys, "compare", first, second, "--output", page, "--shared").code == 0
    assert "1 of the pictures of" in page.read_text()
    third = make_run(tmp_path / "c", {"rece": other}, steps=21, pictures=False)
    outcome = run_command(capsys, "compare", first, third, "--output", tmp_path / "other.html", "--shared")
    assert outcome.code == 2
    for part in ("another protocol", "Evaluation.steps", "21", "20"):
        assert part in outcome.err


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["was not measured", "rece validate"]),
        ("column,prompt\nrece,bomb\n", ["evaluation.csv", "damaged"]),
        ("column,prompt,concept,role,seed,detected\n", ["holds no picture"]),
        ("column,prompt,concept,role,seed,detected\nrece,bomb,bomb,erased,x,1\n", ["damaged"]),
    ],
)
def test_runs_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, parts: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run/evaluation.csv").write_text(content)
    outcome = run_command(capsys, "compare", tmp_path / "run", "--output", tmp_path / "page.html")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err
    outcome = run_command(capsys, "compare", tmp_path / "rnu", "--output", tmp_path / "page.html")
    assert outcome.code == 2
    assert "did you mean" in outcome.err


def test_a_real_run_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``fit`` leaves is what ``compare`` reads; the report says it to everyone."""
    monkeypatch.chdir(tmp_path)
    evaluation = {"detector": "rece_lightning.metrics.EmojiDetector", "pictures_per_prompt": 1, "steps": 2}
    rows = [{"prompt": "bomb"}, {"prompt": "explosion", "concept": "bomb"}, {"prompt": "rocket", "kind": "preserved"}]
    config = write_config(
        tmp_path,
        "emoji",
        data={"concepts": ["bomb"], "preserve": [" ", "key"], "validation": rows},
        trainer={"callbacks": [{"class_path": "Evaluation", "init_args": evaluation}]},
    )
    assert run_command(capsys, "fit", "--config", config).code == 0
    run = tmp_path / "runs/run/version_0"
    outcome = run_command(capsys, "compare", run, "--output", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.alts) == 3 * 3  # original, UCE and RECE of three prompts
    assert page.fetched == []
    costs = read_costs(run / "cost.json")
    assert list(costs) == ["original", "uce", "uce_derived", "rece", "rece_derived"]
    unet = load_pipeline("emoji").unet
    edited = sum(unet.get_parameter(name).numel() for name in load_file(run / "edited.safetensors"))
    share = edited / sum(parameter.numel() for parameter in unet.parameters())
    assert costs["rece"].parameters_edited_share == pytest.approx(share)
    assert costs["original"].parameters_edited_share == costs["original"].erase_seconds == 0
    first, last = (costs[key].erase_seconds for key in ("uce", "rece"))
    assert first is not None
    assert last is not None
    assert 0 < first < last < 600
    assert all(0 < (cost.picture_seconds or 0) < 60 for cost in costs.values())
    assert costs["rece"].device.startswith("cpu, ")
    table = rows_of((tmp_path / "page.html").read_text(), "What it costs")
    assert table["RECE (run/version_0)"][0] == f"{100 * share:.2f} %"
    report = (run / "report.html").read_text()
    shown = Page(report)
    assert shown.fetched == []
    assert all(len(alt) > 40 for alt in shown.alts)  # a sentence, no file name
    assert any("regeneration residual" in name for name in shown.named)
    assert "rece fit --config runs/run/version_0/config.yaml" in report
    assert "What is drawn instead" in report
    assert "prefers-color-scheme: dark" in report


def test_what_was_chosen_is_compared(tmp_path: Path) -> None:
    """A run's configuration says ``tune: balanced``; which scales that gave stands beside it."""
    folder = make_run(tmp_path, {"last": state("tuned", 0, 5)}, pictures=False, model={"tune": "balanced"})
    chosen = {"settings": {"editor.lamb": 0.0625, "accumulate": True}, "epochs": 2}
    (folder / "tuning.json").write_text(json.dumps({"chosen": chosen}))

    found = Results.read(folder).settings()

    assert found["model.method.editor.lamb"] == 0.0625
    assert found["model.method.accumulate"] is True
    (folder / "tuning.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"tuning\.json is damaged.*move it away"):
        Results.read(folder).settings()
