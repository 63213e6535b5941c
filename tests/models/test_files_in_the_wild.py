"""Checkpoint files as they are passed around: with marker tensors, other spellings, and distilled U-Nets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.erasure.erasure import Erasure
from rece_lightning.exports.modelspec import kohya_metadata
from rece_lightning.exports.single_file import write_single_file
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.layouts import LAYOUTS
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.models_original import build_parts, make_original, original_tensors, small_configs

NONE = torch.tensor([])
MEAN, SPREAD = (
    torch.tensor([-1.6, 1.1, 0.0, 2.4])[None, :, None, None],
    torch.tensor([8.4, 5.9, 4.6, 6.1])[None, :, None, None],
)
SCHEDULERS: dict[str, tuple[str, dict[str, Tensor], type, dict[str, Any]]] = {
    "no marker": ("sdxl", {}, EulerDiscreteScheduler, {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}),
    "NoobAI": (
        "sdxl",
        {"v_pred": NONE, "ztsnr": NONE},
        EulerDiscreteScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "v alone": (
        "sdxl",
        {"v_pred": torch.zeros(1)},
        EulerDiscreteScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": False},
    ),
    "v of Stable Diffusion 1": (
        "sd1",
        {"v_pred": NONE, "ztsnr": NONE},
        DDIMScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False},
    ),
    "Playground": (
        "sdxl",
        {"edm_mean": MEAN, "edm_std": SPREAD},
        EDMDPMSolverMultistepScheduler,
        {"prediction_type": "epsilon", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
    ),
    "CosXL": (
        "sdxl",
        {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.25)},
        EDMEulerScheduler,
        {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_min": 0.25, "sigma_max": 120.0},
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_markers_decide_what_the_model_predicts(name: str, tmp_path: Path) -> None:
    kind, markers, scheduler, settings = SCHEDULERS[name]
    file = make_original(tmp_path / "model.safetensors", kind, extra=markers)
    base = find_base(str(file))
    pipeline = load_pipeline(base)
    assert type(pipeline.scheduler) is scheduler
    found = dict(pipeline.scheduler.config)
    assert {key: found[key] for key in settings} == settings
    if name == "Playground":
        assert pipeline.vae.config.latents_mean == pytest.approx(MEAN.flatten().tolist())
        assert pipeline.vae.config.latents_std == pytest.approx(SPREAD.flatten().tolist())
        assert pipeline.vae.config.scaling_factor == 0.5
    # A whole folder says the same.
    pipeline.save_pretrained(tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "model_index.json").read_text())["scheduler"][1] == scheduler.__name__
    # So does a LoRA for WebUIs, as sd-scripts writes it.
    velocity = settings["prediction_type"] == "v_prediction"
    metadata = kohya_metadata(base, "x", 4)
    assert metadata["ss_v_parameterization"] == str(velocity)
    assert metadata["ss_base_model_version"] == ("sdxl_base_v1-0" if kind == "sdxl" else "sd_v1_v")


def test_markers_stay_in_a_file(tmp_path: Path) -> None:
    """What a WebUI reads off the file before the edit it reads off the one after."""
    markers = {"v_pred": NONE, "ztsnr": NONE}
    base = find_base(str(make_original(tmp_path / "model.safetensors", "sdxl", extra=markers)))
    write_single_file(Erasure(base, ()), tmp_path / "written.safetensors", {})
    written = load_file(tmp_path / "written.safetensors")
    assert {name: written[name].shape for name in markers} == {name: NONE.shape for name in markers}


def test_given_configurations_come_before_markers(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    load_pipeline(find_base(str(make_original(tmp_path / "plain.safetensors", "sdxl")))).save_pretrained(folder)
    marked = make_original(tmp_path / "marked.safetensors", "sdxl", extra={"v_pred": NONE})
    given = find_base(str(marked), config=str(folder))
    assert load_pipeline(given).scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize(
    "markers",
    [
        {"edm_mean": torch.zeros(3), "edm_std": torch.ones(3)},
        {"edm_mean": torch.zeros(4), "edm_std": torch.tensor([1.0, 1.0, float("nan"), 1.0])},
        {"edm_vpred.sigma_max": torch.tensor(-1.0)},
    ],
)
def test_markers_that_cannot_be_are_refused(markers: dict[str, Tensor], tmp_path: Path) -> None:
    file = make_original(tmp_path / "model.safetensors", "sdxl", extra=markers)
    with pytest.raises(BaseModelError, match="the marker edm_"):
        find_base(str(file))


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_text_encoders_in_the_other_spelling(kind: str, tmp_path: Path) -> None:
    """Files that newer versions of transformers wrote have no ``text_model.`` in these names."""
    file = make_original(tmp_path / "model.safetensors", kind)
    other = {name.replace(".transformer.text_model.", ".transformer."): one for name, one in load_file(file).items()}
    assert set(other) != set(load_file(file))
    save_file(other, tmp_path / "other.safetensors")
    one, two = (find_base(str(tmp_path / name)) for name in ("model.safetensors", "other.safetensors"))
    rows = [load_encoder(base).encode(["a bomb"]).embeddings for base in (one, two)]
    assert torch.equal(*rows)
    pipelines = [load_pipeline(base) for base in (one, two)]
    for part in ("unet", "vae", "text_encoder", "text_encoder_2")[: len(pipelines[0].components)]:
        if getattr(pipelines[0], part, None) is not None:
            states = [getattr(pipeline, part).state_dict() for pipeline in pipelines]
            assert states[0].keys() == states[1].keys()
            assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


DISTILLED: dict[str, tuple[str, dict[str, Any]]] = {
    "fewer residual blocks (BK-SDM base)": ("sd1", {"layers_per_block": 1}),
    "no middle (BK-SDM small)": ("sd1", {"layers_per_block": 1, "mid_block_type": None}),
    "three resolutions (BK-SDM tiny)": (
        "sd1",
        {
            "layers_per_block": 1,
            "mid_block_type": None,
            "block_out_channels": [32, 64, 64],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        },
    ),
    "a middle without attention": ("sdxl", {"mid_block_type": "UNetMidBlock2D"}),
    "transformers of different depths (SSD-1B)": (
        "sdxl",
        {
            "transformer_layers_per_block": [1, [2, 1], [3, 3]],
            "reverse_transformer_layers_per_block": [[3, 2, 3], [2, 1, 1], 1],
        },
    ),
    "one resolution": (
        "sd2",
        {
            "block_out_channels": [64],
            "attention_head_dim": [1],
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
        },
    ),
}


@pytest.mark.parametrize("name", DISTILLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_file_that_we_write_opens_again(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Every number of a distilled model comes back, under the names that it had."""
    kind, changes = DISTILLED[name]
    configs = small_configs(kind)
    configs["unet"] |= changes
    parts = build_parts(configs)
    tensors = original_tensors(parts, kind)
    save_file({key: one.to(dtype).contiguous() for key, one in tensors.items()}, tmp_path / "model.safetensors")
    base = find_base(str(tmp_path / "model.safetensors"))
    assert set(base.projections) >= {key for key in parts["unet"].state_dict() if "attn2.to_k" in key}
    pipeline = load_pipeline(base, dtype=dtype)
    assert isinstance(pipeline.unet, UNet2DConditionModel)
    assert isinstance(pipeline.vae, AutoencoderKL)
    for part in ("unet", "vae"):
        expected, found = parts[part].state_dict(), getattr(pipeline, part).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], expected[key].to(dtype)) for key in expected)
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, configs["unet"]["cross_attention_dim"])
    if dtype == torch.float32 and LAYOUTS[kind].family != "sdxl":
        with torch.no_grad():
            answers = [unet.eval()(sample, 3, text).sample for unet in (parts["unet"], pipeline.unet)]  # type: ignore[operator]
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_a_file_whose_first_attention_reads_the_text_is_refused(tmp_path: Path) -> None:
    """Stable Diffusion's upscaler: an edit of attn2 alone would leave half of the text."""
    path = make_original(tmp_path / "upscaler.safetensors", "sd1")
    tensors = load_file(path)
    width = next(tensor.shape[1] for name, tensor in tensors.items() if name.endswith("attn2.to_k.weight"))
    firsts = (name for name in tensors if name.startswith("model.") and name.endswith("attn1.to_k.weight"))
    key = next(name for name in firsts if tensors[name].shape[1] != width)
    tensors[key] = torch.zeros(len(tensors[key]), width)
    save_file(tensors, path)

    with pytest.raises(BaseModelError, match=r"attn1 reads the text too.*give the diffusers folder"):
        find_base(str(path))
