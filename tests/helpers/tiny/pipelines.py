"""The pipelines: family → a builder of a tiny random one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d
import torch

from tests.helpers.tiny import encoders as e
from tests.helpers.tiny import tokenizers as t


def autoencoder(channels: int = 4, **changes: Any) -> d.AutoencoderKL:
    """A small one: pixels to half the side."""
    return d.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=8,
        **{"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0, **changes},
    )


def _flow() -> d.FlowMatchEulerDiscreteScheduler:
    return d.FlowMatchEulerDiscreteScheduler()


def sd3(*, with_t5: bool = True) -> d.StableDiffusion3Pipeline:
    """Two CLIP towers side by side and T5 behind them; both pooled embeddings."""
    transformer = d.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
    )
    tokenizer = t.clip_tokenizer()
    return d.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.clip(16, 16),
        tokenizer=tokenizer,
        text_encoder_2=e.clip(8, 8),
        tokenizer_2=tokenizer,
        text_encoder_3=e.t5(32) if with_t5 else None,
        tokenizer_3=t.t5_tokenizer() if with_t5 else None,
    )


def flux(*, guidance: bool = True) -> d.FluxPipeline:
    """T5's rows and CLIP's pooled embedding."""
    return d.FluxPipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.clip(16),
        tokenizer=t.clip_tokenizer(),
        text_encoder_2=e.t5(),
        tokenizer_2=t.t5_tokenizer(),
        transformer=d.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=16,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def flux2_klein(width: int = 16) -> d.Flux2KleinPipeline:
    """Three tapped layers of a language model side by side."""
    return d.Flux2KleinPipeline(
        scheduler=_flow(),
        vae=d.AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=8,
        ),
        text_encoder=e.qwen3(head=True, layers=28, width=width),
        tokenizer=t.qwen_tokenizer(),
        transformer=d.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * width,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def chroma() -> d.ChromaPipeline:
    """T5's rows alone."""
    return d.ChromaPipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.t5(),
        tokenizer=t.t5_tokenizer(),
        transformer=d.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )


def qwen_image() -> d.QwenImagePipeline:
    """A template whose rows are dropped, and a norm before the reader."""
    return d.QwenImagePipeline(
        scheduler=_flow(),
        vae=d.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=e.qwen_vl(),
        tokenizer=t.qwen_tokenizer(),
        transformer=d.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def z_image() -> d.ZImagePipeline:
    """A chat template, rows of any number, a norm before the reader."""
    return d.ZImagePipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.qwen3(),
        tokenizer=t.qwen_tokenizer(),
        transformer=d.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 4, 8],
            axes_lens=[1024, 64, 64],
        ),
    )


def lumina2() -> d.Lumina2Pipeline:
    """A system prompt and a norm before the reader."""
    return d.Lumina2Pipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.gemma(),
        tokenizer=t.gemma_tokenizer(),
        transformer=d.Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(300, 64, 64),
            cap_feat_dim=16,
        ),
    )


def auraflow() -> d.AuraFlowPipeline:
    """UMT5's rows, zeros where there is padding."""
    return d.AuraFlowPipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.umt5(),
        tokenizer=t.t5_tokenizer(),
        transformer=d.AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=16,
            pos_embed_max_size=64,
        ),
    )


def cogview4() -> d.CogView4Pipeline:
    """GLM's rows, padded on the left."""
    return d.CogView4Pipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.glm(),
        tokenizer=t.plain_tokenizer(),
        transformer=d.CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=16,
            condition_dim=8,
            pos_embed_max_size=8,
            sample_size=8,
            rope_axes_dim=(8, 8),
        ),
    )


def hidream() -> d.HiDreamImagePipeline:
    """One layer of a language model a block, T5's rows, both pooled embeddings."""
    tokenizer = t.clip_tokenizer()
    pipeline = d.HiDreamImagePipeline(
        scheduler=_flow(),
        vae=autoencoder(),
        text_encoder=e.clip(16, 16, 128),
        tokenizer=tokenizer,
        text_encoder_2=e.clip(8, 8, 128),
        tokenizer_2=tokenizer,
        text_encoder_3=e.t5(16),
        tokenizer_3=t.t5_tokenizer(),
        text_encoder_4=e.llama(head=True),
        tokenizer_4=t.plain_tokenizer(),
        transformer=d.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[16, 16],
            text_emb_dim=24,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(8, 8),
            llama_layers=[1, 2],
        ),
    )
    pipeline.default_sample_size = 8  # it scales whatever is asked for to this
    return pipeline


def _pixart(kind: Any) -> Any:
    return kind(
        tokenizer=t.t5_tokenizer(),
        text_encoder=e.t5(),
        vae=autoencoder(),
        scheduler=d.DPMSolverMultistepScheduler(),
        transformer=d.PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=16,
            sample_size=8,
            caption_channels=24,
            norm_num_groups=4,
            use_additional_conditions=False,
        ),
    )


def pixart_alpha() -> d.PixArtAlphaPipeline:
    """Keys and values behind a projector."""
    return _pixart(d.PixArtAlphaPipeline)


def pixart_sigma() -> d.PixArtSigmaPipeline:
    """The same with longer texts."""
    return _pixart(d.PixArtSigmaPipeline)


def sana() -> d.SanaPipeline:
    """Instructions before the prompt, a projector and a norm before keys and values."""
    return d.SanaPipeline(
        tokenizer=t.gemma_tokenizer(),
        text_encoder=e.gemma(),
        vae=d.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
        ),
        scheduler=_flow(),
        transformer=d.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
        ),
    )


def cascade_prior() -> d.StableCascadePriorPipeline:
    """Stable Cascade's first stage: rows and pooled embedding."""
    return d.StableCascadePriorPipeline(
        tokenizer=t.clip_tokenizer(),
        text_encoder=e.clip(16, 16),
        scheduler=d.DDPMWuerstchenScheduler(),
        prior=d.StableCascadeUNet(
            conditioning_dim=16,
            block_out_channels=(16, 16),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            clip_image_in_channels=8,
            clip_text_in_channels=16,
            clip_text_pooled_in_channels=16,
            in_channels=4,
            out_channels=4,
        ),
    )


def cascade_decoder() -> d.StableCascadeDecoderPipeline:
    """Its second stage: the pooled embedding alone."""
    return d.StableCascadeDecoderPipeline(
        tokenizer=t.clip_tokenizer(),
        text_encoder=e.clip(16, 16),
        scheduler=d.DDPMWuerstchenScheduler(),
        vqgan=d.PaellaVQModel(levels=1, num_vq_embeddings=16, latent_channels=4, embed_dim=8)
        if hasattr(d, "PaellaVQModel")
        else _paella(),
        decoder=d.StableCascadeUNet(
            conditioning_dim=16,
            block_out_channels=(16, 16),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            clip_text_pooled_in_channels=16,
            effnet_in_channels=4,
            in_channels=4,
            out_channels=4,
        ),
        latent_dim_scale=4.0,
    )


def _paella() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

    return PaellaVQModel(levels=1, bottleneck_blocks=1, num_vq_embeddings=16, latent_channels=4, embed_dim=8)


def wan(*, two: bool = True) -> d.WanPipeline:
    """Two denoisers, one for high noise and one for low; keys and values behind a projector."""

    def transformer() -> d.WanTransformer3DModel:
        return d.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_dim=24,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
        )

    return d.WanPipeline(
        tokenizer=t.t5_tokenizer(),
        text_encoder=e.umt5(),
        vae=d.AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        scheduler=_flow(),
        transformer=transformer(),
        transformer_2=transformer() if two else None,
        boundary_ratio=0.5 if two else None,
    )


def ltx() -> d.LTXPipeline:
    """Keys and values behind a projector."""
    return d.LTXPipeline(
        scheduler=_flow(),
        vae=d.AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            patch_size=1,
            patch_size_t=1,
        ),
        text_encoder=e.t5(),
        tokenizer=t.t5_tokenizer(),
        transformer=d.LTXVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=2,
            caption_channels=24,
        ),
    )


def cogvideox() -> d.CogVideoXPipeline:
    """T5's rows."""
    return d.CogVideoXPipeline(
        tokenizer=t.t5_tokenizer(),
        text_encoder=e.t5(),
        vae=d.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 2,
            up_block_types=("CogVideoXUpBlock3D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
            temporal_compression_ratio=2,
            sample_height=8,
            sample_width=8,
        ),
        transformer=d.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=24,
            num_layers=2,
            sample_width=4,
            sample_height=4,
            sample_frames=5,
            temporal_compression_ratio=2,
            max_text_seq_length=226,
        ),
        scheduler=d.CogVideoXDDIMScheduler(),
    )


def hunyuan_video() -> d.HunyuanVideoPipeline:
    """A template whose rows are dropped, read twice; and CLIP's pooled embedding."""
    return d.HunyuanVideoPipeline(
        text_encoder=e.llama(),
        tokenizer=t.plain_tokenizer(),
        transformer=d.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=16,
            rope_axes_dim=(4, 4, 8),
        ),
        vae=d.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=_flow(),
        text_encoder_2=e.clip(16, None, 77),
        tokenizer_2=t.clip_tokenizer(),
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    one.__name__: one
    for one in (
        sd3, flux, flux2_klein, chroma, qwen_image, z_image, lumina2, auraflow, cogview4, hidream, pixart_alpha,
        pixart_sigma, sana, cascade_prior, cascade_decoder, wan, ltx, cogvideox, hunyuan_video,
    )
}  # fmt: skip


SMALL: dict[str, dict[str, Any]] = {
    "pixart_alpha": {"height": 16, "width": 16, "use_resolution_binning": False},
    "pixart_sigma": {"height": 16, "width": 16, "use_resolution_binning": False},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False},
    "cascade_prior": {},
    "cascade_decoder": {"image_embeddings": torch.ones(1, 4, 2, 2, dtype=torch.float64)},
    "cogvideox": {"height": 8, "width": 8, "num_frames": 5},
    "wan": {"height": 32, "width": 32, "num_frames": 1},
    "ltx": {"height": 32, "width": 32, "num_frames": 9},
    "hunyuan_video": {"height": 32, "width": 32, "num_frames": 1},
}
"""Arguments of a call that makes the smallest picture."""


def smallest(name: str) -> dict[str, Any]:
    """Arguments of a call that makes the smallest picture."""
    return SMALL.get(name, {"height": 32, "width": 32})


def build(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A tiny random pipeline; every parameter is drawn, also those that a fresh model has at zero."""
    torch.manual_seed(seed)
    return drawn(BUILDERS[name](), dtype)


def drawn(pipeline: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A pipeline with every parameter drawn, in evaluation mode."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                if not bool(parameter.any()):
                    torch.nn.init.normal_(parameter, std=0.1)
            part.eval().requires_grad_(False).to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
