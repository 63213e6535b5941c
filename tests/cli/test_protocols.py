"""Protocol files: each can be used as it stands, and those of the embedded world run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from rece_lightning import ConfigurationError
from rece_lightning.callbacks import Evaluation
from rece_lightning.cli.protocols import FOLDER, expand_flags, load_protocol, shipped_protocols
from rece_lightning.data.prompts import EvaluationPrompt, kinds_of_concepts, read_prompts
from rece_lightning.evaluation.prompts import understood
from rece_lightning.evaluation.results.counts import read_counts
from rece_lightning.evaluation.results.figures import read_quality
from rece_lightning.metrics import ConceptDetector, EmojiDetector
from tests.helpers.command import Outcome, run_command, write_config

EMOJI = {
    "emoji-objects": "bomb",
    "emoji-styles": "a dog in twemoji style",
    "emoji-backgrounds": "a dog on a red background",
}
MADE = {"emoji-indirect": "indirect", "emoji-pinpoint": "pinpoint"}
"""Protocols whose prompts follow from what is erased, by the argument that makes them."""
NAMES = ["artists", "coco-quality", *sorted([*EMOJI, *MADE]), "i2p-nudity", "i2p-unsafe", "imagenette-objects"]
# Rows as the files have them.
FILES = {
    "i2p-nudity": ",prompt,categories,sd_seed,sd_guidance_scale\n0,some prompt,sexual,2950,7\n",
    "i2p-unsafe": ",prompt,categories,evaluation_seed,evaluation_guidance,case_number\n0,some prompt,hate,2950,13,0\n",
    "artists": ",case_number,prompt,evaluation_seed,artist\n0,0,Stars,1214,Van Gogh\n1,1,Soup,5,Andy Warhol\n",
    "coco-quality": "case_number,source,prompt,evaluation_seed,coco_id\n2308,coco-30k,Two cats.,99949,78748\n",
    "imagenette-objects": "prompt,evaluation_seed,class\nImage of church,987,church\nImage of tench,5,tench\n",
}
ERASED = {"artists": ["Van Gogh"], "imagenette-objects": ["church"]}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rece(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(verb: str, *arguments: str, concepts: list[str] | None = None, trainer: Any = None) -> Outcome:
        path = write_config(tmp_path, tiny_model, data={"concepts": concepts or ["bomb"]}, trainer=trainer)
        return run_command(capsys, verb, "--config", path, *arguments)

    return run


def test_all_protocols_ship() -> None:
    assert shipped_protocols() == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_can_be_used_as_it_stands(name: str, tmp_path: Path) -> None:
    """Its classes exist and take its arguments, its columns are read, its roles are right."""
    protocol = load_protocol(name)
    arguments = {**protocol.arguments}
    detector = arguments.pop("detector", None)
    if detector is not None:
        detector = _made(detector)
        assert isinstance(detector, ConceptDetector)
    # Needs scipy, which is nobody's dependency; the message says so.
    if arguments.pop("scheduler", None) == "LMSDiscreteScheduler":
        _refuses_or_takes("LMSDiscreteScheduler")
    for metric in protocol.metrics:
        assert _made(metric) is not None
    made = Evaluation(**arguments)
    if name in MADE:
        assert protocol.prompts == []
        assert made.more.pinpoint == (20 if MADE[name] == "pinpoint" else 0)
        assert made.more.indirect == (MADE[name] == "indirect")
        return
    if protocol.prompts is not None:
        rows = read_prompts("data.validation", protocol.prompts)
    else:
        assert protocol.source
    if name in FILES:
        file = tmp_path / "prompts.csv"
        file.write_text(FILES[name])
        rows = read_prompts("data.validation", str(file))
        assert rows[0].seed is not None
    erased = ERASED.get(name, [EMOJI.get(name, "nudity")])
    given = (protocol.arguments.get("concept"), protocol.arguments.get("kinds", "given"))
    found = understood("data.validation", rows, erased, *given)
    kinds = {row.kind for row in found}
    assert kinds == (
        {"erased"} if name.startswith("i2p") else {"preserved"} if "coco" in name else {"erased", "preserved"}
    )
    assert all(row.concept != row.prompt for row in found) or name in ("coco-quality", "emoji-objects")
    if isinstance(detector, EmojiDetector):
        for row in found:
            detector.check(row.concept)


def _made(described: dict[str, Any]) -> Any:
    """The object, as the command makes it; what needs an extra or a download is only looked up."""
    home, kind = described["class_path"].rsplit(".", 1)
    found = getattr(import_module(home), kind)
    arguments = described.get("init_args", {})
    nested = [value for value in arguments.values() if isinstance(value, dict) and "class_path" in value]
    if kind in ("Lpips", "InceptionFeatures") or nested:
        inspect.signature(found).bind(**arguments)
        return [found, *map(_made, nested)]
    return found(**arguments)


def _refuses_or_takes(scheduler: str) -> None:
    try:
        import scipy  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigurationError, match="needs scipy"):
            Evaluation(scheduler=scheduler)
    else:
        Evaluation(scheduler=scheduler)


@pytest.mark.parametrize("name", EMOJI)
def test_a_protocol_of_the_embedded_world_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, "emoji", data={"concepts": [EMOJI[name]]})
    few = ["--trainer.callbacks.steps", "1", "--trainer.callbacks.pictures_per_prompt", "1", "--data.batch_size", "8"]
    outcome = run_command(
        capsys, "validate", "--config", path, "--protocol", name, *few, "--trainer.limit_val_batches", "2"
    )
    assert outcome.code == 0, outcome.err
    assert f"{name}: emoji-top1" in " ".join(outcome.out.split())
    # The configuration of the run says all of it, without the flag.
    said = yaml.safe_load((tmp_path / "runs/run/version_0/config.yaml").read_text())
    arguments = said["trainer"]["callbacks"][-1]["init_args"]
    assert (arguments["protocol"], arguments["steps"], arguments["guidance_scale"]) == (name, 1, 4.0)
    assert len(said["data"]["validation"]) == len(load_protocol(name).prompts or [])
    metrics = [metric["class_path"] for metric in arguments["metrics"]]
    assert metrics == [metric["class_path"] for metric in load_protocol(name).metrics]
    # Nothing was erased, so there is no original to compare with; the CLIP score needs none.
    assert "not measured: perceptual_distance, kernel_distance" in outcome.err
    lines = read_quality(tmp_path / "runs/run/version_0/quality.csv")
    assert {line.metric for line in lines} <= {"clip_score"}


@pytest.mark.parametrize("name", MADE)
def test_a_protocol_makes_its_prompts_from_what_is_erased(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Groups and nearest concepts are lines of their own; what is counted as erased is the concept's own prompt."""
    path = write_config(tmp_path, "emoji", data={"concepts": ["bomb", "axe"]})
    few = ["--trainer.callbacks.steps", "1", "--trainer.callbacks.pictures_per_prompt", "1"]
    few += ["--trainer.callbacks.pinpoint", "3"] if name == "emoji-pinpoint" else []
    outcome = run_command(capsys, "validate", "--config", path, "--protocol", name, *few)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "runs/run/version_0"
    lines = {(line.metric, line.figure.part): line.figure for line in read_quality(run / "quality.csv")}
    roles = [count.shot.role for count in read_counts(run / "evaluation.csv")]
    if name == "emoji-indirect":
        groups = ["described", "Spanish", "French", "German", "Italian", "Portuguese"]
        assert list(lines) == [("group", group) for group in groups]
        assert {figure.total for figure in lines.values()} == {4}  # two prompts of two concepts
        assert roles.count("erased") == 2
        assert "synonym" not in roles
    else:
        orders = [f"pinpoint_by_{order}" for order in ("text", "name")]
        assert list(lines) == [(order, f"nearest_{count}") for order in orders for count in (1, 2, 3)]
        assert [lines[orders[0], f"nearest_{count}"].total for count in (1, 2, 3)] == [1, 2, 3]
        assert 3 <= roles.count("kept") <= 6
        assert len(roles) == roles.count("kept")


# What is erased


def row(prompt: str, concept: str) -> EvaluationPrompt:
    return EvaluationPrompt(prompt, concept)


@pytest.mark.parametrize(
    ("concepts", "erased", "wanted"),
    [
        # Words within words, and a concept within another's name.
        (["water pistol", "water", "pistol", "key", "monkey"], ["water pistol", "Monkey"], {"water pistol", "monkey"}),
        (["twemoji style", "noto style"], ["a dog in twemoji style", "a rose in twemoji style"], {"twemoji style"}),
        (["Vincent van Gogh", "Rembrandt"], ["Van Gogh"], {"Vincent van Gogh"}),
    ],
)
def test_what_is_erased_follows_from_the_concepts(concepts: list[str], erased: list[str], wanted: set[str]) -> None:
    rows = kinds_of_concepts("data.validation", [row(f"a {concept}", concept) for concept in concepts], erased)
    assert {one.concept for one in rows if one.kind == "erased"} == wanted
    assert [one.concept for one in rows] == concepts


def test_a_protocol_that_is_about_something_else_is_refused(rece: Callable[..., Outcome]) -> None:
    outcome = rece("validate", "--protocol", "emoji-styles", concepts=["zebra"])
    assert outcome.code == 2
    for part in ("data.validation", "zebra", "twemoji style", "another protocol"):
        assert part in outcome.err


# What wins


def settings(argv: list[str]) -> dict[str, Any]:
    """What the flags became."""
    words = [word.partition("=") for word in argv if "=" in word]
    return {name: json.loads(value) for name, _, value in words if name != "--config"}


def config(path: Path, **content: Any) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_protocol_wins_over_files_and_the_command_line_over_a_protocol(tmp_path: Path) -> None:
    own = {"class_path": "Evaluation", "init_args": {"steps": 3, "attack": False}}
    first = config(tmp_path / "a.yaml", trainer={"callbacks": ["DevicePlacement", own, "Report"]})
    second = config(tmp_path / "b.yaml", data={"validation": ["cat"]})
    argv = ["validate", "--config", first, f"--config={second}", "--protocol", "emoji-styles", "--model.lamb", "1"]
    expanded = expand_flags(argv)
    assert expanded[:4] == ["validate", "--config", first, f"--config={second}"]
    assert expanded[-2:] == ["--model.lamb", "1"]
    said = settings(expanded[4:])
    callbacks = said["--trainer.callbacks"]
    assert [one["class_path"] for one in callbacks] == ["DevicePlacement", "Report", "Evaluation"]
    arguments = callbacks[-1]["init_args"]
    assert (arguments["steps"], arguments["attack"], arguments["protocol"]) == (20, False, "emoji-styles")
    assert len(said["--data.validation"]) == 32
    assert [metric["class_path"].rsplit(".", 1)[-1] for metric in arguments["metrics"]] == [
        "PerceptualDistance", "KernelDistance", "ClipScore"
    ]  # fmt: skip
    given = ["--trainer.callbacks", json.dumps([own]), "--data.validation", "mine.csv"]
    expanded = expand_flags([*argv, *given])
    arguments = settings(expanded[4:])["--trainer.callbacks"][-1]["init_args"]
    assert (arguments["steps"], arguments["guidance_scale"]) == (3, 4.0)
    assert "--data.validation=" not in " ".join(expanded)
    assert settings(expand_flags(["test", "--protocol=emoji-styles"])).keys() == {"--trainer.callbacks", "--data.test"}
    assert expand_flags(["validate", "--config", first]) == ["validate", "--config", first]


def test_prompts_that_do_not_ship_are_asked_for(rece: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = rece("validate", "--protocol", "i2p-nudity", concepts=["nudity"])
    assert outcome.code == 2
    for part in ("i2p-nudity", "AIML-TUDA/i2p", "sd_guidance_scale", "--data.validation"):
        assert part in outcome.err
    # A file in the configuration is enough; a list of other prompts is not.
    file = config(tmp_path / "file.yaml", data={"validation": "i2p.csv"})
    assert expand_flags(["validate", "--config", file, "--protocol", "i2p-nudity"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["validate", "--protocol", "emoji-object"], "did you mean 'emoji-objects'"),
        (["validate", "--protocol"], "no value given"),
        (["predict", "--protocol", "emoji-objects"], "fit, validate and test"),
        (["validate", "--protocl", "emoji-objects"], "protocl: no such setting"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(rece: Callable[..., Outcome], arguments: list[str], says: str) -> None:
    outcome = rece(*arguments)
    assert outcome.code == 2
    assert says in outcome.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "is no protocol"),
        ("trainer: {callbacks: []}", "is no protocol"),
        ("trainer: {callbacks: [{class_path: Evaluation, init_args: {}}]}", "names no prompts"),
        ("prompts: {source: here}\ntrainer: {callbacks: [{class_path: Evaluation, init_args: {}}]}", "is no protocol"),
        ("dat: {}\ntrainer: {callbacks: [{class_path: Evaluation, init_args: {}}]}", "unknown key 'dat'"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        load_protocol(str(tmp_path / "own.yaml"))


def test_protocols_are_part_of_the_package() -> None:
    """As they are in a wheel: see package-data."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert '"configs/protocols/*.yaml"' in text
    assert FOLDER.is_dir()
