"""``model.variant`` where only some parts of a folder have it: read, drawn with and exported as diffusers loads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from rece_lightning import BaseModelError, load_pipeline
from rece_lightning.exports import export
from rece_lightning.models.find import find_base
from tests.helpers.erasures import edited_exactly, erase

NAMES = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(params=["unet", "text_encoder"])
def mixed(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[Path, str]:
    """A folder where one part is there in float16 alone, under the variant's name."""
    folder = shutil.copytree(tiny_model, tmp_path / "mixed")
    file = folder / request.param / f"{NAMES[request.param]}.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(half, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
    file.unlink()
    return folder, request.param


def test_the_others_are_loaded_without_it(mixed: tuple[Path, str]) -> None:
    folder, part = mixed
    base = find_base(str(folder), variant="fp16")
    read = {"unet": base.weights, "text_encoder": base.text[0]}
    for name, weights in read.items():
        assert ("fp16" in Path(weights.where).name) == (name == part)
        assert set(weights.dtypes().values()) == {"float16" if name == part else "float32"}
    ours = load_pipeline(str(folder), variant="fp16")
    theirs = DiffusionPipeline.from_pretrained(folder, variant="fp16", safety_checker=None)
    for name in NAMES:
        wanted = getattr(theirs, name).state_dict()
        for key, tensor in getattr(ours, name).state_dict().items():
            assert torch.equal(tensor, wanted[key].float())


def test_an_export_loads_as_its_base_does(mixed: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = mixed
    erasure = erase(folder, variant="fp16").erasure()
    written = export(erasure, "pipeline", tmp_path / "edited").path
    unet = DiffusionPipeline.from_pretrained(written, variant="fp16").unet.state_dict()
    for name, weight in edited_exactly(erasure).items():
        assert torch.allclose(unet[name].double(), weight, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("variant", [None, "ema"])
def test_a_variant_that_no_part_has_is_refused(mixed: tuple[Path, str], variant: str | None) -> None:
    folder, part = mixed
    with pytest.raises(BaseModelError, match=r"has no .*\.safetensors; it holds .*: set model\.variant") as caught:
        find_base(str(folder), variant=variant)
    if variant is None:
        assert f"/{part} has no {NAMES[part]}.safetensors; it holds {NAMES[part]}.fp16" in str(caught.value)
