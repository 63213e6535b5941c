"""Measuring what we did not make: any model, a base with an adapter on it, pictures that exist already."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.evaluation.folders import ExistingPictures
from rece_lightning.models.adapter import open_adapter
from rece_lightning.models.find import find_base
from rece_lightning.models.original.model import sgm_names
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.command import Outcome, run_command, write_config
from tests.helpers.models_original import make_folder

Run = Callable[..., Outcome]
EVALUATION = {"class_path": "Evaluation", "init_args": {"steps": 1, "pictures_per_prompt": 2}}
PROMPTS = ["bomb", {"prompt": "rocket", "kind": "preserved"}]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A verb on the small model, with an Evaluation."""

    def command(verb: str, *arguments: str | Path, code: int = 0, **settings: Any) -> Outcome:
        data = {"concepts": ["bomb"], "validation": PROMPTS, "predict": ["bomb", "rocket"]}
        path = write_config(tmp_path, tiny_model, data=data, trainer={"callbacks": [EVALUATION], **settings})
        outcome = run_command(capsys, verb, "--config", path, *arguments)
        assert outcome.code == code, outcome.out + outcome.err
        assert "Traceback" not in outcome.err
        return outcome

    return command


def pictures(folder: Path) -> Tensor:
    files = sorted(folder.glob("*.png"))
    assert files
    return torch.stack([torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in files])


# A base with an adapter on it


def lora_of(module: nn.Module, targets: tuple[str, ...], rank: int = 2) -> dict[str, tuple[Tensor, Tensor]]:
    """Random factors of every layer whose name ends so."""
    torch.manual_seed(5)
    found = {name: part.weight for name, part in module.named_modules() if name.endswith(targets)}
    assert found
    return {
        name: (
            torch.randn(rank, *weight.shape[1:]) / 10,
            torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2)) / 10,
        )
        for name, weight in found.items()
    }


def weights_of(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    parts = ("unet", "text_encoder", "text_encoder_2")
    modules = {part: getattr(pipeline, part) for part in parts if getattr(pipeline, part, None) is not None}
    return {
        f"{part}.{name.replace('.base_layer', '')}": value.detach().clone()
        for part, module in modules.items()
        for name, value in module.named_parameters()
        if "lora_" not in name
    }


def fused(folder: Path, adapter: Path) -> dict[str, Tensor]:
    """What we make of it."""
    base = find_base(str(folder))
    pipeline = load_pipeline(base)
    encoders = [getattr(pipeline, name) for name in ("text_encoder", "text_encoder_2") if hasattr(pipeline, name)]
    open_adapter(adapter).fuse(pipeline.unet, encoders, base.family)
    return weights_of(pipeline)


def by_diffusers(folder: Path, adapter: Path) -> dict[str, Tensor]:
    """What diffusers makes of it."""
    pipeline = load_pipeline(find_base(str(folder)))
    pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
    pipeline.fuse_lora()
    return weights_of(pipeline)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], base: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5, msg=name)
    assert any(not torch.equal(found[name], base[name]) for name in base)


@pytest.mark.parametrize("names", ["diffusers", "alpha", "old", "kohya"])
def test_a_lora_is_fused_as_diffusers_fuses_it(tiny_model: Path, tmp_path: Path, names: str) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    factors = {("unet", layer): pair for layer, pair in lora_of(pipeline.unet, ("to_k", "to_out.0")).items()}
    text = lora_of(pipeline.text_encoder, ("q_proj", "fc1"))
    text = {layer if layer.startswith("text_model.") else f"text_model.{layer}": pair for layer, pair in text.items()}
    factors |= {("text_encoder", layer): pair for layer, pair in text.items()}
    tensors: dict[str, Tensor] = {}
    metadata = {"format": "pt"}
    for (part, layer), (down, up) in factors.items():
        if names == "kohya":
            prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
            name = prefix + layer.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
        elif names == "old":
            tensors |= {f"{part}.{layer}.lora.down.weight": down, f"{part}.{layer}.lora.up.weight": up}
        else:
            tensors |= {f"{part}.{layer}.lora_A.weight": down, f"{part}.{layer}.lora_B.weight": up}
    if names == "alpha":
        tensors = {name: value for name, value in tensors.items() if name.startswith("unet.")}
        said = {"unet.r": 2, "unet.lora_alpha": 6, "unet.target_modules": ["to_k", "to_out.0"]}
        metadata["lora_adapter_metadata"] = json.dumps(said)
    if names == "old":
        tensors = {name: value for name, value in tensors.items() if name.startswith("unet.")}
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file, metadata)
    assert open_adapter(file).kind == "lora"
    wanted = by_diffusers(tiny_model, file)
    if names == "kohya":
        # With transformers 5 diffusers 0.42 drops kohya's text layers in silence.
        for layer, (down, up) in text.items():
            name = next(name for name in wanted if name.startswith("text_encoder.") and layer[11:] + ".weight" in name)
            wanted[name] = pipeline.text_encoder.get_parameter(name[13:]) + up @ down / 2
    assert_same(fused(tiny_model, file), wanted, weights_of(pipeline))


def test_a_lora_for_sdxl_is_fused_as_diffusers_fuses_it(tmp_path: Path) -> None:
    """kohya's files name SDXL's layers as the original layout does."""
    folder = make_folder(tmp_path / "xl", "sdxl")
    pipeline = load_pipeline(find_base(str(folder)))
    names = sgm_names([name for name, _ in pipeline.unet.named_parameters()])
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in lora_of(pipeline.unet, ("attn2.to_k", "attn2.to_v")).items():
        name = f"lora_unet_{names[f'{layer}.weight']}"
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(4.0)}
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file)
    assert_same(fused(folder, file), by_diffusers(folder, file), weights_of(pipeline))


@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_of_peft_is_fused_as_peft_merges_it(tiny_model: Path, tmp_path: Path, rslora: bool) -> None:
    pipeline = load_pipeline(find_base(str(tiny_model)))
    before = weights_of(pipeline)
    settings = LoraConfig(
        r=4, lora_alpha=6, use_rslora=rslora, target_modules=["to_k", "conv1"], init_lora_weights=False
    )
    adapted = get_peft_model(pipeline.unet, settings)
    adapted.save_pretrained(tmp_path / "peft")
    pipeline.unet = adapted.merge_and_unload()
    assert_same(fused(tiny_model, tmp_path / "peft"), weights_of(pipeline), before)


def test_a_delta_and_a_lora_of_a_run_make_the_pictures_of_the_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit")
    first = tmp_path / "runs/run/version_0"
    lora = tmp_path / "lora.safetensors"
    assert run_command(capsys, "export", "--ckpt_path", first, "--format", "lora", "--output", lora).code == 0
    writer = "[{class_path: PictureWriter, init_args: {steps: 2, folder: %s}}]"
    run("predict", "--ckpt_path", first, "--trainer.callbacks", writer % "checkpoint")
    run("predict", "--model.adapter", first / "edited.safetensors", "--trainer.callbacks", writer % "delta")
    run("predict", "--model.adapter", lora, "--trainer.callbacks", writer % "lora")
    run("predict", "--trainer.callbacks", writer % "base")
    made = {name: pictures(tmp_path / name).int() for name in ("checkpoint", "delta", "lora", "base")}
    for name in ("delta", "lora"):
        assert int((made[name] - made["checkpoint"]).abs().max()) <= 1
    assert not torch.equal(made["base"], made["delta"])
    outcome = run("validate", "--model.adapter", first / "edited.safetensors")
    assert "bomb" in outcome.out


def test_an_adapter_is_for_measuring_alone(run: Run, tmp_path: Path) -> None:
    run("fit")
    delta = tmp_path / "runs/run/version_0/edited.safetensors"
    message = run("fit", "--model.adapter", delta, code=2).err
    assert "model.adapter" in message
    assert "fuse the adapter" in message
    message = run("validate", "--model.adapter", delta, "--ckpt_path", "last", code=2).err
    assert "export --format pipeline" in message
    assert "leave --ckpt_path out" in run("validate", "--images", "made", "--ckpt_path", "last", code=2).err
    assert sorted(path.name for path in (tmp_path / "runs/run").iterdir()) == ["version_0"]
    run("validate", "--model.adapter", "nowhere.safetensors", code=2)


LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a.hada_w1_a": (2, 2)}, "LoHa"),
        ({f"{LAYER}.lora_A.weight": (2, 24)}, "has only down"),
        ({f"{LAYER}.lora_A.weight": (2, 24), f"{LAYER}.lora_B.weight": (16, 3)}, "do not fit"),
        (
            {f"{LAYER}.lora_A.weight": (2, 24), f"{LAYER}.lora_B.weight": (16, 2), "else": (1,)},
            "else is no part of a LoRA",
        ),
        ({"unet.other.to_k.lora_A.weight": (2, 24), "unet.other.to_k.lora_B.weight": (16, 2)}, "another model"),
        ({f"{LAYER}.lora_A.weight": (2, 32), f"{LAYER}.lora_B.weight": (16, 2)}, "made for weights of shape"),
        ({"model.diffusion_model.x.weight": (2, 2)}, "belongs in model.pretrained"),
        ({f"{LAYER}.weight".removeprefix("unet."): (16, 23)}, "made for weights of shape"),
    ],
)
def test_what_cannot_be_fused_exactly_is_refused_and_changes_nothing(
    tiny_model: Path, tmp_path: Path, tensors: dict[str, tuple[int, ...]], says: str
) -> None:
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / "odd.safetensors")
    pipeline = load_pipeline(find_base(str(tiny_model)))
    before = weights_of(pipeline)
    with pytest.raises(BaseModelError, match=says) as caught:
        open_adapter(tmp_path / "odd.safetensors").fuse(pipeline.unet, [pipeline.text_encoder], "sd1")
    assert "model.adapter" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(pipeline).items())


# Any model


def test_a_model_that_nobody_edited_is_measured(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert "bomb" in run("validate", "--model.pretrained", copy).out
    # A configuration without an Evaluation measures too; without prompts it says what to give.
    outcome = run("validate", "--trainer.callbacks", "[]", "--trainer.limit_val_batches", "1")
    assert "bomb" in outcome.out
    assert "data.validation: no prompts" in run("validate", "--data.validation", "[]", code=2).err


# Pictures that exist


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def detections(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "evaluation.csv").open(encoding="utf-8", newline="") as stream:
        return [
            tuple(row[key] for key in ("prompt", "concept", "role", "seed", "detected"))
            for row in csv.DictReader(stream)
        ]


def test_pictures_of_predict_measure_as_their_model_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = {"class_path": "rece_lightning.metrics.EmojiDetector"}
    sampling = {"steps": 4, "guidance_scale": 4.0, "pictures_per_prompt": 2}
    # A guitar is no axe: something that is not detected.
    prompts = [{"prompt": "bomb"}, {"prompt": "guitar", "concept": "axe"}, {"prompt": "rocket", "kind": "preserved"}]
    data = {"concepts": ["bomb", "axe"], "validation": prompts, "predict": prompts}
    evaluation = {"class_path": "Evaluation", "init_args": {"detector": detector, **sampling}}
    path = write_config(tmp_path, "emoji", data=data, trainer={"callbacks": [evaluation]})
    for verb in ("validate", "predict"):
        assert run_command(capsys, verb, "--config", path).code == 0
    # Nothing of a model is opened: there is none.
    config = ["--config", str(path), "--model.pretrained", "nobody/nothing"]
    folder = tmp_path / "runs/run/version_1/pictures"
    outcome = run_command(capsys, "validate", *config, "--images", folder)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs/run/version_2/images/grid.png").is_file()
    found = detections(tmp_path / "runs/run/version_2")
    assert found == detections(tmp_path / "runs/run/version_0")
    assert {row[4] for row in found} == {"0", "1"}
    # Under other names, from elsewhere: a table of one's own.
    (tmp_path / "else").mkdir()
    for number in range(2):
        shutil.copy(folder / f"0000{number}.png", tmp_path / f"else/7_{number}.png")
    own = table(tmp_path / "own.csv", [{"case_number": 7, "prompt": "bomb"}])
    assert run_command(capsys, "validate", *config, "--images", "else", "--prompts", own).code == 0
    assert detections(tmp_path / "runs/run/version_3") == found[:2]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"path": "gone.png", "prompt": "bomb"}], "gone.png is missing"),
        ([{"path": "a.png", "prompt": "bomb"}, {"path": "b.png", "prompt": "bomb"}], "b.png has 6×8 pixels"),
        ([{"path": "text.png", "prompt": "bomb"}], "text.png is missing or no picture"),
        ([{"prompt": "bomb"}], "names no picture"),
        ([{"case_number": 3, "prompt": "bomb"}], "has no 3_0.png"),
    ],
)
def test_pictures_that_cannot_be_measured_are_refused(tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (6, 8)).save(tmp_path / "b.png")
    (tmp_path / "text.png").write_text("no picture")
    table(tmp_path / "index.csv", rows)
    with pytest.raises(ConfigurationError, match=says):
        ExistingPictures(str(tmp_path))


def test_the_flags_belong_to_the_measuring_verbs(run: Run, tmp_path: Path) -> None:
    assert "--images: it is understood by validate and test" in run("fit", "--images", "x", code=2).err
    assert "give images too" in run("validate", "--prompts", "x.csv", code=2).err
    assert "there is no folder nowhere" in run("validate", "--images", "nowhere", code=2).err
    (tmp_path / "made").mkdir()
    assert "there is no made/index.csv" in run("validate", "--images", "made", code=2).err
    assert "no value given" in run("validate", "--images", code=2).err


def test_edited_weights_under_the_names_of_other_projects(tiny_model: Path, tmp_path: Path) -> None:
    """UCE's files hold projections, ESD's old ones a whole U-Net; a prefix does no harm."""
    unet = load_pipeline(find_base(str(tiny_model))).unet
    whole = {f"unet.{name}": value + 1 for name, value in unet.state_dict().items()}
    torch.save(whole, tmp_path / "whole.pt")
    found = fused(tiny_model, tmp_path / "whole.pt")
    assert all(torch.equal(found[name], value) for name, value in whole.items())
