"""What reads the text: with every reader times ``M``, a model answers to an embedding ``c`` as it did to ``M c``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetXSAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetControlNetXSModel,
    UNetMotionModel,
)
from diffusers.models.attention_processor import (
    AttnProcessor,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
)
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.live_unet import LiveUnet
from rece_lightning.models.pipelines import put_weights
from rece_lightning.models.text_space import POOLED, TEXT

WIDTH, POOLED_WIDTH, ROWS = 24, 20, 5
SMALL: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
UNET: dict[str, Any] = {**SMALL, "sample_size": 4, "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 2,
    "projection_class_embeddings_input_dim": POOLED_WIDTH + 12,
}


@dataclass
class Case:
    """A module, how it is called with rows of text, and what else it is told."""

    module: nn.Module
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]
    pooled: int | None = None
    dead: frozenset[str] = field(default_factory=frozenset)
    """Readers that this module does not use; edited, since another processor would."""


def plain(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    """A U-Net's answer at one time step."""
    return answer(module, text)


def answer(module: Any, text: Tensor, **arguments: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, module.config.in_channels, 4, 4, generator=generator, dtype=torch.float64)
    found: Tensor = module(sample, 3, encoder_hidden_states=text, **arguments).sample
    return found


def with_pooled(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    ids = torch.arange(6, dtype=torch.float64).expand(len(text), -1)
    return answer(module, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids})


def of_frames(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    sample = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found: Tensor = module(sample, 3, encoder_hidden_states=text).sample
    return found


def with_phrases(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    """GLIGEN: the row where a phrase ends, in a box."""
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.9]]], dtype=torch.float64).expand(len(text), -1, -1)
    phrases = {"boxes": boxes, "masks": torch.ones(len(text), 1, dtype=torch.float64)}
    return answer(
        module, text, cross_attention_kwargs={"gligen": {**phrases, "positive_embeddings": text[:, -1:]}}
    )  # fmt: skip


def controlled(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    sample = torch.randn(len(text), 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    picture = torch.ones(len(text), 3, 32, 32, dtype=torch.float64)
    found = module(sample, 3, encoder_hidden_states=text, controlnet_cond=picture, return_dict=False)
    return torch.cat([one.flatten() for one in (*found[0], *found[1:])]) if len(found) > 1 else found[0]


def of_control_net(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    sample = torch.randn(len(text), 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.arange(6, dtype=torch.float64).expand(len(text), -1)
    down, middle = module(
        sample,
        3,
        encoder_hidden_states=text,
        controlnet_cond=torch.ones(len(text), 3, 32, 32, dtype=torch.float64),
        added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
        return_dict=False,
    )
    return torch.cat([one.flatten() for one in (*down, middle)])


def custom_diffusion(kind: type[nn.Module], *, train_kv: bool) -> UNet2DConditionModel:
    """With processors as diffusers' training script sets them: of its own for cross-attention alone."""
    unet = UNet2DConditionModel(**UNET)
    processors = {}
    for name in unet.attn_processors:
        cross = "attn2" in name
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        settings = {"hidden_size": hidden, "cross_attention_dim": WIDTH if cross else None}
        processors[name] = kind(train_kv=train_kv and cross, train_q_out=cross, **settings)
    unet.set_attn_processor(processors)
    return unet


def with_processor_of_pictures() -> UNet2DConditionModel:
    """IP-Adapter's projections read a picture's tokens; here there are none of these."""
    unet = UNet2DConditionModel(**UNET)
    for name in unet.attn_processors:
        if "attn2" in name:
            attention = unet.get_submodule(name.removesuffix(".processor"))
            attention.set_processor(
                IPAdapterAttnProcessor2_0(hidden_size=attention.to_q.in_features, cross_attention_dim=WIDTH)
            )
    return unet


def with_pictures(module: nn.Module, text: Tensor, pooled: Tensor) -> Tensor:
    tokens = [torch.ones(len(text), 1, 4, WIDTH, dtype=torch.float64)]
    return answer(module, (text, tokens))  # type: ignore[arg-type]


def motion_unet() -> UNetMotionModel:
    blocks = {
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    }
    settings = {name: value for name, value in {**UNET, **blocks}.items() if name != "attention_head_dim"}
    return UNetMotionModel(**settings, num_attention_heads=4, motion_num_attention_heads=2, use_motion_mid_block=True)


def control_net_xs() -> UNetControlNetXSModel:
    unet = UNet2DConditionModel(**{**UNET, "layers_per_block": 2})
    adapter = ControlNetXSAdapter.from_unet(unet, size_ratio=0.5, conditioning_embedding_out_channels=(8,) * 4)
    return UNetControlNetXSModel.from_unet(unet, adapter)


def cases() -> dict[str, Callable[[], Case]]:
    blocks_3d = {
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    }
    upscaler = {"only_cross_attention": (True, False), "num_class_embeds": 9}
    return {
        "Stable Diffusion": lambda: Case(UNet2DConditionModel(**UNET), plain),
        "SDXL": lambda: Case(UNet2DConditionModel(**UNET, **XL), with_pooled, POOLED_WIDTH),
        "an upscaler": lambda: Case(
            UNet2DConditionModel(**UNET, **upscaler), lambda m, t, p: answer(m, t, class_labels=torch.tensor([3]))
        ),
        # The shapes of its first attention are those of one to the picture.
        "an upscaler as wide as its text": lambda: Case(
            UNet2DConditionModel(**{**UNET, "cross_attention_dim": 16}, only_cross_attention=(True, False)), plain
        ),
        "GLIGEN": lambda: Case(UNet2DConditionModel(**UNET, attention_type="gated"), with_phrases),
        "AnimateDiff": lambda: Case(motion_unet(), lambda m, t, p: of_frames(m, t.expand(2, -1, -1), p)),
        "text to video": lambda: Case(UNet3DConditionModel(**{**UNET, **blocks_3d}), of_frames),
        "ControlNet": lambda: Case(
            ControlNetModel(**SMALL, conditioning_embedding_out_channels=(8, 8, 8, 8)), controlled
        ),
        "ControlNet of SDXL": lambda: Case(
            ControlNetModel(**SMALL, **XL, conditioning_embedding_out_channels=(8, 8, 8, 8)),
            of_control_net,
            POOLED_WIDTH,
        ),
        "ControlNet-XS": lambda: Case(control_net_xs(), controlled),
        "IP-Adapter": lambda: Case(with_processor_of_pictures(), with_pictures),
        "Custom Diffusion": lambda: Case(custom_diffusion(CustomDiffusionAttnProcessor2_0, train_kv=True), plain),
        "Custom Diffusion's older processor": lambda: Case(
            custom_diffusion(CustomDiffusionAttnProcessor, train_kv=True), plain
        ),
        "Custom Diffusion without keys": lambda: Case(
            custom_diffusion(CustomDiffusionAttnProcessor2_0, train_kv=False), plain
        ),
    }


@pytest.mark.parametrize("name", cases())
def test_an_edit_of_the_readers_is_another_text(name: str) -> None:
    """Neither more nor less may be a reader: one that is left out, or one that reads pictures, breaks the equality."""
    torch.manual_seed(0)
    case = cases()[name]()
    module = case.module.double().eval()
    with torch.no_grad():
        for weight in module.parameters():
            # Gates, new ControlNets and processors begin at zero.
            weight.add_(torch.randn_like(weight), alpha=0.3)
    live = LiveUnet(module, "here", case.pooled)
    widths = {space.name: space.width for space in live.spaces}
    assert widths == {TEXT: module.config.cross_attention_dim} | ({POOLED: POOLED_WIDTH} if case.pooled else {})
    maps = {space: torch.randn(width, width, dtype=torch.float64) for space, width in widths.items()}
    text = torch.randn(1, ROWS, widths[TEXT], dtype=torch.float64)
    pooled = torch.randn(1, POOLED_WIDTH, dtype=torch.float64)
    with torch.no_grad():
        before = case.call(module, text, pooled)
        expected = case.call(module, text @ maps[TEXT].mT, pooled @ maps[POOLED].mT if case.pooled else pooled)
        put_weights(module, edited(live, maps))
        found = case.call(module, text, pooled)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(before, expected, rtol=1e-3)


def edited(live: LiveUnet, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every reader times the map of its space."""
    found = {}
    for space in live.spaces:
        for name, weight in live.read_projections(space.names):
            reader = space.readers[name]
            found[name] = reader.whole(weight, reader.part(weight) @ maps[space.name])
    return found


def test_projections_that_a_processor_stands_in_for_are_edited_too() -> None:
    """They read again as soon as somebody sets another processor."""
    live = LiveUnet(custom_diffusion(CustomDiffusionAttnProcessor2_0, train_kv=True), "here")
    own = [name for name in live.names if "_custom_diffusion" in name]
    assert len(own) * 2 == len(live.names)
    assert {name.replace("processor.", "").replace("_custom_diffusion", "") for name in own} < set(live.names)
    readers = live.spaces[0].readers
    assert {readers[name].kind for name in own} == {"k", "v"}


class Hidden(AttnProcessor):
    """A processor that is no module and keeps a weight."""

    def __init__(self) -> None:
        self.key = nn.Linear(WIDTH, 16)


class Named(nn.Module):
    """A processor with a weight under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.second_key = nn.Linear(WIDTH, 16)

    def __call__(self, *arguments: Any) -> None:
        raise NotImplementedError


def with_processor(processor: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**UNET)
    name = next(name for name in unet.attn_processors if "attn2" in name)
    unet.get_submodule(name.removesuffix(".processor")).processor = processor
    return unet


SIMPLE = {
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
}
KARRAS = {
    "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("KCrossAttnUpBlock2D", "KUpBlock2D"),
    "block_out_channels": (32, 32),
    "attention_head_dim": 8,
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Kolors": ({"encoder_hid_dim": 48, "encoder_hid_dim_type": "text_proj"}, r"encoder_hid_proj.*'text_proj'"),
    "DeepFloyd's embedding": (
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
        r"add_embedding.*'text'",
    ),
    "DeepFloyd's blocks": (SIMPLE, "SimpleCrossAttnDownBlock2D"),
    "the latent upscaler": (KARRAS, "KCrossAttnDownBlock2D"),
    "a class embedding of text": (
        {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 8},
        r"class_embedding.*'simple_projection'",
    ),
    "SDXL without its second encoder": (XL, "add_embedding.*text_encoder_2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_ways_are_named(name: str) -> None:
    """What reads the text and is not edited is refused, by the part that does."""
    settings, message = REFUSED[name]
    unet = UNet2DConditionModel(**{**UNET, **settings})
    with pytest.raises(ConfigurationError, match=rf"here: text reaches it by .*{message}"):
        LiveUnet(unet, "here")


@pytest.mark.parametrize(("processor", "message"), [(Hidden, "a Hidden with weights"), (Named, "second_key")])
def test_processors_with_weights_of_their_own_are_named(processor: type, message: str) -> None:
    unet = with_processor(processor())
    with pytest.raises(ConfigurationError, match=message):
        LiveUnet(unet, "here")


def test_parts_of_different_widths_are_refused() -> None:
    """A reader of another width would be multiplied by a map that is not its own."""
    unet = UNet2DConditionModel(**UNET)
    attention = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    attention.to_v = nn.Linear(WIDTH + 1, 16, bias=False)
    with pytest.raises(ConfigurationError, match=rf"attn2.to_v.weight reads embeddings {WIDTH + 1} wide"):
        LiveUnet(unet, "here")
