"""Folders of published models in their real shapes, with random weights: what an erasure reads is there.

A tensor that is never read is a hole in its file, and takes no room on a disk. Configurations are those of the
published models; tokenizers are small ones of the same kind.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

from benchmarks.full_size import with_shapes
from rece_lightning.models.families import family_of
from rece_lightning.models.families.unet import text_projection
from rece_lightning.models.layouts import LAYOUTS, byte_characters, write_vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16"}
BLOCK = 1 << 22
"""Random numbers that are drawn; larger tensors repeat them."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder: class, and where its configuration differs from the class's own."""

    kind: str
    config: Mapping[str, Any]
    tokenizer: str
    """``clip``, ``t5`` or ``qwen``."""
    tied: tuple[str, ...] = ()
    """Names that a file leaves out, because they are other names' tensors."""


@dataclass(frozen=True)
class Published:
    """A published model in its shapes."""

    title: str
    pipeline: str
    denoiser: tuple[str, str, Mapping[str, Any]]
    """Part, class and configuration."""
    encoders: Mapping[str, Encoder]
    absent: Mapping[str, str] = field(default_factory=lambda: {"vae": "AutoencoderKL"})
    """Part → class of what the pipeline has and an erasure does not look at."""
    arguments: tuple[str, ...] = ()
    """Of ``rece fit`` beside the configuration."""
    dtype: torch.dtype = torch.bfloat16


CLIP_L = Encoder("CLIPTextModel", LAYOUTS["sdxl"].configs()["text_encoder"], "clip")
CLIP_L_POOLED = Encoder(
    "CLIPTextModelWithProjection", {**LAYOUTS["sdxl"].configs()["text_encoder"], "projection_dim": 768}, "clip"
)
CLIP_G = Encoder("CLIPTextModelWithProjection", LAYOUTS["sdxl"].configs()["text_encoder_2"], "clip")
_T5 = {
    "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "is_gated_act": True,
    "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "tie_word_embeddings": False,
}  # fmt: skip
T5_XXL = Encoder("T5EncoderModel", {**_T5, "vocab_size": 32128}, "t5", ("encoder.embed_tokens.weight",))
UMT5_XXL = Encoder("UMT5EncoderModel", {**_T5, "vocab_size": 256384}, "t5", ("encoder.embed_tokens.weight",))
QWEN3_4B = Encoder(
    "Qwen3ForCausalLM",
    {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
    },
    "qwen",
    ("lm_head.weight",),
)  # fmt: skip
WAN = {
    "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 4096,
    "freq_dim": 256, "ffn_dim": 13824, "num_layers": 40,
}  # fmt: skip
_WAN = {"vae": "AutoencoderKLWan"}
MODELS = {
    "sdxl": Published(
        "Stable Diffusion XL", "StableDiffusionXLPipeline",
        ("unet", "UNet2DConditionModel", LAYOUTS["sdxl"].configs()["unet"]),
        {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}, dtype=torch.float16,
    ),
    "sd35-large": Published(
        "Stable Diffusion 3.5 large", "StableDiffusion3Pipeline",
        ("transformer", "SD3Transformer2DModel", {
            "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 38,
            "attention_head_dim": 64, "num_attention_heads": 38, "joint_attention_dim": 4096,
            "caption_projection_dim": 2432, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        }),
        {"text_encoder": CLIP_L_POOLED, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
    ),
    "flux1": Published(
        "FLUX.1 dev", "FluxPipeline",
        ("transformer", "FluxTransformer2DModel", {
            "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
            "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
            "guidance_embeds": True,
        }),
        {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    ),
    "flux2-klein": Published(
        "FLUX.2 klein 4B", "Flux2KleinPipeline",
        ("transformer", "Flux2Transformer2DModel", {
            "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128,
            "num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False,
        }),
        {"text_encoder": QWEN3_4B}, {"vae": "AutoencoderKLFlux2"},
    ),
    "pixart-sigma": Published(
        "PixArt-Σ", "PixArtSigmaPipeline",
        ("transformer", "PixArtTransformer2DModel", {
            "sample_size": 128, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 28,
            "attention_head_dim": 72, "num_attention_heads": 16, "cross_attention_dim": 1152,
            "caption_channels": 4096, "norm_type": "ada_norm_single", "use_additional_conditions": False,
        }),
        {"text_encoder": T5_XXL},
    ),
    "wan21-14b": Published(
        "Wan 2.1 14B, the projector's entry", "WanPipeline", ("transformer", "WanTransformer3DModel", WAN),
        {"text_encoder": UMT5_XXL}, _WAN, ("--model.method.spaces", "[entry]"),
    ),
    "wan21-14b-kv": Published(
        "Wan 2.1 14B, keys and values", "WanPipeline", ("transformer", "WanTransformer3DModel", WAN),
        {"text_encoder": UMT5_XXL}, _WAN,
    ),
}  # fmt: skip
"""Name → the model."""


def write_folder(folder: Path, model: Published, layers: int | None = None) -> Path:
    """A diffusers folder of a model; an existing one is kept.

    Args:
        folder: of it.
        model: whose shapes it has.
        layers: of language models and T5, where they are too many for the memory at hand; all unless given.
    """
    index = folder / "model_index.json"
    if index.exists():
        return folder
    part, kind, config = model.denoiser
    build = getattr(diffusers, kind)
    shapes = {name: tuple(one.shape) for name, one in with_shapes(build.from_config, config).state_dict().items()}
    write_config(folder / part, {**config, "_class_name": kind})
    stem = folder / part / "diffusion_pytorch_model.safetensors"
    write_tensors(stem, shapes, model.dtype, reads_text(model, config, shapes))
    parts: dict[str, Any] = {part: ["diffusers", kind], **{one: ["diffusers", k] for one, k in model.absent.items()}}
    for name, absent in model.absent.items():
        write_config(folder / name, {"_class_name": absent})
        write_tensors(folder / name / stem.name, {"none": (1,)}, model.dtype, lambda _: False)
    for name, encoder in model.encoders.items():
        parts[name] = ["transformers", encoder.kind]
        write_encoder(folder / name, encoder, model.dtype, layers)
        tokenizer = name.replace("text_encoder", "tokenizer")
        parts[tokenizer] = ["transformers", write_tokenizer(folder / tokenizer, encoder.tokenizer)]
    if part == "unet":
        configs = LAYOUTS["sdxl"].configs()
        parts = {**configs["model_index"], **parts}
        write_config(folder / "scheduler", configs["scheduler"], "scheduler_config.json")
    else:
        parts["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        scheduler.save_pretrained(folder / "scheduler")
    index.write_text(json.dumps({**parts, "_class_name": model.pipeline}), encoding="utf-8")
    return folder


def reads_text(
    model: Published, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Callable[[str], bool]:
    """Whether a tensor is one that an erasure reads: a reader, or what lies before one."""
    family = family_of(model.pipeline)
    if family is None:
        return lambda name: bool(text_projection(name, shapes, {})) or name.startswith("add_embedding")  # type: ignore[arg-type]
    spaces = family.spaces({model.denoiser[0]: (dict(config), dict(shapes))})
    names = {name for space in spaces for name in space.readers}
    before = tuple(f"{name}." for space in spaces for name in space.before)
    return lambda name: name in names or (bool(before) and name.startswith(before))


def write_encoder(folder: Path, encoder: Encoder, dtype: torch.dtype, layers: int | None = None) -> None:
    """A text encoder whose weights are all there."""
    kind = getattr(transformers, encoder.kind)
    changes = dict(encoder.config)
    if layers is not None and encoder.tokenizer != "clip":
        changes["num_hidden_layers" if "num_hidden_layers" in changes else "num_layers"] = layers
    config = kind.config_class(**changes)
    config.architectures, config.dtype = [encoder.kind], dtype
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    module: nn.Module = with_shapes(kind, config)
    shapes = {name: tuple(one.shape) for name, one in module.state_dict().items() if name not in encoder.tied}
    write_tensors(folder / "model.safetensors", shapes, dtype, lambda _: True)


def write_config(folder: Path, config: Mapping[str, Any], name: str = "config.json") -> None:
    """A part's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config), encoding="utf-8")


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, real: Callable[[str], bool]
) -> None:
    """A safetensors file: random numbers of a trained model's size where a tensor is real, holes elsewhere."""
    size = torch.finfo(dtype).bits // 8
    header, end = {}, 0
    for name, shape in shapes.items():
        first, end = end, end + size * torch.Size(shape).numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        start = stream.tell()
        for name, shape in shapes.items():
            if real(name):
                stream.seek(start + header[name]["data_offsets"][0])  # type: ignore[index]
                _write_random(stream, name, shape, dtype)
        stream.truncate(start + end)


@cache
def _block() -> Tensor:
    return torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))


def _write_random(stream: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    count = torch.Size(shape).numel()
    if len(shape) < 2:
        values = torch.full((count,), 0.0 if name.endswith("bias") else 1.0).to(dtype)
        stream.write(values.view(torch.uint8).numpy().tobytes())
        return
    fan = 1 if "embed" in name or name.startswith("shared") else torch.Size(shape[1:]).numel()
    block = (_block() * fan**-0.5).to(dtype).view(torch.uint8).numpy().tobytes()
    left = count * torch.finfo(dtype).bits // 8
    while left > 0:
        left -= stream.write(block[:left])


def write_tokenizer(folder: Path, kind: str) -> str:
    """A tokenizer, and the name of its class."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "clip":
        configs = LAYOUTS["sdxl"].configs()
        (folder / "tokenizer_config.json").write_text(json.dumps(configs["tokenizer"]), encoding="utf-8")
        write_vocabulary(folder)
        return "CLIPTokenizer"
    tokenizer: PreTrainedTokenizerFast
    if kind == "t5":
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -4.0), *((one, -8.0) for one in LETTERS)]
        tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    else:
        letters = {one: place for place, one in enumerate(sorted(set(byte_characters())))}
        tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], model_max_length=2048)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return type(tokenizer).__name__
