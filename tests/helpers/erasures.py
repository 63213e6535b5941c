"""Erasures that the tests export, on small random models and on the embedded world."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.embedding_map import map_of, stored
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.training.tokenizer import train_tokenizer
from rece_lightning.erasure.erasure import ErasedSpace, Erasure
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.fits import fit_quietly
from tests.helpers.models import text_config


def erase(pretrained: str | Path, method: Method | None = None, **model: Any) -> RECE:
    """A module after UCE and one epoch of RECE."""
    module = RECE(str(pretrained), method=method or Method(), **model)
    data = ConceptData(["bomb", {"prompt": "axe", "target": "spoon"}], preserve=[" ", "rocket"])
    fit_quietly(module, data, epochs=2)
    return module


def with_strength(erasure: Erasure, strength: float) -> Erasure:
    """The same erasure with its change multiplied, in every text space."""

    def stronger(one: ErasedSpace) -> ErasedSpace:
        matrix = stored(one.maps)
        eye = torch.eye(one.space.width, dtype=torch.float64)
        return replace(one, maps=map_of(eye + strength * (matrix - eye)))

    return replace(erasure, spaces=tuple(stronger(one) for one in erasure.spaces))


def edited_exactly(erasure: Erasure) -> dict[str, Tensor]:
    """The edited weights in float64, before any rounding: in each space the columns that read it, times its map."""
    weights = original_of(erasure)
    for one in erasure.spaces:
        for layer, (name, reader) in enumerate(one.space.readers.items()):
            first, last = reader.columns or (0, reader.shape[1])
            columns = weights[name][:, first:last] @ one.maps.of_layer(layer)
            weights[name] = torch.cat([weights[name][:, :first], columns, weights[name][:, last:]], dim=1)
    return weights


def text_columns(erasure: Erasure, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of some weights is edited: the columns that read text."""
    readers = {name: reader for one in erasure.spaces for name, reader in one.space.readers.items()}
    return {name: reader.part(weights[name]) for name, reader in readers.items()}


def original_of(erasure: Erasure) -> dict[str, Tensor]:
    """The weights before the edit, in float64."""
    return {name: weight.double() for name, weight in erasure.original()}


def pipeline_of(erasure: Erasure, dtype: torch.dtype = torch.float32) -> Any:
    """The original model as a pipeline."""
    return load_pipeline(erasure.base, dtype=dtype)


def distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Relative Frobenius distance over all of ``others``."""
    difference = sum(float((weights[name].double() - other.double()).square().sum()) for name, other in others.items())
    return math.sqrt(difference / sum(float(other.double().square().sum()) for other in others.values()))


def effective_weights(unet: torch.nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """What the projections of a U-Net with a LoRA amount to, fused or not; plain ones without one."""
    found = {}
    for name in names:
        layer: Any = unet.get_submodule(name.removesuffix(".weight"))
        if hasattr(layer, "base_layer"):
            weight = layer.base_layer.weight.double()
            if not layer.merged:
                for adapter in layer.active_adapters:
                    product = layer.lora_B[adapter].weight.double() @ layer.lora_A[adapter].weight.double()
                    weight = weight + layer.scaling[adapter] * product
            found[name] = weight.detach()
        else:
            found[name] = layer.weight.detach().double()
    return found


@torch.no_grad()
def noise_of(unet: Any, seed: int = 0) -> Tensor:
    """What a U-Net predicts for some latents and embeddings: every layer has its say."""
    random = torch.Generator().manual_seed(seed)
    sample = torch.randn(2, unet.config.in_channels, 8, 8, generator=random)
    embeddings = torch.randn(2, 16, unet.config.cross_attention_dim, generator=random)
    added = {}
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(2, pooled, generator=random), "time_ids": torch.ones(2, 6)}
    dtype = unet.dtype
    added = {key: value.to(dtype) for key, value in added.items()}
    made: Tensor = unet(sample.to(dtype), 5, embeddings.to(dtype), added_cond_kwargs=added).sample
    return made.float()


def rounding_of(erasure: Erasure) -> float:
    """How far float32 takes the original U-Net's noise from float64's: two runs that only round otherwise differ so."""
    single, double = (noise_of(pipeline_of(erasure, dtype).unet) for dtype in (torch.float32, torch.float64))
    return float((single - double).norm())


def make_xl_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write a small random model in the layout of Stable Diffusion XL: two encoders, three blocks, two layers each."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(load_catalog(), folder.parent / f"{folder.name}-tokenizer")

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=24 + 16,
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config(tokenizer, 24, projection=16)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 16, projection=16)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder
