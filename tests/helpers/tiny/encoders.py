"""Tiny random text encoders."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.helpers.tiny.tokenizers import (
    clip_tokenizer,
    gemma_tokenizer,
    plain_tokenizer,
    qwen_tokenizer,
    size_of,
    t5_tokenizer,
)

LANGUAGE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 2048,
}


def clip(
    width: int = 16, projection: int | None = None, positions: int = 16
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """CLIP's text tower; with a projection where its width is given."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=24,
        projection_dim=projection or width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5(width: int = 24) -> T5EncoderModel:
    """T5's encoder."""
    return T5EncoderModel(_t5(T5Config, width))


def umt5(width: int = 24) -> UMT5EncoderModel:
    """UMT5's encoder."""
    return UMT5EncoderModel(_t5(UMT5Config, width))


def _t5(kind: Any, width: int) -> Any:
    return kind(
        vocab_size=size_of(t5_tokenizer()), d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2, is_gated_act=True
    )


def gemma(**changes: Any) -> Gemma2Model:
    """Gemma 2."""
    return Gemma2Model(Gemma2Config(vocab_size=size_of(gemma_tokenizer()), **LANGUAGE, **changes))


def llama(*, head: bool = False) -> LlamaModel | LlamaForCausalLM:
    """Llama, with its language head or without."""
    config = LlamaConfig(vocab_size=size_of(plain_tokenizer()), **LANGUAGE)
    return LlamaForCausalLM(config) if head else LlamaModel(config)


def glm() -> GlmModel:
    """GLM."""
    return GlmModel(GlmConfig(vocab_size=size_of(plain_tokenizer()), **LANGUAGE))


def qwen3(*, head: bool = False, layers: int = 3, width: int = 16) -> Qwen3Model | Qwen3ForCausalLM:
    """Qwen 3, with its language head or without."""
    config = Qwen3Config(
        vocab_size=size_of(qwen_tokenizer()), **{**LANGUAGE, "num_hidden_layers": layers, "hidden_size": width}
    )
    return Qwen3ForCausalLM(config) if head else Qwen3Model(config)


def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    """Qwen 2.5 VL."""
    text = {name: value for name, value in LANGUAGE.items() if name != "head_dim"}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size_of(qwen_tokenizer()),
            **text,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )
    return Qwen2_5_VLForConditionalGeneration(config)
