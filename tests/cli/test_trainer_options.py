"""Every option of Lightning's Trainer works in the command, or is one sentence: option, value, remedy, exit code 2."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.cli.help import DETECTORS, METRICS
from rece_lightning.cli.lightning import CLASSES
from rece_lightning.metrics import ConceptDetector
from tests.helpers.command import Outcome, run_command, write_config

Fit = Callable[..., Outcome]


@pytest.fixture
def fit(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fit]:
    """Run a verb of the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, verb: str = "fit", code: int = 0, **config: Any) -> Outcome:
        path = write_config(tmp_path, tiny_model, **config)
        outcome = run_command(capsys, verb, "--config", path, *arguments)
        assert outcome.code == code, outcome.out + outcome.err
        if code == 2:
            assert outcome.err.count("error: ") == 1
            assert "Traceback" not in outcome.out + outcome.err
            assert not list(Path().glob("runs/**/*"))
        return outcome

    yield run
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


WRONG: list[tuple[str, Any, str]] = [
    ("accelerator", "nonsense", "cpu"),
    ("accelerator", "tpu", "torch_xla"),
    ("strategy", "nonsense", "auto"),
    ("strategy", "ddp", "closed_form"),
    ("strategy", "fsdp", "accelerator"),
    ("devices", 0, "cpu"),
    ("devices", "many", "int > 0"),
    ("num_nodes", 0, "positive integer"),
    ("precision", "16-mixed", "use 32-true"),
    ("precision", "quarter", "32-true"),
    ("logger", "CSVLoger", "did you mean 'CSVLogger'?"),
    ("callbacks", "Exprot", "did you mean 'Export'?"),
    ("fast_dev_run", -1, ">= 0"),
    ("max_epochs", -1, "1 + the number of RECE epochs"),
    ("min_epochs", -1, "0 or more"),
    ("min_epochs", 3, "raise max_epochs"),
    ("max_steps", -5, "non-negative"),
    ("min_steps", -1, "0 or more"),
    ("min_steps", 5, "raise max_epochs"),
    ("max_time", "soon", "DD:HH:MM:SS"),
    ("max_time", {"parsecs": 1}, "parsecs"),
    ("limit_train_batches", -1, "[0.0, 1.0]"),
    ("limit_val_batches", 1.5, "[0.0, 1.0]"),
    ("limit_test_batches", -1, "[0.0, 1.0]"),
    ("limit_predict_batches", -1, "[0.0, 1.0]"),
    ("overfit_batches", -1, "[0.0, 1.0]"),
    ("val_check_interval", 0, "1 or more"),
    ("val_check_interval", "often", "DD:HH:MM:SS"),
    ("check_val_every_n_epoch", 0, "1 or more"),
    ("num_sanity_val_steps", -2, "-1 or more"),
    ("log_every_n_steps", -1, "0 or more"),
    ("enable_checkpointing", "maybe", "true or false"),
    ("enable_progress_bar", "maybe", "true or false"),
    ("enable_model_summary", "maybe", "true or false"),
    ("accumulate_grad_batches", 4, "leave it out"),
    ("accumulate_grad_batches", 0, "leave it out"),
    ("gradient_clip_val", 1, "leave it out"),
    ("gradient_clip_algorithm", "sharply", "norm"),
    ("deterministic", "maybe", "true or false"),
    ("benchmark", "maybe", "true or false"),
    ("inference_mode", "maybe", "true or false"),
    ("use_distributed_sampler", "maybe", "true or false"),
    ("profiler", "nonsense", "simple"),
    ("profiler", "xla", "simple"),
    ("detect_anomaly", "maybe", "true or false"),
    ("barebones", True, "leave it out"),
    ("plugins", "nonsense", "class path"),
    ("plugins", "DoublePrecision", "use 32-true"),
    ("sync_batchnorm", "maybe", "true or false"),
    ("reload_dataloaders_every_n_epochs", -1, ">= 0"),
    ("default_root_dir", "s3://bucket/runs", "no folder of this machine"),
    ("enable_autolog_hparams", "maybe", "true or false"),
]
"""Option, a value that cannot be, and what the message says."""
RIGHT: list[dict[str, Any]] = [
    {
        "accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1, "precision": 32, "min_epochs": 1,
        "max_steps": -1, "min_steps": 1, "max_time": "00:01:00:00", "limit_train_batches": 1.0, "limit_val_batches": 1,
        "limit_test_batches": 0.5, "limit_predict_batches": 1, "overfit_batches": 0.0, "val_check_interval": 10,
        "check_val_every_n_epoch": 2, "num_sanity_val_steps": 2, "log_every_n_steps": 1, "enable_checkpointing": True,
        "enable_model_summary": True, "accumulate_grad_batches": 1, "gradient_clip_val": 0,
        "gradient_clip_algorithm": "norm", "deterministic": True, "benchmark": False, "inference_mode": False,
        "use_distributed_sampler": False, "detect_anomaly": True, "plugins": "AsyncCheckpointIO",
        "sync_batchnorm": True, "reload_dataloaders_every_n_epochs": 1, "enable_autolog_hparams": False,
        "model_registry": "any", "fast_dev_run": False, "profiler": "simple", "default_root_dir": "own",
    },
    {"val_check_interval": "00:00:01:00", "enable_progress_bar": True, "callbacks": "Timer", "logger": True},
]  # fmt: skip


def test_every_option_is_tried() -> None:
    tried = {option for option, _, _ in WRONG} | {option for options in RIGHT for option in options}
    assert set(inspect.signature(Trainer).parameters) - tried == set()


@pytest.mark.parametrize(("option", "value", "says"), WRONG, ids=[f"{option}={value}" for option, value, _ in WRONG])
def test_a_wrong_value_is_one_sentence(fit: Fit, option: str, value: Any, says: str) -> None:
    message = fit(f"--trainer.{option}", yaml.safe_dump(value, default_flow_style=True).strip(" .\n"), code=2).err
    assert f"error: trainer.{option}: " in message
    assert says in message
    assert str(next(iter(value)) if isinstance(value, dict) else value) in message


@pytest.mark.parametrize("options", RIGHT, ids=["all", "others"])
def test_a_right_value_changes_no_weight(fit: Fit, tmp_path: Path, options: dict[str, Any]) -> None:
    fit(trainer={"default_root_dir": "plain"})
    fit(trainer=options)
    place = tmp_path / options.get("default_root_dir", "runs/run")
    plain = load_file(tmp_path / "plain/version_0/edited.safetensors")
    edited = load_file(place / "version_0/edited.safetensors")
    assert all(torch.equal(weight, edited[name]) for name, weight in plain.items())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("GradientAccumulationScheduler", {"scheduling": {0: 2}}),
        ("LearningRateFinder", {}),
        ("BatchSizeFinder", {}),
        ("BackboneFinetuning", {}),
    ],
)
def test_a_callback_that_needs_gradients_is_refused_by_name(fit: Fit, name: str, arguments: dict[str, Any]) -> None:
    message = fit(trainer={"callbacks": [{"class_path": name, "init_args": arguments}]}, code=2).err
    assert f"trainer.callbacks: {name}" in message
    assert "leave it out" in message


def test_what_lightning_finds_out_in_the_run_is_one_sentence_too(fit: Fit) -> None:
    early = {"class_path": "EarlyStopping", "init_args": {"monitor": "nothing_such"}}
    message = fit(trainer={"callbacks": [early]}, code=2).err
    assert "nothing_such" in message
    assert "regeneration_residual" in message


def test_a_mistake_of_a_users_own_callback_keeps_its_traceback(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_callback.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Broken(Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        raise ValueError('of its own')\n"
    )
    with pytest.raises(ValueError, match="of its own"):
        fit(trainer={"callbacks": [{"class_path": "broken_callback.Broken"}]})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"check_val_every_n_epoch": 0}, r"trainer\.check_val_every_n_epoch: 0; give 1 or more"),
        ({"log_every_n_steps": -1}, r"trainer\.log_every_n_steps: -1; give 0 or more"),
        ({"min_epochs": 3}, r"trainer\.min_epochs: 3 is more than trainer\.max_epochs, 2"),
    ],
)
def test_a_trainer_made_in_python(tiny_model: Path, options: dict[str, Any], says: str) -> None:
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options
    )
    with pytest.raises(ConfigurationError, match=says):
        trainer.fit(RECE(str(tiny_model), tune="off"), ConceptData(["bomb"]))


# What a user asked to be told


def test_profiles_and_verbose_callbacks_speak(tmp_path: Path, tiny_model: Path) -> None:
    """In a process of its own: Python's logging keeps the stream that it found first."""
    verbose = {"monitor": "map_change", "mode": "max", "verbose": True}
    callbacks = [{"class_path": name, "init_args": verbose} for name in ("EarlyStopping", "ModelCheckpoint")]
    path = write_config(tmp_path, tiny_model, trainer={"profiler": "simple", "callbacks": callbacks})
    done = subprocess.run(
        [sys.executable, "-m", "rece_lightning", "fit", "--config", path],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for words in ("FIT Profiler Report", "run_training_epoch", "Metric map_change improved", "'map_change' reached"):
        assert words in done.stderr
    assert "max_epochs" not in done.stderr  # what nobody asked for


# Names of classes


def test_detectors_and_metrics_go_by_their_names(fit: Fit) -> None:
    metrics = ["PerceptualDistance", {"class_path": "ClipScore", "init_args": {"clip": {"class_path": "Clip"}}}]
    evaluation = {"detector": {"class_path": "EmojiDetector"}, "metrics": metrics}
    attack = {"class_path": "Mma", "init_args": {"tokens": 2, "steps": 1}}
    red_team = {"detector": "EmojiDetector", "attacks": [attack], "fit": False}
    fit(
        trainer={
            "callbacks": [
                {"class_path": "Evaluation", "init_args": evaluation},
                {"class_path": "RedTeam", "init_args": red_team},
            ]
        }
    )


@pytest.mark.parametrize(
    ("callback", "field", "given", "near"),
    [
        ("Evaluation", "detector", "EmojiDetecter", "EmojiDetector"),
        ("Evaluation", "metrics", ["ClipScores"], "ClipScore"),
        ("RedTeam", "detector", "ZeroShots", "ZeroShot"),
        ("RedTeam", "attacks", [{"class_path": "Mmaa"}], "Mma"),
    ],
)
def test_a_misspelt_name_names_the_nearest(fit: Fit, callback: str, field: str, given: Any, near: str) -> None:
    entry = {"class_path": callback, "init_args": {field: given}}
    message = fit(trainer={"callbacks": [entry]}, code=2).err
    assert f"{callback}.{field}: unknown class" in message
    assert f"did you mean '{near}'?" in message


def test_the_names_that_messages_list_are_all_there_are() -> None:
    def kinds(kind: type[Any]) -> set[str]:
        return {kind.__name__}.union(*(kinds(one) for one in kind.__subclasses__()))

    from rece_lightning import metrics
    from rece_lightning.metrics import PictureMetric

    ours = {name for name in kinds(ConceptDetector) if hasattr(metrics, name)}
    assert ours - {"ConceptDetector"} == set(DETECTORS)
    measured = {name for name in metrics.__all__ if hasattr(getattr(metrics, name), "take_reference")}
    measured.discard(PictureMetric.__name__)
    assert measured == set(METRICS)
    assert set(CLASSES["RedTeam.attacks"]) >= {"mma", "Mma"}


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        ({"logger": "CSVLogger"}, "CSVLogger.save_dir: not given or null, and required; set it in the YAML or with "
         "--trainer.logger.save_dir."),
        ({"callbacks": [{"class_path": "Evaluation", "init_args": {"metrics": [
            {"class_path": "FrechetDistance", "init_args": {"features": "InceptionFeatures"}}]}}]},
         "InceptionFeatures.weights: not given or null, and required; set it in the YAML in the init_args of "
         "InceptionFeatures."),
        ({"callbacks": [{"class_path": "Evaluation", "init_args": {"metrics": [
            {"class_path": "FrechetDistance", "init_args": {"seeds": "many"}}]}}]},
         "FrechetDistance.seeds: 'many' cannot be used; give a whole number"),
    ],
)  # fmt: skip
def test_an_argument_of_a_class_within_a_class(fit: Fit, trainer: dict[str, Any], says: str) -> None:
    assert says in fit(trainer=trainer, code=2).err


def test_a_logger_whose_package_is_not_installed_says_which(fit: Fit) -> None:
    name, package = next(
        (pair for pair in (("CometLogger", "comet_ml"), ("WandbLogger", "wandb")) if not installed(pair[1])),
        ("", ""),
    )
    if not name:
        pytest.skip("both are installed")
    assert f"error: {name}: Requirement '{package.split('_')[0]}" in fit("--trainer.logger", name, code=2).err


def installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None
