"""Folders of every U-Net of Stable Diffusion's kind: opened, erased from by a run, and read back by diffusers."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from rece_lightning import RECE, ConceptData
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.exports import export
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.text import PromptEncoder
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny.unets import POOLED, UNETS, WIDTH, build


@pytest.mark.parametrize("name", UNETS)
def test_a_folder_is_erased_from_and_diffusers_reads_it_back(tmp_path: Path, name: str) -> None:
    build(name).save_pretrained(tmp_path / "base")
    module = RECE(str(tmp_path / "base"))
    fit_quietly(module, ConceptData(["bomb", "axe"], preserve=[" ", "rocket"]), epochs=2)

    export(module.erasure(), "pipeline", tmp_path / "edited")

    read = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "edited", local_files_only=True).unet
    base = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "base", local_files_only=True).unet
    wanted = dict(module.erasure().weights())
    assert wanted
    for key, value in base.named_parameters():
        assert torch.equal(read.get_parameter(key), wanted.get(key, value)), key


@pytest.mark.parametrize("name", ["sd1", "sdxl", "refiner"])
def test_rows_are_those_of_the_pipelines_own_encode_prompt(tmp_path: Path, name: str) -> None:
    pipeline = build(name)
    pipeline.save_pretrained(tmp_path / name)

    encoded = PromptEncoder.of_pipeline(pipeline).encode(["a bomb"])
    read = load_encoder(find_base(str(tmp_path / name))).encode(["a bomb"])

    own = pipeline.encode_prompt("a bomb", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.equal(encoded.embeddings, own[0])
    torch.testing.assert_close(read.embeddings, own[0])
    if name != "sd1":
        assert encoded.pooled is not None
        assert torch.equal(encoded.pooled, own[2])
        torch.testing.assert_close(read.pooled, own[2])


def test_a_refiners_spaces_are_its_second_encoders(tmp_path: Path) -> None:
    build("refiner").save_pretrained(tmp_path / "refiner")

    base = find_base(str(tmp_path / "refiner"))

    assert (base.family, base.encoders) == ("sdxl-refiner", ["text_encoder_2"])
    assert {space.name: space.width for space in base.spaces} == {"text": WIDTH, "pooled": POOLED}


def test_a_refiner_is_no_single_file(tmp_path: Path) -> None:
    build("refiner").save_pretrained(tmp_path / "refiner")
    module = RECE(str(tmp_path / "refiner"))
    fit_quietly(module, ConceptData(["bomb"]))

    with pytest.raises(ConfigurationError, match=r"single-file is not written for Stable Diffusion XL's refiner"):
        export(module.erasure(), "single-file", tmp_path / "file.safetensors")


def test_an_xl_folder_that_lost_its_first_encoder_is_no_refiner(tmp_path: Path) -> None:
    pipeline = build("sdxl")
    pipeline.register_modules(text_encoder=None, tokenizer=None)
    pipeline.save_pretrained(tmp_path / "half")

    with pytest.raises(BaseModelError, match=rf"reads embeddings {2 * WIDTH} wide, the text encoder makes {WIDTH};"):
        find_base(str(tmp_path / "half"))
