"""A whole run on a model that the project never saw equals the plain formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lightning.pytorch import Trainer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.callbacks import Export
from rece_lightning.core import UCE, Derivation, TensorUCE
from tests.helpers.models import make_checkpoint
from tests.helpers.plain import PlainPair, plain_rece

CONCEPTS: list[Any] = [
    "bomb",
    {"prompt": "a water pistol", "target": "toy", "weight": 2.5},
    {"prompt": "twemoji", "target": "art", "templates": ["{} style", "painting by {}"], "weight": 0.5},
]
PRESERVED = [" ", "rocket", "a photo of a dog on a blue background"]
# What the concepts above amount to, written out.
PAIRS = [
    ("bomb", " ", 1.0),
    ("a water pistol", "toy", 2.5),
    ("twemoji style", "art style", 0.5),
    ("painting by twemoji", "painting by art", 0.5),
]
NEAR = 1e-4
"""Of the weights, which the edit changes by half their norm and more. The prompts are encoded in other batches here: on
some processors a text encoder then differs in its last digits of float32, and the loop makes a hundred times as much of
it. The formulas themselves are compared in ``core/test_against_plain.py``."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "float32", seed=3)


@pytest.fixture(scope="module")
def half_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "half", seed=4, dtype=torch.float16)


def fit(folder: Path, output: Path, epochs: int, method: Method = Method()) -> RECE:  # noqa: B008  frozen
    """One run in Python, as a user's own Trainer does it."""
    module = RECE(pretrained=str(folder), method=method)
    data = ConceptData(concepts=CONCEPTS, preserve=PRESERVED, batch_size=2)
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=output,
        callbacks=[Export()],
    )
    trainer.fit(module, data)
    return module


def plain_pairs(folder: Path, rule: str) -> tuple[list[PlainPair], Tensor]:
    """The prompts' rows by diffusers' own encoding, the positions picked by counting tokens."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.text_encoder.float()

    def encode(prompt: str) -> tuple[Tensor, int]:
        rows = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)[0][0].detach()
        return rows, len(pipeline.tokenizer(prompt)["input_ids"]) - 2

    pairs = []
    for prompt, target, weight in PAIRS:
        (rows, last), (target_rows, target_last) = encode(prompt), encode(target)
        if rule == "end":
            last, target_last = last + 1, target_last + 1
        if rule in ("aligned", "end"):
            picked, anchors = rows[last:], target_rows[target_last:]
            shorter = min(len(picked), len(anchors))
            picked, anchors = picked[:shorter], anchors[:shorter]
        elif rule == "last":
            picked, anchors = rows[last][None], target_rows[target_last][None]
        else:
            picked, anchors = rows, target_rows
        pairs.append(PlainPair(picked, anchors, rows, target_rows, weight))
    return pairs, torch.cat([encode(prompt)[0] for prompt in PRESERVED])


def original_weights(folder: Path) -> dict[str, Tensor]:
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return {name: weight for name, weight in state.items() if "attn2.to_k" in name or "attn2.to_v" in name}


@pytest.mark.parametrize("rule", ["aligned", "last", "end", "all"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_edited_file_equals_the_plain_formulas(checkpoint: Path, tmp_path: Path, rule: str, epochs: int) -> None:
    fit(checkpoint, tmp_path, epochs, Method(tokens=rule))
    edited = load_file(tmp_path / "edited.safetensors")
    original = original_weights(checkpoint)
    pairs, preserved = plain_pairs(checkpoint, rule)
    wanted = plain_rece(list(original.values()), pairs, preserved, epochs)
    assert list(edited) == sorted(original)
    for name, weight in zip(original, wanted, strict=True):
        assert edited[name].dtype == torch.float32
        assert float((edited[name] - weight).norm() / weight.norm()) < NEAR, name


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Method(accumulate=True, derivation=Derivation(1e-2)), {"accumulate": True, "regular_scale": 1e-2}),
        (
            Method(first_editor=UCE(preserve_scale=1.0, lamb=0.5), derivation=Derivation(regularizer="standard")),
            {"regularizer": "standard", "first_edit": {"preserve_scale": 1.0, "lamb": 0.5}},
        ),
        (
            Method(derivation=Derivation(regularizer="surrogate", surrogate_items="second")),
            {"regularizer": "surrogate", "surrogate_items": "second"},
        ),
        (Method(editor=TensorUCE()), {"technique": "tensor"}),
    ],
    ids=["accumulate", "standard and first_editor", "surrogate", "tensor"],
)
def test_every_setting_reaches_the_file(
    checkpoint: Path, tmp_path: Path, method: Method, settings: dict[str, Any]
) -> None:
    fit(checkpoint, tmp_path, 3, method)
    edited = load_file(tmp_path / "edited.safetensors")
    original = original_weights(checkpoint)
    pairs, preserved = plain_pairs(checkpoint, "aligned")
    wanted = plain_rece(list(original.values()), pairs, preserved, 3, **settings)
    for name, weight in zip(original, wanted, strict=True):
        assert float((edited[name] - weight).norm() / weight.norm()) < NEAR, name


def test_half_precision_is_the_float64_result_rounded_once(half_checkpoint: Path, tmp_path: Path) -> None:
    fit(half_checkpoint, tmp_path, 3)
    edited = load_file(tmp_path / "edited.safetensors")
    original = original_weights(half_checkpoint)
    pairs, preserved = plain_pairs(half_checkpoint, "aligned")
    wanted = plain_rece(list(original.values()), pairs, preserved, 3)
    for name, weight in zip(original, wanted, strict=True):
        assert edited[name].dtype == torch.float16
        # A value that lies between two halves to within the encoder's own rounding may go either way.
        assert float((edited[name] == weight.half()).float().mean()) > 0.95, name
        torch.testing.assert_close(edited[name], weight.half(), rtol=1.1e-3, atol=NEAR * float(weight.abs().max()))


@pytest.mark.parametrize(("choice", "ending"), [("k", "to_k.weight"), ("v", "to_v.weight")])
def test_only_the_chosen_projections_are_in_the_file(
    checkpoint: Path, tmp_path: Path, choice: str, ending: str
) -> None:
    fit(checkpoint, tmp_path, 2, Method(projections=choice, layers=r"^up_blocks"))
    edited = load_file(tmp_path / "edited.safetensors")
    assert edited
    assert all(name.startswith("up_blocks") and name.endswith(ending) for name in edited)


def test_pipeline_holds_the_edited_weights_and_all_others(checkpoint: Path, tmp_path: Path) -> None:
    module = fit(checkpoint, tmp_path, 3)
    edited = load_file(tmp_path / "edited.safetensors")
    original = load_file(checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    state = module.pipeline().unet.state_dict()
    assert set(state) == set(original)
    for name, weight in state.items():
        assert torch.equal(weight, edited.get(name, original[name])), name


def test_file_says_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    fit(checkpoint, tmp_path, 2)
    with safe_open(tmp_path / "edited.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["rece.base"] == checkpoint.name  # its place on this disk is nobody's business
    assert "painting by twemoji" in metadata["rece.concepts"]
    assert '"lamb": 0.1' in metadata["rece.method"]
    assert metadata["rece.epochs"] == "2"


def test_same_seed_gives_the_same_bits(checkpoint: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        fit(checkpoint, tmp_path / run, 3)
    first, second = (load_file(tmp_path / run / "edited.safetensors") for run in ("a", "b"))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
