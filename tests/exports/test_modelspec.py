"""``modelspec.…`` and ``ss_…``: what the loaders of WebUIs tell a file by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from rece_lightning.exports import Erasure, export
from rece_lightning.exports.modelspec import kohya_metadata, modelspec
from rece_lightning.models.base import BaseModel
from rece_lightning.models.layouts import LAYOUTS, config_folder

KINDS = {
    "sd1": ("stable-diffusion-v1", "512x512", "epsilon", "sd_v1", "False"),
    "sd1-inpainting": ("stable-diffusion-v1-inpainting", "512x512", "epsilon", "sd_v1", "False"),
    "sd2": ("stable-diffusion-v2-768-v", "768x768", "v", "sd_v2_v", "True"),
    "sd2-base": ("stable-diffusion-v2-512", "512x512", "epsilon", "sd_v2", "True"),
    "sd2-inpainting": ("stable-diffusion-v2-inpainting", "512x512", "epsilon", "sd_v2", "True"),
    "sdxl": ("stable-diffusion-xl-v1-base", "1024x1024", "epsilon", "sdxl_base_v1-0", "False"),
    "sdxl-inpainting": (None, None, None, "sdxl_base_v1-0", "False"),
}
"""Layout → the standard's name, its pictures, what it predicts; sd-scripts' version and ``ss_v2``."""


def base_of(kind: str, plain: BaseModel) -> BaseModel:
    """A base model with the configurations of a published one."""
    return replace(plain, family=LAYOUTS[kind].family, config=config_folder(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_published_model_is_told(kind: str, tiny: Erasure) -> None:
    base = base_of(kind, tiny.base)
    said = modelspec(base, "erased", ["bomb", "axe"], {"rece.date": "2026-01-02T03:04:05+00:00"})
    architecture, resolution, prediction, version, second = KINDS[kind]
    assert said.get("modelspec.architecture") == architecture
    assert said.get("modelspec.resolution") == resolution
    assert said.get("modelspec.prediction_type") == prediction
    if architecture is not None:
        assert said["modelspec.sai_model_spec"] == "1.0.0"
        assert said["modelspec.title"] == "erased"
        assert said["modelspec.date"] == "2026-01-02T03:04:05+00:00"
        assert "bomb, axe" in said["modelspec.description"]
    scripts = kohya_metadata(base, "erased", 4)
    assert (scripts["ss_base_model_version"], scripts["ss_v2"]) == (version, second)


@pytest.mark.parametrize(
    ("kind", "architecture", "implementation"),
    [
        ("sd1", "stable-diffusion-v1/lora", "diffusers"),
        ("sd1-inpainting", "stable-diffusion-v1/lora", "diffusers"),
        ("sd2", "stable-diffusion-v2-768-v/lora", "diffusers"),
        ("sdxl", "stable-diffusion-xl-v1-base/lora", "https://github.com/Stability-AI/generative-models"),
        ("sdxl-inpainting", "stable-diffusion-xl-v1-base/lora", "https://github.com/Stability-AI/generative-models"),
    ],
)
def test_a_lora_fits_the_plain_model_of_its_kind(
    kind: str, architecture: str, implementation: str, tiny: Erasure
) -> None:
    """Forge compares the whole name: anything else is a LoRA of no known kind to it."""
    said = modelspec(base_of(kind, tiny.base), "erased", ["bomb"], {}, adapter=True)
    assert said["modelspec.architecture"] == architecture
    assert said["modelspec.implementation"] == implementation


@pytest.mark.parametrize(("family", "version"), [("sd1", "sd_v1_v"), ("sd2", "sd_v2_v"), ("sdxl", "sdxl_base_v1-0")])
def test_what_predicts_v_is_told_in_every_family(family: str, version: str, tiny: Erasure, tmp_path: Path) -> None:
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    scheduler.write_text(json.dumps({"prediction_type": "v_prediction"}))
    base = replace(tiny.base, family=family, config=tmp_path)
    assert kohya_metadata(base, "x", 4)["ss_base_model_version"] == version
    said = modelspec(base, "x", [], {})
    assert said["modelspec.prediction_type"] == "v"
    # Nothing is made up: these configurations say no more.
    assert not {"modelspec.resolution", "modelspec.description", "modelspec.date"} & set(said)


def test_files_carry_them(tiny: Erasure, tmp_path: Path) -> None:
    """A LoRA for WebUIs, and a whole checkpoint; other formats are not theirs."""
    for kind, architecture in (
        ("kohya", "stable-diffusion-v1/lora"),
        ("single-file", "stable-diffusion-v1"),
        ("lora", None),
        ("delta", None),
    ):
        record = export(tiny, kind, tmp_path / f"no_bombs_{kind}.safetensors")
        with safe_open(record.path, framework="pt") as file:
            said = file.metadata()
        assert said.get("modelspec.architecture") == architecture
        assert said.get("modelspec.title") == (f"no_bombs_{kind}" if architecture else None)
        assert said.get("modelspec.date") == (said["rece.date"] if architecture else None)
        assert ("ss_v2" in said) == (kind == "kohya")
