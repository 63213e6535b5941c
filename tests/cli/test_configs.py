"""Every shipped configuration, the help, and what a run leaves on disk."""

from __future__ import annotations

import csv
import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file

from rece_lightning import RECE, Method
from rece_lightning.__main__ import main
from rece_lightning.cli.verbs import PACKAGE, VERBS, shipped_configs
from tests.helpers.command import Outcome, run_command, write_config
from tests.helpers.models import make_checkpoint

STABLE_DIFFUSION = ("nudity", "unsafe", "van_gogh", "objects")
RECE_EPOCHS = {"nudity": 3, "unsafe": 2, "van_gogh": 1, "objects": 1}
"""The paper's."""
PUBLISHED = {"nudity": "nudity", "unsafe": "unsafe", "van_gogh": "style", "objects": "object"}
"""Configuration → its published settings in :meth:`Method.published`."""

Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files tell when they were written: two runs are compared byte for byte."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(capsys, *arguments)


@pytest.fixture
def run(command: Command, tiny_model: Path) -> Command:
    """Run a verb on a shipped configuration and the small model, to its end."""

    def on_the_small_model(verb: str, config: str, *arguments: str | Path) -> Outcome:
        outcome = command(verb, "--config", config, *local(tiny_model), *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    return on_the_small_model


def local(model: Path) -> tuple[str, ...]:
    settings = {"model.pretrained": model, "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"}
    return tuple(part for key, value in settings.items() for part in (f"--{key}", str(value)))


def files_of(folder: Path) -> dict[str, str]:
    """Name → hash of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# The configurations themselves


def read_shipped(config: str) -> dict[str, Any]:
    return yaml.safe_load((PACKAGE / "configs" / config).read_text(encoding="utf-8"))


def test_the_promised_configurations_ship() -> None:
    assert {"demo.yaml", "emoji.yaml", "emoji_style.yaml", *(f"{name}.yaml" for name in STABLE_DIFFUSION)} <= set(
        shipped_configs()
    )


TRAINED = [name for name in shipped_configs() if "class_path" in read_shipped(name)["model"]]
"""Of baselines that are trained."""


@pytest.mark.parametrize("config", TRAINED)
def test_a_printed_config_of_a_baseline_is_read_back_as_itself(command: Command, tmp_path: Path, config: str) -> None:
    printed = command("fit", "--config", config, "--print_config")
    assert printed.code == 0
    (tmp_path / "printed.yaml").write_text(printed.out, encoding="utf-8")
    again = command("fit", "--config", "printed.yaml", "--print_config")
    assert yaml.safe_load(again.out) == yaml.safe_load(printed.out)
    shipped, read = read_shipped(config), yaml.safe_load(printed.out)
    assert {key: read["data"][key] for key in shipped["data"]} == shipped["data"]
    assert read["model"]["class_path"].endswith(f".{shipped['model']['class_path']}")
    assert shipped["model"]["init_args"].items() <= read["model"]["init_args"].items()


@pytest.mark.parametrize("config", [name for name in shipped_configs() if name not in TRAINED])
def test_a_printed_config_is_read_back_as_itself(command: Command, tmp_path: Path, config: str) -> None:
    printed = command("fit", "--config", config, "--print_config")
    assert printed.code == 0
    (tmp_path / "printed.yaml").write_text(printed.out, encoding="utf-8")
    again = command("fit", "--config", "printed.yaml", "--print_config")
    assert yaml.safe_load(again.out) == yaml.safe_load(printed.out)
    shipped = read_shipped(config)
    read = yaml.safe_load(printed.out)
    assert {key: read["data"][key] for key in shipped["data"]} == shipped["data"]
    methods = [Method.from_plain(one["model"].get("method", {})) for one in (shipped, read)]
    assert methods[0] == methods[1]
    assert read["model"]["tune"] in (shipped["model"].get("tune"), "off")
    assert read["model"]["pretrained"] == shipped["model"]["pretrained"]
    assert read["model"]["certificate"] == shipped["model"].get("certificate")


@pytest.mark.parametrize("name", STABLE_DIFFUSION)
def test_published_numbers_of_epochs(name: str) -> None:
    shipped = read_shipped(f"{name}.yaml")
    assert shipped["trainer"]["max_epochs"] == 1 + RECE_EPOCHS[name]
    assert shipped["model"]["pretrained"] == "CompVis/stable-diffusion-v1-4"


@pytest.mark.parametrize("name", STABLE_DIFFUSION)
def test_published_settings_are_the_same_in_python_and_yaml(name: str) -> None:
    method = read_shipped(f"{name}.yaml")["model"]["method"]
    assert Method.from_plain(method) == Method.published(PUBLISHED[name])
    # Every value that the paper names stands in the file, whatever the defaults become.
    assert set(method["editor"]["init_args"]) == {"preserve_scale", "lamb"}
    assert set(method["derivation"]) == {"scale"}


def test_easy_objects_differ_from_hard_ones_in_the_derivation_alone() -> None:
    hard, easy = Method.published("object"), Method.published("easy-object")
    assert (hard.derivation.scale, easy.derivation.scale) == (1e-3, 0.1)
    assert hard.editor == easy.editor


def test_text_in_a_mapping_stays_text(command: Command, tmp_path: Path) -> None:
    """A parser that guesses would read these as a mapping, a number, null and false."""
    data = {
        "concepts": [{"prompt": "5", "target": "null", "templates": ["{}", "a {}"], "weight": 2}],
        "validation": [{"prompt": "no", "concept": "1.5", "seed": 3}],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"data": data}))
    printed = yaml.safe_load(command("fit", "--config", "own.yaml", "--print_config").out)["data"]
    assert printed["concepts"] == data["concepts"]
    assert printed["validation"] == data["validation"]


def test_an_existing_path_wins_over_a_shipped_name(command: Command, tmp_path: Path) -> None:
    (tmp_path / "nudity.yaml").write_text("data: {concepts: [mine]}")
    printed = command("fit", "--config", "nudity.yaml", "--print_config")
    assert yaml.safe_load(printed.out)["data"]["concepts"] == ["mine"]


@pytest.mark.parametrize("arguments", [("--config", "nudity"), ("--config=nudity",), ("-c", "nudity.yaml")])
def test_a_shipped_config_by_every_spelling(command: Command, arguments: tuple[str, ...]) -> None:
    printed = command("fit", *arguments, "--print_config")
    assert yaml.safe_load(printed.out)["data"]["concepts"] == ["nudity"]


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_lists_its_settings(command: Command, verb: str) -> None:
    outcome = command(verb, "--help")
    assert outcome.code == 0
    for key in ("--model.method.editor", "lamb=0.1", "--data.concepts", "--trainer.max_epochs", "--ckpt_path"):
        assert key in outcome.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_our_settings_first_and_says_how_to_see_lightnings(command: Command, verb: str) -> None:
    text = command(verb, "--help").out
    places = [text.index(key) for key in ("--model.pretrained", "--model.method.editor", "--data.concepts", "RedTeam")]
    assert places == sorted(places)
    assert text[: places[0]].count("\n") < 10
    assert "--trainer.gradient_clip_val" not in text
    assert ":class:" not in text
    assert text.splitlines()[-1] == f"All options of Lightning's Trainer: rece {verb} --help.trainer"
    outcome = command(verb, "--help.trainer")
    assert outcome.code == 0
    assert "--trainer.gradient_clip_val" in outcome.out
    assert "--model.pretrained" not in outcome.out


def test_help_of_an_editor_lists_its_arguments(command: Command) -> None:
    outcome = command("fit", "--model.method.editor.help", "Projection")
    assert outcome.code == 0
    assert "shrinkage" in outcome.out


def test_top_level_help_loads_no_framework() -> None:
    script = (
        "import sys; from rece_lightning.__main__ import main\n"
        "for arguments in (['--help'], [], ['--version']): main(arguments)\n"
        "try: main(['ft'])\n"
        "except SystemExit as error: assert error.code == 2\n"
        "print('loaded:', sorted({'torch', 'lightning', 'diffusers', 'jsonargparse'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"
    assert all(word in result.stdout for word in (*VERBS, *shipped_configs()))
    assert "did you mean 'fit'?" in result.stderr


# Without a hub


@pytest.mark.parametrize("hub", ["refuses", "is silent"])
def test_without_a_hub_the_remedy_comes_within_seconds(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hub == "is silent":
            # The connection is made, and nobody answers.
            server.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        outcome = command("fit", "--config", "nudity.yaml", "--trainer.accelerator", "cpu")
    assert time.monotonic() - started < 10  # of 15: a fresh process also imports
    assert outcome.code == 2
    assert "Traceback" not in outcome.out + outcome.err
    assert "model.pretrained: 'CompVis/stable-diffusion-v1-4'" in outcome.err
    assert "Give a local diffusers folder or a checkpoint file with --model.pretrained PATH" in outcome.err


# What a run leaves


def test_templates_of_a_mapping_in_yaml_are_filled(run: Command, tiny_model: Path, tmp_path: Path) -> None:
    concept = {"prompt": "twemoji style", "target": "style", "templates": ["{}", "a rocket in {}"]}
    run("fit", str(write_config(tmp_path, tiny_model, data={"concepts": [concept]})))
    with safe_open(tmp_path / "runs/run/version_0/edited.safetensors", framework="pt") as edited:
        concepts = edited.metadata()["rece.concepts"]
    assert '"twemoji style"' in concepts
    assert '"a rocket in twemoji style"' in concepts
    assert '"a rocket in style"' in concepts


def test_the_style_configuration_runs_on_the_embedded_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "emoji_style.yaml", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null"])
    with safe_open(tmp_path / "runs/emoji_style/version_0/edited.safetensors", framework="pt") as edited:
        assert '"a dog in twemoji style"' in edited.metadata()["rece.concepts"]


@pytest.mark.parametrize("name", STABLE_DIFFUSION)
def test_a_run_leaves_its_files_in_its_folder(run: Command, tmp_path: Path, name: str) -> None:
    epochs = 1 + RECE_EPOCHS[name]
    outcome = run("fit", f"{name}.yaml")
    folder = tmp_path / "runs" / name / "version_0"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    files = set(files_of(folder))
    checkpoints = {f"checkpoints/{file}.ckpt" for file in ("last", *(f"epoch={epoch}" for epoch in range(epochs)))}
    assert {"edited.safetensors", "config.yaml", "metrics.csv", "report.html"} | checkpoints <= files
    assert {file for file in files if file.startswith("checkpoints")} == checkpoints
    assert any(file.startswith("events.out.tfevents") for file in files)
    assert str(Path("runs") / name / "version_0" / "report.html") in outcome.out
    for checkpoint in checkpoints:
        state = torch.load(folder / checkpoint, weights_only=True)["rece"]
        assert torch.isfinite(state["erasers"]["text"]["map"]).all()
        assert (folder / checkpoint).stat().st_size < 10e6
    rows = list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8")))
    assert [int(row["epoch"]) for row in rows if row["regeneration_residual"]] == list(range(epochs))
    with safe_open(folder / "edited.safetensors", framework="pt") as edited:
        assert edited.metadata()["rece.epochs"] == str(epochs)
        assert all(bool(edited.get_tensor(key).isfinite().all()) for key in edited.keys())  # noqa: SIM118


def test_a_second_run_never_touches_the_first(run: Command, tmp_path: Path) -> None:
    run("fit", "objects.yaml")
    first = tmp_path / "runs/objects/version_0"
    before = files_of(first)
    run("fit", "objects.yaml", "--model.method.editor.lamb", "0.5")
    second = tmp_path / "runs/objects/version_1"
    assert files_of(first) == before
    assert (second / "report.html").is_file()
    assert files_of(second)["edited.safetensors"] != before["edited.safetensors"]
    assert sorted(path.name for path in first.parent.iterdir()) == ["version_0", "version_1"]


def test_the_same_run_gives_the_same_bytes(run: Command, tmp_path: Path) -> None:
    for _ in range(2):
        run("fit", "van_gogh.yaml")
    first, second = (files_of(tmp_path / f"runs/van_gogh/version_{number}") for number in (0, 1))
    assert first["edited.safetensors"] == second["edited.safetensors"]


def test_the_config_of_a_run_repeats_it(run: Command, command: Command, tmp_path: Path) -> None:
    run("fit", "objects.yaml", "--model.method.editor.lamb", "0.3", "--trainer.default_root_dir", "first")
    assert command("fit", "--config", "first/version_0/config.yaml").code == 0
    # The folder is a setting like the others.
    first, second = (files_of(tmp_path / f"first/version_{number}") for number in (0, 1))
    assert first["edited.safetensors"] == second["edited.safetensors"]


def test_a_checkpoints_pipeline_holds_the_exported_weights(run: Command, tmp_path: Path, tiny_model: Path) -> None:
    run("fit", "nudity.yaml")
    folder = tmp_path / "runs/nudity/version_0"
    module = RECE.load_from_checkpoint(folder / "checkpoints/last.ckpt")
    edited = load_file(folder / "edited.safetensors")
    original = load_file(tiny_model / "unet/diffusion_pytorch_model.safetensors")
    state = module.pipeline().unet.state_dict()
    assert set(state) == set(original)
    assert any(not torch.equal(edited[name], original[name]) for name in edited)
    for name, weight in state.items():
        assert torch.equal(weight, edited.get(name, original[name])), name


# Checkpoints


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--model.method.accumulate", "true"),
        ("--model.method.editor", "TensorUCE"),
        (
            "--model.method.first_editor",
            "{class_path: UCE, init_args: {lamb: 0.5}}",
            "--model.method.tokens",
            "all",
            "--data.concepts",
            "[bomb, a water pistol]",
        ),
    ],
    ids=["published", "accumulate", "tensor", "first_editor"],
)
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(
    run: Command, tmp_path: Path, settings: tuple[str, ...], epoch: int
) -> None:
    run("fit", "unsafe.yaml", *settings)
    whole = tmp_path / "runs/unsafe/version_0"
    before = files_of(whole)
    # A folder of its own, so that only the checkpoint is shared.
    run("fit", "unsafe.yaml", *settings, "--ckpt_path", whole / f"checkpoints/epoch={epoch}.ckpt",
        "--trainer.default_root_dir", "resumed")  # fmt: skip
    resumed = tmp_path / "resumed/version_0"
    assert files_of(whole) == before
    assert files_of(resumed)["edited.safetensors"] == before["edited.safetensors"]
    first, second = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["rece"] for folder in (whole, resumed)
    )
    assert torch.equal(first["erasers"]["text"]["map"], second["erasers"]["text"]["map"])
    assert len(second["history"]) == 3


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("--model.method.editor.lamb", "0.2"), ["model.method.editor.lamb: 0.1 → 0.2"]),
        (
            ("--model.method.tokens", "last", "--model.method.accumulate", "true"),
            ["'aligned' → 'last'", "accumulate: False → True"],
        ),
        (("--data.concepts", '["garbage truck"]'), ["other concepts", "data.concepts"]),
        (("--data.concepts", "[{prompt: church, target: art}]"), ["other concepts", "data.concepts"]),
        (("--data.preserve", "[rocket]"), ["other prompts", "data.preserve"]),
        (("--trainer.max_epochs", "2"), ["2 epochs already", "trainer.max_epochs is 2", "higher"]),
    ],
)
def test_a_checkpoint_is_refused_where_something_decisive_differs(
    run: Command, command: Command, tiny_model: Path, change: tuple[str, ...], parts: list[str]
) -> None:
    run("fit", "objects.yaml")
    outcome = command("fit", "--config", "objects.yaml", *local(tiny_model), "--ckpt_path", "runs/objects/version_0",
                      "--trainer.max_epochs", "3", *change)  # fmt: skip
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert "ckpt_path" in outcome.err
    for part in parts:
        assert part in outcome.err


def test_a_checkpoint_is_refused_on_another_base(run: Command, command: Command, tmp_path: Path) -> None:
    run("fit", "objects.yaml")
    other = make_checkpoint(tmp_path / "other", seed=12)
    for verb in ("fit", "validate"):
        outcome = command(verb, "--config", "objects.yaml", *local(other), "--ckpt_path", "runs/objects/version_0")
        assert outcome.code == 2
        assert "Traceback" not in outcome.err
        assert all(part in outcome.err for part in ("projections and text_encoder", str(other), "Give the base"))


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_verb_runs_from_a_runs_folder_without_a_detector(run: Command, tmp_path: Path, verb: str) -> None:
    run("fit", "objects.yaml")
    before = files_of(tmp_path / "runs/objects/version_0")
    evaluation: dict[str, Any] = {"class_path": "Evaluation", "init_args": {"steps": 1, "pictures_per_prompt": 1}}
    extra = {
        "data": {"validation": ["church", {"prompt": "rocket", "kind": "preserved"}], "predict": ["church"]},
        "trainer": {"callbacks": [evaluation]},
    }
    (tmp_path / "extra.yaml").write_text(yaml.safe_dump(extra))
    outcome = run(verb, "objects.yaml", "--config", "extra.yaml", "--ckpt_path", "runs/objects/version_0")
    assert files_of(tmp_path / "runs/objects/version_0") == before
    if verb != "predict":
        assert "church" in outcome.out
        assert list(tmp_path.rglob("images/grid.png"))


def test_predict_without_prompts_says_what_to_give(run: Command, command: Command, tiny_model: Path) -> None:
    run("fit", "objects.yaml")
    outcome = command(
        "predict", "--config", "objects.yaml", *local(tiny_model), "--ckpt_path", "runs/objects/version_0"
    )
    assert outcome.code == 2
    assert "data.predict" in outcome.err
    assert "Traceback" not in outcome.err
