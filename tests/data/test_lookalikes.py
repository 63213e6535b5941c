"""A list within one prompt, and a file's name taken for a prompt: warned of with the remedy, and erased as written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning import ConceptData, ConfigurationError
from rece_lightning.data.concepts import read_preserved
from rece_lightning.data.lookalikes import looks_like_file
from rece_lightning.data.prompts import read_prompts
from rece_lightning.data.synonyms import read_synonyms
from rece_lightning.data.texts import filled
from rece_lightning.erasure.plan import ErasurePlan
from tests.helpers.command import run_command, write_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(concepts: Any, **settings: Any) -> ErasurePlan:
    """What ``erase`` and ``Erase`` make of their settings."""
    given_ = {"preserve": [" "], "target": " ", "templates": ["{}"], "method": {}, "epochs": 1, **settings}
    return ErasurePlan.of("erase", concepts, **given_)


@pytest.mark.parametrize("ask", [ConceptData, plan])
@pytest.mark.parametrize("concepts", ["bomb, axe", "bomb; axe", "bomb|axe", "bomb\naxe", ["gun", "bomb, axe"]])
def test_a_list_within_one_prompt(ask: Callable[[Any], Any], concepts: Any) -> None:
    with pytest.warns(UserWarning, match=r"data\.concepts: 'bomb.*axe' is one prompt\..* \[bomb, axe\],.*prompt: '…'"):
        asked = ask(concepts)
    assert asked.pairs[-1].prompt == (concepts if isinstance(concepts, str) else concepts[-1])


@pytest.mark.parametrize("ask", [ConceptData, plan])
def test_the_name_of_a_file_that_is_none(ask: Callable[[Any], Any]) -> None:
    with pytest.warns(UserWarning, match=r"'artists\.json' is taken for a prompt.*looks like a file.*\.txt"):
        assert ask("artists.json").pairs[0].prompt == "artists.json"
    with pytest.warns(UserWarning, match=r"'artists\.txt' is taken for a prompt.*alone, not in a list"):
        assert ask(["artists.txt"]).pairs[0].prompt == "artists.txt"
    with pytest.raises(ConfigurationError, match=r"artists\.txt cannot be read .*No such file.*square brackets"):
        ask("artists.txt")


def test_a_file_of_another_ending_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "artists").write_text("Monet\n")
    with pytest.warns(UserWarning, match="'artists' is taken for a prompt, and looks like a file"):
        ConceptData("artists")
    with pytest.raises(ConfigurationError, match=r"a file ends in \.csv or \.txt"):
        ConceptData("./artists")


def test_one_line_of_a_text_file_that_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "artists.txt").write_text("Monet, Rembrandt\n")
    with pytest.warns(UserWarning, match="'Monet, Rembrandt' is one prompt"):
        ConceptData("artists.txt")


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda: ConceptData(["bomb"], target="toy, dog"), r"data\.target: 'toy, dog' is one prompt"),
        (lambda: ConceptData(["bomb"], target="targets.csv"), r"data\.target: 'targets\.csv' is taken for a prompt"),
        (lambda: plan(["bomb"], target="toy, dog"), r"data\.target: 'toy, dog' is one prompt"),
        (lambda: ConceptData(["bomb"], preserve=["dog, cat"]), r"data\.preserve: 'dog, cat' is one prompt"),
        (lambda: ConceptData(["bomb"], preserve=["dogs.csv"]), r"data\.preserve: 'dogs\.csv' is taken for a prompt"),
        (lambda: plan(["bomb"], preserve=["dog, cat"]), r"data\.preserve: 'dog, cat' is one prompt"),
        (lambda: ConceptData(["bomb"], synonyms=["gun, rifle"]), r"data\.synonyms: 'gun, rifle' is one prompt"),
        (lambda: read_prompts("data.predict", ["list.txt"]), r"data\.predict: 'list\.txt' is taken for a prompt"),
        (
            lambda: ConceptData(["bomb"], preserve="auto", preserve_vocabulary=["dog; cat"]),
            r"data\.preserve_vocabulary: 'dog; cat' is one prompt",
        ),
    ],
)
def test_every_setting_of_prompts_is_looked_at(ask: Callable[[], Any], wanted: str) -> None:
    with pytest.warns(UserWarning, match=wanted) as caught:
        ask()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"preserve": "dog, cat"},
            r"data\.preserve: 'dog, cat'; give a list .*, such as \[dog, cat\], or a CSV",
        ),
        ({"predict": "a bomb"}, r"data\.predict: a bomb cannot be read .* list of prompts in square brackets"),
        ({"templates": "templates.txt"}, r"data\.templates: 'templates\.txt' is no list; give one such as"),
        ({"templates": ["{}, a photo of {}"]}, r"data\.templates: .* must hold '\{\}' once"),
        ({"synonyms": "gun, rifle"}, r"data\.synonyms: 'gun, rifle'; give auto, a list of words"),
    ],
)
def test_a_text_in_the_place_of_a_list_is_refused(settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigurationError, match=wanted):
        ConceptData(["bomb"], **settings)


def test_what_is_meant_as_written_is_not_doubted(tmp_path: Path) -> None:
    (tmp_path / "keep.csv").write_text('prompt\n"a dog, running"\n')
    (tmp_path / "keep.txt").write_text("a dog, running\na cat\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConceptData([{"prompt": "a bomb, lit", "target": "toys, many"}, {"prompt": "notes.txt"}], preserve="keep.csv")
        ConceptData(["St. Petersburg", "Dr. Seuss", "nudity/violence", "f/1.8", "3.5", "bomb,", "Mr."])
        ConceptData(["bomb"], preserve="keep.txt", validation=["a dog, running", "one; two"])
        assert read_preserved([" ", ""]) == [" ", ""]
        assert read_synonyms(["gun"], None, 10, 0.5, ConceptData(["bomb"]).asked)[1] == [("gun", "bomb")]


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_shipped_configuration_is_doubted(config: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ConceptData(**yaml.safe_load(config.read_text())["data"]).pairs


def test_the_command_warns_and_runs(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, tiny_model)
    with pytest.warns(UserWarning, match="'bomb, axe' is one prompt"):
        outcome = run_command(capsys, "fit", "--config", path, "--data.concepts", "bomb, axe")
    assert outcome.code == 0


def test_bytes_that_are_no_text_are_refused() -> None:
    wrong = b"caf\xe9".decode("utf-8", "surrogateescape")
    for ask in (
        lambda: ConceptData(wrong),
        lambda: ConceptData(["bomb"], target=wrong),
        lambda: ConceptData(["bomb"], templates=["{} " + wrong]),
        lambda: ConceptData(["bomb"], preserve=[wrong]),
        lambda: ConceptData(["bomb"], synonyms=[wrong]),
        lambda: ConceptData(["bomb"], predict=[wrong]),
    ):
        with pytest.raises(ConfigurationError, match=r"caf\\udce9' holds bytes that are no UTF-8 text"):
            ask()


@given(st.text(max_size=300))
def test_any_text_can_be_asked_of(text: str) -> None:
    assert looks_like_file(text) in (True, False)


@given(st.text(), st.text().filter(lambda text: "{}" not in text), st.text().filter(lambda text: "{}" not in text))
def test_a_template_is_filled_with_any_text(text: str, before: str, after: str) -> None:
    """Braces, ``%`` and backslashes of a prompt or a template mean nothing."""
    template = before + "{}" + after
    if template.count("{}") == 1 and template.index("{}") == len(before):
        assert filled(template, text) == before + text + after


@pytest.mark.parametrize("prompt", ["{}", "{0}", "{x!r}", "%s", "$x$", "{", "}}", "\\1"])
def test_braces_in_a_prompt_stay(prompt: str) -> None:
    data = ConceptData([{"prompt": prompt, "target": "toy {y}"}], templates=["{x} {} {", "%d {}"])
    assert [pair.prompt for pair in data.pairs] == [f"{{x}} {prompt} {{", f"%d {prompt}"]
    assert [pair.target for pair in data.pairs] == ["{x} toy {y} {", "%d toy {y}"]
