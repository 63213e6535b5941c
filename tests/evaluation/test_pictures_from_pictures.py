"""Models that start from a picture: erased like any other, and refused where pictures are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.callbacks import Evaluation
from rece_lightning.devices.placement import Placement
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from tests.helpers.models import make_checkpoint
from tests.helpers.models_original import make_original

PIPELINES = {
    "StableDiffusionInstructPix2PixPipeline": (8, "starts from a picture"),
    "StableDiffusionDepth2ImgPipeline": (5, "starts from a picture"),
    "StableDiffusionImg2ImgPipeline": (4, "starts from a picture"),
    "StableDiffusionUpscalePipeline": (7, "starts from a picture"),
    "AnimateDiffPipeline": (4, "no single picture"),
    # A file or a folder of one of these that says nothing of it.
    "StableDiffusionPipeline": (8, "reads 8 channels"),
}


def model(folder: Path, pipeline: str, channels: int) -> Path:
    """A small folder of a pipeline whose U-Net reads so many channels."""
    make_checkpoint(folder)
    UNet2DConditionModel.from_config(
        {**UNet2DConditionModel.load_config(folder, subfolder="unet"), "in_channels": channels}
    ).save_pretrained(folder / "unet")
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": pipeline}))
    return folder


def fit(folder: Path, **options: Any) -> RECE:
    module = RECE(str(folder), tune="off")
    data = ConceptData(["bomb"], preserve=[" "], validation=options.pop("validation", None))
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data)
    return module


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pictures_are_refused_before_anything_is_loaded(pipeline: str, tmp_path: Path) -> None:
    channels, why = PIPELINES[pipeline]
    base = find_base(str(model(tmp_path / "base", pipeline, channels)))
    encoder = load_encoder(base)
    with pytest.raises(ConfigurationError, match=f"{pipeline} from prompts alone .*{why}.*data.validation"):
        PictureMaker.load(base, encoder, Placement(), torch.device("cpu"))


def test_a_file_of_such_a_model_is_told_by_its_channels(tmp_path: Path) -> None:
    file = make_original(tmp_path / "model.safetensors", "sd1")
    tensors = load_file(file)
    entry = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[entry] = tensors[entry].repeat(1, 2, 1, 1)
    save_file(tensors, file)
    with pytest.raises(ConfigurationError, match="reads 8 channels"):
        PictureMaker.load(find_base(str(file)), None, Placement(), torch.device("cpu"))  # type: ignore[arg-type]


def test_a_fit_with_pictures_says_so_and_one_without_erases(tmp_path: Path) -> None:
    folder = model(tmp_path / "base", "StableDiffusionInstructPix2PixPipeline", 8)
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,concept\na bomb,bomb\n")
    with pytest.raises(ConfigurationError, match="starts from a picture"):
        fit(folder, validation=str(prompts), callbacks=[Evaluation(pictures_per_prompt=1)])
    module = fit(folder)
    assert module.session.change()["weight_change"] > 0
    assert module.pipeline().unet.config.in_channels == 8
