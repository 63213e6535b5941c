"""Tiny random pipelines around U-Nets of Stable Diffusion's kind: published, distilled, a refiner's, a video's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d
import torch

from tests.helpers.tiny import encoders as e
from tests.helpers.tiny import tokenizers as t
from tests.helpers.tiny.pipelines import autoencoder, drawn

WIDTH, POOLED = 16, 24
BOTH = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
ALL = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")


def _unet(width: int, blocks: tuple[tuple[str, ...], tuple[str, ...]] = BOTH, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "sample_size": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": blocks[0],
        "up_block_types": blocks[1],
        "cross_attention_dim": width,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return d.UNet2DConditionModel(**{**settings, **changes})


def _pooled(pooled: int, numbers: int) -> dict[str, Any]:
    """What reads a pooled embedding, with so many sizes and crops behind it."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": pooled + 4 * numbers,
    }


def _sd(unet: Any) -> Any:
    return d.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=e.clip(WIDTH),
        tokenizer=t.clip_tokenizer(),
        unet=unet,
        scheduler=d.DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl(unet: Any) -> Any:
    return d.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=e.clip(WIDTH),
        text_encoder_2=e.clip(WIDTH, POOLED),
        tokenizer=t.clip_tokenizer(),
        tokenizer_2=t.clip_tokenizer(),
        unet=unet,
        scheduler=d.EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def sd1() -> Any:
    """Stable Diffusion 1."""
    return _sd(_unet(WIDTH))


def bk_sdm() -> Any:
    """Distilled: one layer a block on the way up too, no middle (BK-SDM-small, small-sd)."""
    return _sd(_unet(WIDTH, ALL, mid_block_type=None, layers_per_block=1))


def tiny_sd() -> Any:
    """Distilled further: one resolution fewer."""
    blocks = ("CrossAttnDownBlock2D",), ("CrossAttnUpBlock2D",)
    return _sd(_unet(WIDTH, blocks, mid_block_type=None, block_out_channels=(16,)))


def sdxl() -> Any:
    """Stable Diffusion XL: two encoders' rows side by side, the second's pooled embedding."""
    return _xl(_unet(2 * WIDTH, **_pooled(POOLED, 6)))


def ssd_1b() -> Any:
    """Distilled from it: transformers of other depths on the way up, a middle without attention."""
    return _xl(
        _unet(
            2 * WIDTH,
            ALL,
            mid_block_type="UNetMidBlock2D",
            transformer_layers_per_block=[1, 2],
            reverse_transformer_layers_per_block=[[2, 1], [1, 1]],
            **_pooled(POOLED, 6),
        )
    )


def refiner() -> Any:
    """XL's second encoder alone; an aesthetic score in place of the target size."""
    return d.StableDiffusionXLImg2ImgPipeline(
        vae=autoencoder(),
        text_encoder=None,
        text_encoder_2=e.clip(WIDTH, POOLED),
        tokenizer=None,
        tokenizer_2=t.clip_tokenizer(),
        unet=_unet(WIDTH, **_pooled(POOLED, 5)),
        scheduler=d.EulerDiscreteScheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def upscaler() -> Any:
    """Both attentions of a block read the text, where it has cross-attention only."""
    return d.StableDiffusionUpscalePipeline(
        vae=autoencoder(),
        text_encoder=e.clip(WIDTH),
        tokenizer=t.clip_tokenizer(),
        # As wide as the text: the shapes of its first attention are those of one to the picture.
        unet=_unet(WIDTH, in_channels=7, only_cross_attention=(True, False), num_class_embeds=1000),
        low_res_scheduler=d.DDPMScheduler(),
        scheduler=d.DDIMScheduler(clip_sample=False),
        max_noise_level=350,
    )


def animatediff() -> Any:
    """Attention between the frames reads no text."""
    adapter = d.MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
    )
    return d.AnimateDiffPipeline(
        vae=autoencoder(),
        text_encoder=e.clip(WIDTH),
        tokenizer=t.clip_tokenizer(),
        unet=_unet(WIDTH),
        motion_adapter=adapter,
        scheduler=d.DDIMScheduler(clip_sample=False, beta_schedule="linear"),
    )


UNETS: dict[str, Callable[[], Any]] = {
    one.__name__: one for one in (sd1, bk_sdm, tiny_sd, sdxl, ssd_1b, refiner, upscaler, animatediff)
}


def smallest(name: str) -> dict[str, Any]:
    """Arguments of a call that makes the smallest picture."""
    special: dict[str, dict[str, Any]] = {
        "refiner": {"image": torch.zeros(1, 3, 8, 8), "strength": 0.9},
        "upscaler": {"image": torch.zeros(1, 3, 8, 8), "noise_level": 3},
        "animatediff": {"height": 8, "width": 8, "num_frames": 2},
    }
    return special.get(name, {"height": 8, "width": 8})


def build(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A tiny random pipeline; every parameter is drawn, also those that a fresh model has at zero."""
    torch.manual_seed(seed)
    return drawn(UNETS[name](), dtype)
