"""What the parts need: exact for weights, counted on tensors without memory for what they need at work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from lightning.pytorch import Trainer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core import Projection, TensorUCE
from rece_lightning.devices.sizes import (
    DRAWING,
    LOADED,
    decoding,
    denoising,
    encoding,
    largest_layer,
    needs_of,
    shard_need,
)
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.layouts import LAYOUTS
from rece_lightning.models.part_configs import read_json
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.erasures import make_xl_checkpoint
from tests.helpers.live_memory import LiveBytes
from tests.helpers.models_original import make_folder, make_original
from tests.helpers.tiny.pipelines import sd3


def bytes_of(*modules: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())


def needs(base: BaseModel, batch_size: int = 2) -> dict[str, Any]:
    return needs_of(base, list(base.projections), batch_size=batch_size)


@pytest.mark.parametrize(
    ("kind", "layout"), [("emoji", "folder"), ("sd1", "single_file"), ("sdxl", "folder"), ("sdxl", "single_file")]
)
def test_sizes_of_weights_are_those_of_the_loaded_parts(kind: str, layout: str, tmp_path: Path) -> None:
    """Read from headers, whatever the layout, in the dtype that the parts are loaded in."""
    if kind == "emoji":
        base = find_base("emoji")
    elif layout == "folder":
        base = find_base(str(make_folder(tmp_path / "model", kind)))
    else:
        base = find_base(str(make_original(tmp_path / "model.safetensors", kind)))
    found, pipeline = needs(base), load_pipeline(base)
    assert found["unet"].weights == bytes_of(pipeline.unet)
    assert found["autoencoder"].weights == bytes_of(pipeline.vae)
    encoder = bytes_of(*(tower for _, tower in load_encoder(base).towers))
    # Some files hold a projection or positions that the encoder does without.
    assert encoder <= found["text_encoder"].weights <= 1.1 * encoder
    assert found["unet"].present == found["autoencoder"].present == DRAWING
    assert found["algebra"].present == ()


def test_what_a_shard_of_the_gram_needs() -> None:
    base = find_base("emoji")
    names = list(base.projections)
    assert largest_layer(base, names) == 8 * max(math.prod(base.projections[name]) for name in names)
    assert shard_need(base, names) == largest_layer(base, names) + 8 * base.width**2


def in_one_piece(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: object) -> torch.Tensor:
    """Attention's result without its scores: what the fused kernels of accelerators and processors hold."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@pytest.mark.parametrize("kind", ["emoji", "sd1"])
def test_what_pictures_need_is_estimated_and_not_too_low(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the real shapes of Stable Diffusion 1.x, on tensors that take no memory."""
    emoji = find_base("emoji")
    if kind == "emoji":
        unet_config, vae_config = (read_json(emoji.path / part / "config.json") for part in ("unet", "vae"))
    else:
        unet_config, vae_config = (LAYOUTS[kind].configs()[part] for part in ("unet", "vae"))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", in_one_piece)
    batch, side = 2, unet_config["sample_size"]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config).eval()
        vae = AutoencoderKL.from_config(vae_config).eval()
        noisy = torch.empty(2 * batch, unet_config["in_channels"], side, side)
        text = torch.empty(2 * batch, 16, unet_config["cross_attention_dim"])
        with torch.no_grad(), LiveBytes() as drawing:
            unet(noisy, torch.empty(()), text)
        with torch.no_grad(), LiveBytes() as decoded:
            vae.decode(torch.empty(batch, vae_config["latent_channels"], side, side))
    found = denoising(unet_config, batch), decoding(unet_config, vae_config, batch)
    assert drawing.peak["meta"] <= found[0] <= 1.5 * drawing.peak["meta"]
    assert decoded.peak["meta"] <= found[1] <= 1.6 * decoded.peak["meta"]


def test_what_a_transformer_needs_is_estimated_and_not_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the shapes of Stable Diffusion 3.5 but for the number of blocks, which come one after another."""
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", in_one_piece)
    config = {
        "sample_size": 128, "patch_size": 2, "num_layers": 3, "num_attention_heads": 24, "attention_head_dim": 64,
        "caption_projection_dim": 1536, "dual_attention_layers": (0, 1), "pos_embed_max_size": 192,
    }  # fmt: skip
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**config).eval()
        with torch.no_grad(), LiveBytes() as live:
            transformer(torch.empty(4, 16, 128, 128), torch.empty(4, 333, 4096), torch.empty(4, 2048), torch.empty(4))
    assert live.peak["meta"] <= denoising(config, 2) <= 1.5 * live.peak["meta"]


@pytest.mark.parametrize(("with_t5", "encoders"), [(True, 3), (False, 2)])
def test_a_family_is_sized_from_what_its_folder_names(with_t5: bool, encoders: int, tmp_path: Path) -> None:
    sd3(with_t5=with_t5).save_pretrained(tmp_path)
    base = find_base(str(tmp_path))
    found, pipeline = needs(base), load_pipeline(base)
    # The file holds the table of places too, which is no parameter.
    places = bytes_of(pipeline.transformer) + LOADED * pipeline.transformer.pos_embed.pos_embed.numel()
    assert found["unet"].weights == places
    assert found["autoencoder"].weights == bytes_of(pipeline.vae)
    parts = [part for name, part in pipeline.components.items() if name.startswith("text_encoder") and part]
    assert len(parts) == encoders
    assert bytes_of(*parts) <= found["text_encoder"].weights <= 1.2 * bytes_of(*parts)
    assert all(need.working > 0 for need in found.values())


@pytest.mark.parametrize("kind", ["emoji", "sd1"])
def test_what_encoding_needs_is_estimated_and_not_too_low(kind: str) -> None:
    config = LAYOUTS["sd1"].configs()["text_encoder"]
    if kind == "emoji":
        config = read_json(find_base("emoji").path / "text_encoder" / "config.json")
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**{key: config[key] for key in keys})).eval()
        ids = torch.zeros(8, config["max_position_embeddings"], dtype=torch.long)
    with torch.no_grad(), LiveBytes() as live:
        encoder(ids, output_hidden_states=True)
    assert live.peak["meta"] <= encoding(config, 8) <= 2 * live.peak["meta"]


@pytest.mark.parametrize(
    ("method", "concepts"),
    [
        (Method(), 4),
        (Method(accumulate=True), 40),
        (Method(editor=Projection()), 4),
        (Method(editor=TensorUCE()), 12),
        (Method(editor=TensorUCE(), accumulate=True), 4),
    ],
    ids=["UCE", "accumulate", "projection", "tensor", "tensor and accumulate"],
)
@pytest.mark.parametrize("kind", ["emoji", "sdxl"])
def test_what_the_algebra_needs_is_estimated_and_not_too_low(
    method: Method, concepts: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted through two epochs with their measurements; XL has a second text space."""
    pretrained = "emoji" if kind == "emoji" else str(make_xl_checkpoint(tmp_path / "model"))
    if kind == "sdxl":
        concepts = min(concepts, 12)  # rows of a batch are not counted, and this model is as narrow as they are many
    words = [f"{word} {number}" for number in range(10) for word in ("bomb", "axe", "key", "dagger")][:concepts]
    module, edit = RECE(pretrained, method=method), RECE._edit
    live = LiveBytes()

    def counted(self: RECE) -> None:
        with live:
            edit(self)

    monkeypatch.setattr(RECE, "_edit", counted)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(concepts=words, preserve=["sun"]))
    apart = concepts if method.editor.per_layer else None
    need = needs_of(module.base, module.session.names, batch_size=1, apart=apart)["algebra"]
    assert live.peak["cpu"] <= need.weights + need.working <= 2 * live.peak["cpu"]
    assert live.now["cpu"] <= need.weights
