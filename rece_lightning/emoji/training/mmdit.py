"""The embedded world's second denoiser: an MMDiT in Stable Diffusion 3's layout, trained by flow matching."""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch import Tensor
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from rece_lightning.emoji.captions import random_caption
from rece_lightning.emoji.catalog import Catalog
from rece_lightning.emoji.training.autoencoder import LATENT_CHANNELS
from rece_lightning.emoji.training.clip import WIDTH
from rece_lightning.emoji.training.loop import mixed_precision, train
from rece_lightning.emoji.training.muon import muon_and_adamw
from rece_lightning.emoji.training.unet import EMPTY_SHARE, cache_latents

LEARNING_RATE = 1e-3  # the highest
BARE_SHARE = 0.2  # of the captions: the name or a synonym and nothing else, which leaves style and background open
STYLE_SHARE = 0.85  # of the other captions
LONGEST = 512  # rows of zeros: what the pipeline allows in place of a T5 that is not there
# First and last layers: AdamW's part.
OUTER = ("pos_embed", "context_embedder", "time_text_embed", "proj_out")


def build_transformer() -> SD3Transformer2DModel:
    """The MMDiT with random weights: a sequence space and a pooled space, both of two CLIP encoders side by side."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=64,
        num_attention_heads=3,
        caption_projection_dim=192,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )


def build_flow() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths from noise to picture, Euler steps evenly spaced in time."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def build_pipeline(
    transformer: SD3Transformer2DModel,
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 without T5; one text encoder stands in both CLIP places."""
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=build_flow(),
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def projected_encoder(clip: CLIPModel) -> CLIPTextModelWithProjection:
    """CLIP's text tower with its projection: rows for the sequence space, one vector for the pooled space."""
    encoder = CLIPTextModelWithProjection(clip.config.text_config).to(clip.device)
    encoder.text_model.load_state_dict(clip.text_model.state_dict())
    encoder.text_projection.load_state_dict(clip.text_projection.state_dict())
    return encoder.eval().requires_grad_(False)


class CountedAttention(JointAttnProcessor2_0):
    """Joint attention in which the last text row stands for a number of equal rows.

    Where T5 is missing the pipeline reads rows of zeros, 256 unless told otherwise. Text rows have no positions, so
    equal rows stay equal in every block: one row does for ``n`` of them with ``log n`` added to what its key scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.zeros(())

    def count(self, rows: Tensor) -> None:
        """From the next call on the last text row counts as ``rows`` rows, ``[n]``, zero allowed."""
        self.scores = rows.float().clamp(min=1e-6).log()[:, None, None]

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """As diffusers' processor; in bfloat16 plain products take less time than the fused ones at 33 positions."""
        split = (len(hidden_states), -1, attn.heads, attn.to_q.out_features // attn.heads)
        query, key, value = (layer(hidden_states).view(split) for layer in (attn.to_q, attn.to_k, attn.to_v))
        added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        text_query, text_key, text_value = (layer(encoder_hidden_states).view(split) for layer in added)
        query = torch.cat([attn.norm_q(query), attn.norm_added_q(text_query)], dim=1).transpose(1, 2)
        key = torch.cat([attn.norm_k(key), attn.norm_added_k(text_key)], dim=1).transpose(1, 2)
        value = torch.cat([value, text_value], dim=1).transpose(1, 2)
        scores = (query * attn.scale) @ key.mT
        scores = torch.cat([scores[..., :-1], scores[..., -1:] + self.scores[:, None].to(scores.dtype)], dim=-1)
        joint = (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        pictures, text = joint.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[0](pictures), text if attn.context_pre_only else attn.to_add_out(text)


def training_caption(catalog: Catalog, triple: tuple[int, int, int], source: random.Random) -> str:
    """A random true caption of a picture, empty in one of ten for classifier-free guidance."""
    if source.random() < EMPTY_SHARE:
        return ""
    if source.random() < BARE_SHARE:
        item = catalog.objects[triple[0]]
        return source.choice((item.name, source.choice(item.synonyms or (item.name,))))
    return random_caption(catalog, *triple, source, style_share=STYLE_SHARE).text


def random_times(batch: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times in (0, 1), ``[batch]``, stratified: every step sees the whole range."""
    uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return torch.sigmoid(torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))


def random_counts(batch: int, generator: torch.Generator) -> Tensor:
    """How many rows of zeros a caption has, ``[batch]``: none in a quarter, otherwise 1 to 512, log-uniformly."""
    counts = torch.exp(torch.rand(batch, generator=generator) * math.log(LONGEST)).round()
    return counts * (torch.rand(batch, generator=generator) > 0.25)


def train_mmdit(
    catalog: Catalog,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModelWithProjection,
    autoencoder: AutoencoderKL,
    folder: Path,
    *,
    steps: int,
    batch: int,
    device: str,
    seed: int,
    initial: SD3Transformer2DModel | None = None,
) -> tuple[SD3Transformer2DModel, float]:
    """Train by flow matching, from ``initial`` or anew. Returns the transformer and the seconds spent."""
    torch.manual_seed(seed)
    transformer = (initial or build_transformer()).to(device)
    attention = CountedAttention()
    usual = transformer.attn_processors
    transformer.set_attn_processor(attention)
    pipeline = build_pipeline(transformer, autoencoder, text_encoder, tokenizer)
    latents, grid = cache_latents(catalog, autoencoder, device=device, seed=seed)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        source = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [training_caption(catalog, (i, j, k), source) for i, j, k in grid[chosen].tolist()]
        clean = latents[chosen].float()
        times = random_times(batch, generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = torch.lerp(clean, noise, times[:, None, None, None])
        attention.count(random_counts(batch, generator).to(device))
        with torch.no_grad():
            rows, _, pooled, _ = pipeline.encode_prompt(
                texts, None, None, do_classifier_free_guidance=False, max_sequence_length=1, device=device
            )
        with mixed_precision(device):
            answer = transformer(noisy.to(device), rows, pooled, 1000 * times.to(device)).sample
        return ((answer.float() - (noise - clean).to(device)) ** 2).mean()

    seconds = train(
        "mmdit",
        transformer,
        loss_of,
        steps=steps,
        learning_rate=LEARNING_RATE,
        folder=folder,
        seed=seed,
        decay=0.999,
        every=200,
        optimizers=muon_and_adamw(transformer, LEARNING_RATE, outer=OUTER),
    )
    transformer.set_attn_processor(usual)
    return transformer, seconds
