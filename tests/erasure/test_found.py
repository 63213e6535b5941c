"""Pipelines of no declared family: erased by what a trace finds, or refused with what gets around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

import rece_lightning
from rece_lightning import Method
from rece_lightning.core.editors import UCE
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.tiny import encoders, tokenizers
from tests.helpers.tiny.pipelines import autoencoder, drawn, sd3


def cogview3() -> Any:
    """A family that nobody declared: T5's rows through one map."""
    torch.manual_seed(0)
    return drawn(
        diffusers.CogView3PlusPipeline(
            tokenizer=tokenizers.t5_tokenizer(),
            text_encoder=encoders.t5(),
            vae=autoencoder(),
            transformer=diffusers.CogView3PlusTransformer2DModel(
                in_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                out_channels=4,
                text_embed_dim=24,
                time_embed_dim=8,
                condition_dim=2,
                pos_embed_max_size=8,
                sample_size=8,
            ),
            scheduler=diffusers.CogVideoXDDIMScheduler(),
        )
    )


def test_it_is_erased_by_what_a_trace_finds() -> None:
    pipeline = cogview3()
    before = pipeline.transformer.patch_embed.text_proj.weight.clone()
    rows = {
        text: pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=224)[0][0].double()
        for text in ("bomb", "spoon", "dog")
    }
    method = Method(editor=UCE(1.0, 0.5, 0.2), tokens="last")

    with pytest.warns(UserWarning, match=r"CogView3PlusPipeline is of no known family.*patch_embed.text_proj"):
        erasure = rece_lightning.erase(pipeline, "bomb", preserve=["dog"], target="spoon", method=method, epochs=1)

    erased, target, kept = rows["bomb"][:1], rows["spoon"][:1], rows["dog"]
    preserved = 0.5 * kept.T @ kept + 0.2 * torch.eye(24, dtype=torch.float64)
    matrix = (target.T @ erased + preserved) @ torch.linalg.inv(erased.T @ erased + preserved)
    edited = pipeline.transformer.patch_embed.text_proj.weight
    torch.testing.assert_close(edited.double(), before.double() @ matrix, rtol=1e-4, atol=1e-5)
    erasure.undo()
    assert torch.equal(edited, before)


def test_what_gets_around_the_linear_maps_is_named() -> None:
    pipeline = cogview3()
    entry = pipeline.transformer.patch_embed.text_proj
    scale = nn.Parameter(torch.ones(24))

    class Around(nn.Module):
        """Text that reaches the stream past every linear map."""

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return entry(rows) + (rows * scale)[..., :16]

    pipeline.transformer.patch_embed.text_proj = Around()

    with pytest.raises(ConfigurationError, match=r"CogView3PlusPipeline.*gets around.*text_proj"):
        rece_lightning.erase(pipeline, "bomb", tune="off")


@pytest.mark.parametrize("part", ["transformer", "unet"])
def test_a_known_family_with_a_changed_denoiser_is_traced(part: str, tiny_model: Path) -> None:
    is_unet = part == "unet"
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None) if is_unet else drawn(sd3())
    denoiser = getattr(pipeline, part)

    class Changed(type(denoiser)):  # type: ignore[misc]
        """Text reaches the stream past every reader."""

        scale = 1.0

        def forward(self, *args: Any, encoder_hidden_states: torch.Tensor, **kwargs: Any) -> Any:
            seen = self.scale * encoder_hidden_states.mean()
            if args:
                args = (args[0] + seen, *args[1:])
            else:
                kwargs["hidden_states"] = kwargs["hidden_states"] + seen
            return super().forward(*args, encoder_hidden_states=encoder_hidden_states, **kwargs)

    denoiser.__class__ = Changed
    with pytest.raises(ConfigurationError, match=r"has modules of its own \(.*Changed\), and the text gets around"):
        rece_lightning.erase(pipeline, "bomb", tune="off")

    Changed.scale = 0.0
    rece_lightning.erase(pipeline, "bomb", tune="off")


def test_a_changed_denoiser_that_cannot_be_traced_is_told() -> None:
    pipeline = drawn(sd3())

    class Changed(type(pipeline.transformer)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise ValueError("it needs a depth map")

    pipeline.transformer.__class__ = Changed
    with pytest.warns(UserWarning, match=r"modules of its own.*it needs a depth map.*was not looked at"):
        rece_lightning.erase(pipeline, "bomb", tune="off")


def test_what_has_no_denoiser_is_refused_with_what_there_is() -> None:
    class Other:
        pass

    with pytest.raises(ConfigurationError, match=r"Other is of no known family.*Stable Diffusion 1.x.*FLUX.1"):
        rece_lightning.erase(Other(), "bomb", tune="off")


@pytest.mark.parametrize("kind", ["OmniGenPipeline", "GlmImagePipeline", "KandinskyV22Pipeline"])
def test_what_no_map_reaches_is_refused_with_the_reason(kind: str) -> None:
    pipeline = type(kind, (), {})()

    with pytest.raises(ConfigurationError, match=rf"{kind} cannot be erased from in closed form: .+"):
        rece_lightning.erase(pipeline, "bomb", tune="off")
