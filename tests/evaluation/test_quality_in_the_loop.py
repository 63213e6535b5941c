"""``Evaluation.metrics``: what fit and validate measure on pictures, against plain formulas on the same pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import Tensor

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import Evaluation
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import load_detector
from rece_lightning.evaluation.png import save_pixels, to_pixels
from rece_lightning.evaluation.results.figures import QualityLine, read_quality
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.command import Outcome, run_command, write_config

ROWS: list[Any] = [
    {"prompt": "bomb"},
    {"prompt": "a hatchet", "concept": "axe"},
    {"prompt": "rocket", "kind": "preserved"},
    {"prompt": "church", "kind": "preserved"},
    {"prompt": "guitar", "kind": "preserved"},
]
KEPT = ["rocket", "church", "guitar"]
DATA = {"concepts": ["bomb", "axe"], "preserve": [" ", "key"], "validation": ROWS}
SEEDS, STEPS, GUIDANCE = 2, 2, 4.0
METRICS = ["PerceptualDistance", "ArtistScore", "KernelDistance", "FrechetDistance", "ClipScore"]


def evaluation(*metrics: str, **arguments: Any) -> dict[str, Any]:
    """As a configuration names it."""
    described = [{"class_path": f"rece_lightning.metrics.{name}"} for name in metrics]
    sampling = {"steps": STEPS, "guidance_scale": GUIDANCE, "pictures_per_prompt": SEEDS, "batch_size": 4}
    detector = "rece_lightning.metrics.EmojiDetector"
    arguments = {"detector": detector, "metrics": described, "attack": False, **sampling, **arguments}
    return {"class_path": "Evaluation", "init_args": arguments}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _in_its_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def fitted(home: Path) -> Path:
    """A run of the embedded world with every metric."""
    from rece_lightning.__main__ import main

    trainer = {"callbacks": [evaluation(*METRICS)], "default_root_dir": str(home / "runs/run")}
    config = write_config(home, "emoji", model={"method": {"derivation": {"scale": 1e-3}}}, data=DATA, trainer=trainer)
    main(["fit", "--config", str(config)])
    return home / "runs/run/version_0"


@pytest.fixture
def rece(home: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``validate`` with some metrics; the run is the newest folder."""

    def run(*arguments: str | Path, metrics: list[str] = METRICS, **more: Any) -> Outcome:
        trainer = {"callbacks": [evaluation(*metrics, **more)], "default_root_dir": str(home / "runs/run")}
        config = write_config(
            home, "emoji", model={"method": {"derivation": {"scale": 1e-3}}}, data=DATA, trainer=trainer
        )
        return run_command(capsys, "validate", "--config", config, *arguments)

    return run


def newest(home: Path) -> Path:
    return max((home / "runs/run").iterdir(), key=lambda path: int(path.name.removeprefix("version_")))


# The same pictures, made by diffusers alone


def drawn(weights: Path | None) -> dict[tuple[str, int], Tensor]:
    """Pictures of every prompt and seed, one after the other."""
    from safetensors.torch import load_file

    pipeline = load_pipeline(find_base("emoji"))
    if weights is not None:
        state = pipeline.unet.state_dict()
        pipeline.unet.load_state_dict({**state, **load_file(weights)})
    pictures = {}
    for row in ROWS:
        for seed in range(SEEDS):
            made = pipeline(
                row["prompt"], negative_prompt="", generator=torch.Generator().manual_seed(seed), output_type="pt",
                num_inference_steps=STEPS, guidance_scale=GUIDANCE,
            )  # fmt: skip
            pictures[row["prompt"], seed] = made.images[0].float()
    return pictures


@pytest.fixture(scope="module")
def pictures(fitted: Path) -> tuple[dict[tuple[str, int], Tensor], dict[tuple[str, int], Tensor]]:
    """Of the original and of the edited model."""
    return drawn(None), drawn(fitted / "edited.safetensors")


def features(made: dict[tuple[str, int], Tensor], prompts: list[str]) -> np.ndarray:
    batch = torch.stack([picture for (prompt, _), picture in made.items() if prompt in prompts])
    with torch.no_grad():
        return load_detector().features(batch * 2 - 1).double().numpy()


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.array([1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(first, second, strict=True)])


def discrepancy(first: np.ndarray, second: np.ndarray) -> float:
    """KID's of pictures of the same prompts and seeds, pair by pair, without a picture and its partner."""

    def mean(one: np.ndarray, two: np.ndarray, *, same: bool) -> float:
        pairs = [(i, j) for i in range(len(one)) for j in range(len(two)) if not (same and i == j)]
        return float(np.mean([(one[i] @ two[j] / one.shape[1] + 1) ** 3 for i, j in pairs]))

    inner = mean(first, first, same=True) + mean(second, second, same=True)
    return 1000 * (inner - 2 * mean(first, second, same=True))


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """By singular values: the trace of the root of A·B with A = XᵀX, B = YᵀY is the nuclear norm of X·Yᵀ."""
    one, two = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (first, second))
    cross = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return float(apart + (one**2).sum() + (two**2).sum() - 2 * cross)


def clip_score(made: dict[tuple[str, int], Tensor]) -> float:
    network, tokenizer = load_clip()
    scores = []
    for (prompt, _), picture in made.items():
        if prompt not in KEPT:
            continue
        length = network.config.text_config.max_position_embeddings
        ids = tokenizer([prompt], padding="max_length", max_length=length, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = network(input_ids=ids, pixel_values=picture[None] * 2 - 1)
        scores.append(100 * float(torch.cosine_similarity(output.image_embeds, output.text_embeds)))
    return float(np.mean(scores))


def figure(folder: Path, column: str, metric: str, part: str) -> QualityLine:
    found = [
        line
        for line in read_quality(folder / "quality.csv")
        if (line.column, line.metric, line.figure.part) == (column, metric, part)
    ]
    assert len(found) == 1, (column, metric, part)
    return found[0]


def test_a_fit_measures_what_the_formulas_say(fitted: Path, pictures: tuple[Any, Any]) -> None:
    before, after = pictures
    erased = distances(*(features(made, ["bomb", "a hatchet"]) for made in pictures))
    kept_features = [features(made, KEPT) for made in (after, before)]
    kept = distances(kept_features[1], kept_features[0])
    wanted = {
        ("perceptual_distance", "erased"): erased.mean(),
        ("perceptual_distance", "kept"): kept.mean(),
        ("artist_score", "difference"): erased.mean() - kept.mean(),
        ("kernel_distance", "kept"): discrepancy(*kept_features),
        ("frechet_distance", "kept"): frechet(*kept_features),
        ("clip_score", "kept"): clip_score(after),
    }
    for (metric, part), value in wanted.items():
        line = figure(fitted, "rece", metric, part)
        assert line.figure.value == pytest.approx(value, rel=2e-3), metric
        assert line.reference == ("" if metric == "clip_score" else "the original model")
        assert line.figure.total == {"erased": 4, "kept": 6, "difference": 10}[part]
    # Fewer than six prompts: Student's t over the pictures.
    low, high = figure(fitted, "rece", "perceptual_distance", "kept").figure.interval
    half = 2.5706 * kept.std(ddof=1) / np.sqrt(6)
    assert (low, high) == pytest.approx((kept.mean() - half, kept.mean() + half), rel=5e-3)
    # One distance a seed.
    of_seeds = [discrepancy(*(rows[seed::SEEDS] for rows in kept_features)) for seed in range(SEEDS)]
    spread = figure(fitted, "rece", "kernel_distance", "kept").figure.deviation
    assert spread == pytest.approx(np.std(of_seeds, ddof=1), rel=2e-3)
    # The original differs from itself in nothing that would be worth a line.
    own = [line.metric for line in read_quality(fitted / "quality.csv") if line.column == "original"]
    assert own == ["clip_score"]
    assert figure(fitted, "original", "clip_score", "kept").figure.value == pytest.approx(clip_score(before), rel=2e-3)


def test_the_figures_are_in_every_place(fitted: Path) -> None:
    text = str(figure(fitted, "rece", "frechet_distance", "kept").figure)
    report = (fitted / "report.html").read_text()
    assert text in report
    assert "fid emoji-detector-192 against the original model" in report
    assert "perceptual distance, erased" in report
    with (fitted / "metrics.csv").open(newline="") as stream:
        logged = [row for row in csv.DictReader(stream) if row.get("clip_score_kept/rece")]
    value = figure(fitted, "rece", "clip_score", "kept").figure.value
    assert float(logged[0]["clip_score_kept/rece"]) == pytest.approx(value)
    events = EventAccumulator(str(fitted)).Reload()
    assert "perceptual_distance_kept/uce" in events.Tags()["scalars"]


def test_tensorboard_compares_runs_by_settings_and_final_figures(fitted: Path) -> None:
    events = EventAccumulator(str(fitted)).Reload()
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert start["method.derivation.scale"].number_value == pytest.approx(1e-3)
    assert start["method.editor"].string_value == "UCE"
    assert start["method.editor.lamb"].number_value == pytest.approx(0.1)
    assert start["max_epochs"].number_value == 2
    assert start["concepts"].string_value == '["bomb", "axe"]'
    plugin = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(plugin).experiment
    names = {info.name.tag for info in experiment.metric_infos}
    wanted = {"erased", "kept", "harmonic_mean", "regeneration_residual", "preservation_drift", "clip_score_kept"}
    assert {f"final/{name}" for name in wanted} <= names
    scalars = {name: events.Scalars(name)[-1].value for name in names}
    with (fitted / "evaluation.csv").open(newline="") as stream:
        hits = [row for row in csv.DictReader(stream) if row["column"] == "rece"]
    gone = np.mean([row["detected"] == "1" for row in hits if row["role"] != "kept"])
    stays = np.mean([row["detected"] == "1" for row in hits if row["role"] == "kept"])
    assert scalars["final/erased"] == pytest.approx(gone)
    assert scalars["final/kept"] == pytest.approx(stays)
    terms = (1 - gone) + stays
    assert scalars["final/harmonic_mean"] == pytest.approx(2 * (1 - gone) * stays / terms if terms else 0)


# validate


def test_validate_measures_against_the_original_it_draws(
    rece: Callable[..., Outcome], home: Path, fitted: Path
) -> None:
    outcome = rece("--ckpt_path", fitted)
    assert outcome.code == 0, outcome.err
    folder = newest(home)
    lines = {(line.metric, line.figure.part): line for line in read_quality(folder / "quality.csv")[1:]}
    assert len(lines) == 8
    for (metric, part), line in lines.items():
        was = figure(fitted, "rece", metric, part)
        assert line.figure.value == pytest.approx(was.figure.value, rel=1e-4), metric
        assert line.figure.interval == pytest.approx(was.figure.interval, rel=1e-4, nan_ok=True)
        assert line.rule == was.rule
    with (folder / "evaluation.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    with (fitted / "evaluation.csv").open(newline="") as stream:
        assert found == [row for row in csv.DictReader(stream) if row["column"] in ("original", "rece")]
    assert "clip score, kept" in outcome.out
    with (folder / "metrics.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert float(row["perceptual_distance_kept"]) == pytest.approx(lines["perceptual_distance", "kept"].figure.value)


def test_a_model_that_is_the_original_says_what_cannot_be_measured(rece: Callable[..., Outcome], home: Path) -> None:
    outcome = rece()
    assert outcome.code == 0, outcome.err
    for part in ("not measured: perceptual_distance, artist_score, kernel_distance, frechet_distance", "references"):
        assert part in outcome.err
    assert [line.metric for line in read_quality(newest(home) / "quality.csv")] == ["clip_score"]


@pytest.fixture
def folders(tmp_path: Path, pictures: tuple[Any, Any]) -> tuple[Path, Path]:
    """What ``predict`` would have made of the original and of the edited model."""
    kinds = {row["prompt"]: (row.get("concept", row["prompt"]), row.get("kind", "erased")) for row in ROWS}
    for name, made in zip(("before", "after"), pictures, strict=True):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "index.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "prompt", "concept", "kind", "seed"])
            for number, ((prompt, seed), picture) in enumerate(made.items()):
                save_pixels(to_pixels(picture), tmp_path / name / f"{number}.png", {})
                writer.writerow([f"{number}.png", prompt, *kinds[prompt], seed])
    return tmp_path / "before", tmp_path / "after"


def test_pictures_that_exist_are_compared_with_a_folder(
    rece: Callable[..., Outcome], home: Path, fitted: Path, folders: tuple[Path, Path]
) -> None:
    before, after = folders
    outcome = rece("--images", after)
    assert "--images opens no model" in outcome.err
    outcome = rece("--images", after, references=str(before))
    assert outcome.code == 0, outcome.err
    assert "not measured" not in outcome.err
    for metric, part in (("perceptual_distance", "kept"), ("artist_score", "difference"), ("clip_score", "kept")):
        line, was = figure(newest(home), "rece", metric, part), figure(fitted, "rece", metric, part)
        assert line.figure.value == pytest.approx(was.figure.value, rel=0.02)  # eight bits
    assert line.reference == ""
    assert figure(newest(home), "rece", "kernel_distance", "kept").reference == "the pictures in before"
    # Any pictures: distributions alone can be compared.
    (before / "index.csv").unlink()
    outcome = rece("--images", after, references=str(before), metrics=["PerceptualDistance", "FrechetDistance"])
    assert "not measured: perceptual_distance:" in outcome.err
    line = figure(newest(home), "rece", "frechet_distance", "kept")
    assert (line.reference, line.figure.total) == ("the pictures in before", 6)


def test_a_folder_that_lacks_a_picture_is_refused(rece: Callable[..., Outcome], folders: tuple[Path, Path]) -> None:
    before, _ = folders
    lines = (before / "index.csv").read_text().splitlines()
    (before / "index.csv").write_text("\n".join(lines[:-1]))
    outcome = rece(references=str(before))
    assert outcome.code == 2
    for part in ("Evaluation.references", "'guitar' with seed 1", "rece predict"):
        assert part in outcome.err
    (before / "index.csv").unlink()
    for file in sorted(before.glob("*.png"))[1:]:
        file.unlink()
    assert "holds 1 pictures" in rece(references=str(before)).err
    assert "there is no folder nowhere" in rece(references="nowhere").err


def test_what_is_no_metric_of_pictures_is_refused(rece: Callable[..., Outcome]) -> None:
    named = "[{class_path: torchmetrics.classification.BinaryAccuracy}]"
    outcome = rece("--trainer.callbacks.metrics", named)
    assert outcome.code == 2
    for part in ("Evaluation.metrics", "BinaryAccuracy", "PerceptualDistance"):
        assert part in outcome.err


# Batches


class Sizes(Callback):
    """How many pictures a step of ``validate`` holds."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        self.found.append(len(outputs["pictures"]))


@pytest.mark.parametrize("fails", [False, True])
def test_validate_goes_through_pictures_in_batches_and_leaves_the_data_as_it_was(
    tiny_model: Path, tmp_path: Path, fails: bool
) -> None:
    rows: list[Any] = [
        "bomb",
        {"prompt": "rocket", "kind": "preserved", "guidance_scale": 2.0},
        {"prompt": "axe", "seed": 9},
    ]
    data = ConceptData(concepts=["bomb"], validation=rows, batch_size=64)
    before = list(data.validation)
    own, sizes = Evaluation(pictures_per_prompt=5, steps=1, batch_size=3), Sizes()

    class Fails(Callback):
        def on_validation_batch_start(self, *rest: Any) -> None:
            raise ValueError("on purpose")

    callbacks = [own, sizes, *([Fails()] if fails else [])]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=callbacks, default_root_dir=tmp_path
    )
    if fails:
        with pytest.raises(ValueError, match="on purpose"):
            trainer.validate(RECE(pretrained=str(tiny_model), tune="off"), datamodule=data)
    else:
        trainer.validate(RECE(pretrained=str(tiny_model), tune="off"), datamodule=data)
        assert sizes.found == [3, 3, 3, 2]
        assert own.comparison is not None
        column = own.comparison.columns["rece"]
        assert list(zip(column.rows, column.seeds, strict=True)) == [
            *((0, seed) for seed in range(5)), *((1, seed) for seed in range(5)), (2, 9)
        ]  # fmt: skip
    assert (data.validation, data.batch_size) == (before, 64)


def test_an_adapter_is_measured_against_the_model_without_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A delta gives the figures of the run that it comes from."""
    monkeypatch.chdir(tmp_path)
    callbacks = [evaluation("PerceptualDistance", detector=None)]
    config = write_config(tmp_path, tiny_model, data=DATA, trainer={"callbacks": callbacks})
    assert run_command(capsys, "fit", "--config", config).code == 0
    runs = tmp_path / "runs/run"
    delta = runs / "version_0/edited.safetensors"
    outcome = run_command(capsys, "validate", "--config", config, "--model.adapter", delta)
    assert outcome.code == 0, outcome.err
    for part in ("erased", "kept"):
        was = figure(runs / "version_0", "rece", "perceptual_distance", part).figure.value
        assert figure(runs / "version_1", "rece", "perceptual_distance", part).figure.value == pytest.approx(was, 1e-3)
        assert was > 0
