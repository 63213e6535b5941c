"""Checkpoints that the tests make: Stable Diffusion's layout and shapes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase

from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.training.tokenizer import train_tokenizer


def text_config(tokenizer: PreTrainedTokenizerBase, width: int, *, projection: int) -> CLIPTextConfig:
    """Of a small text encoder with this tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=48,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_checkpoint(
    folder: Path, *, width: int = 24, seed: int = 0, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> Path:
    """Write a small random model in the layout of Stable Diffusion 1.x."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(load_catalog(), folder.parent / f"{folder.name}-tokenizer")
    text_encoder = CLIPTextModel(text_config(tokenizer, width, projection=width))
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=8,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.to(dtype),
        text_encoder=text_encoder.to(dtype),
        tokenizer=tokenizer,
        unet=unet.to(dtype),
        scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, variant=variant)
    return folder
