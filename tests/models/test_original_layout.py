"""The original layout against diffusers' own reader of it: nothing here compares our names with our names alone."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.families.unet import POOLED_READER
from rece_lightning.models.layouts import LAYOUTS, config_folder, kind_of
from rece_lightning.models.original.model import (
    TEXT_PROJECTIONS,
    ToDiffusers,
    pieces_in_file,
    sgm_names,
    text_prefixes,
    to_original,
    unet_projections,
)
from rece_lightning.models.original.pieces import Piece
from rece_lightning.models.original.unet import unet_names
from rece_lightning.models.original.vae import vae_pieces
from rece_lightning.models.weights import ModuleWeights, SafetensorsWeights
from tests.helpers.models_original import (
    KINDS,
    build_parts,
    make_original,
    original_tensors,
    small_configs,
    small_parts,
)

LEVELS = {
    "one resolution": (["CrossAttn"], 1),
    "two, the embedded world's": (["CrossAttn", "CrossAttn"], 1),
    "attention inside only": (["", "CrossAttn"], 2),
    "attention outside only": (["CrossAttn", "", ""], 3),
    "five": (["CrossAttn", "", "CrossAttn", "CrossAttn", ""], 2),
    "uneven": (["CrossAttn", "CrossAttn", "CrossAttn"], [1, 3, 2]),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every structure: one and two text encoders, both kinds of them, transformers as convolutions and linear."""
    return str(request.param)


@pytest.fixture(scope="module")
def parts(kind: str) -> dict[str, nn.Module]:
    """A small random model."""
    return small_parts(kind)


@pytest.fixture(scope="module")
def file(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the original layout."""
    return make_original(tmp_path_factory.mktemp("original") / "model.safetensors", kind)


def assert_same(found: dict[str, Tensor], module: nn.Module) -> None:
    """All names, shapes and bits."""
    expected = module.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_diffusers_loads_the_same_model(kind: str, parts: dict[str, nn.Module], file: Path) -> None:
    """``from_single_file`` with our configurations gives every tensor back, bit for bit."""
    shapes = SafetensorsWeights(file).shapes()
    assert kind_of(shapes) == kind
    folder = config_folder(kind, shapes)
    pipeline_class = getattr(diffusers, LAYOUTS[kind].configs()["model_index"]["_class_name"])
    pipeline = pipeline_class.from_single_file(str(file), config=str(folder), local_files_only=True)
    for part, module in parts.items():
        assert_same(getattr(pipeline, part).state_dict(), module)


def test_diffusers_converters_take_every_tensor(kind: str, parts: dict[str, nn.Module]) -> None:
    """Its functions for U-Net, autoencoder and OpenCLIP, without the loader around them."""
    original = original_tensors(parts, kind)
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(original), dict(parts["unet"].config))
    assert_same(unet, parts["unet"])
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(original), dict(parts["vae"].config))
    assert_same(vae, parts["vae"])
    part, prefix = {
        "sd2": ("text_encoder", "cond_stage_model.model."),
        "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
    }.get(kind, ("text_encoder", ""))
    if prefix:
        text = single_file_utils.convert_open_clip_checkpoint(parts[part], dict(original), prefix=prefix)
    else:
        text = single_file_utils.convert_ldm_clip_checkpoint(dict(original))
    plain = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    assert_same(plain, _Plain(parts[part]))
    assert len(original) == sum(len(module.state_dict()) for module in parts.values()) - _joined(parts, kind)


class _Plain(nn.Module):
    """A text encoder whose names do not begin with ``text_model.``, which transformers' classes differ in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = [module]

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Of the module."""
        return {name.removeprefix("text_model."): tensor for name, tensor in self._module[0].state_dict().items()}


def _joined(parts: dict[str, nn.Module], kind: str) -> int:
    """How many tensors fewer the original has because q, k and v are one."""
    part = {"sd2": "text_encoder", "sdxl": "text_encoder_2"}.get(kind)
    return 4 * parts[part].config.num_hidden_layers if part else 0


def test_reading_gives_diffusers_names(kind: str, parts: dict[str, nn.Module], file: Path) -> None:
    """The way back: each part of the file read under its diffusers names, shapes without reading."""
    weights = SafetensorsWeights(file)
    for part, module in parts.items():
        read = ToDiffusers(weights, pieces_in_file(part, weights.shapes(), LAYOUTS[kind].family))
        plain = _Plain(module)
        assert read.shapes() == {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
        assert_same(dict(read.read(read.shapes())), plain)


def test_projections_are_found_by_name(kind: str, parts: dict[str, nn.Module], file: Path) -> None:
    """Read from the file one at a time, they are the module's, queries and XL's reader of the pooled embedding too."""
    weights = SafetensorsWeights(file)
    names = unet_projections(weights.shapes())
    unet = parts["unet"].state_dict()
    attention = {name for name in unet if name.endswith(tuple(f"attn2.to_{one}.weight" for one in "qkv"))}
    assert set(names) == attention | ({POOLED_READER} if kind == "sdxl" else set())
    pieces = [Piece(stored, (name,)) for name, stored in names.items()]
    for name, tensor in ToDiffusers(weights, pieces).read(names):
        assert torch.equal(tensor, unet[name])


def test_text_encoders_are_found_by_name(kind: str, parts: dict[str, nn.Module], file: Path) -> None:
    assert len(text_prefixes(SafetensorsWeights(file).shapes())) == len(parts) - 2


def test_names_need_the_projections_alone(parts: dict[str, nn.Module]) -> None:
    """What a delta or a LoRA names is placed without the rest of the U-Net."""
    names = unet_names(parts["unet"].state_dict())
    projections = [name for name in names if "attn2.to_" in name]
    assert unet_names(projections) == {name: names[name] for name in projections}


def test_sgm_names_are_those_that_diffusers_reads() -> None:
    """Diffusers renames the layers of an SDXL LoRA back."""
    unet = small_parts("sdxl")["unet"]
    readers = (*TEXT_PROJECTIONS, POOLED_READER)
    names = {name: sgm for name, sgm in sgm_names(unet.state_dict()).items() if name.endswith(readers)}
    lora = {
        f"lora_unet_{sgm}.lora_{side}.weight": torch.ones(1, 1) for sgm in names.values() for side in ("down", "up")
    }
    lora |= {f"lora_unet_{sgm}.alpha": torch.tensor(1.0) for sgm in names.values()}
    read, _ = StableDiffusionXLPipeline.lora_state_dict(lora, unet_config=unet.config)
    read = {name.replace(".processor.", ".").replace("_lora.", ".lora.") for name in read}
    assert {name.removeprefix("unet.").split(".lora.")[0] + ".weight" for name in read} == set(names)
    first = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert names[first] == "input_blocks_4_1_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize("levels", LEVELS)
def test_any_number_of_resolutions(levels: str) -> None:
    """Structures that no published model has, through diffusers' converter and back through ours."""
    kinds, layers = LEVELS[levels]
    unet = UNet2DConditionModel(
        block_out_channels=[32 * (1 + i) for i in range(len(kinds))],
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        layers_per_block=layers,
        cross_attention_dim=16,
    )
    original = dict(_unet_to_original(unet))
    read = ToDiffusers(_Held(original), pieces_in_file("unet", original, "sd1"))
    assert set(read.shapes()) == set(unet.state_dict())
    if isinstance(layers, int):  # diffusers' converter knows one number
        assert_same(single_file_utils.convert_ldm_unet_checkpoint(original, dict(unet.config)), unet)
    assert_same(dict(read.read(unet.state_dict())), unet)


def _unet_to_original(unet: nn.Module) -> dict[str, Tensor]:
    tensors = unet.state_dict()
    return {original: tensors[name] for name, original in unet_names(tensors).items()}


class _Held:
    """Weights in memory."""

    where = "memory"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, names):  # type: ignore[no-untyped-def]
        return ((name, self._tensors[name]) for name in names)


def test_class_embeddings_have_a_place() -> None:
    """A model with a projected class and one with numbered classes use the names of SDXL's added embedding."""
    for options in (
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 24},
        {"num_class_embeds": 7},
    ):
        unet = UNet2DConditionModel(
            block_out_channels=(32,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=16,
            **options,
        )
        assert_same(single_file_utils.convert_ldm_unet_checkpoint(_unet_to_original(unet), dict(unet.config)), unet)


def test_sd2_leaves_out_the_layer_that_nobody_evaluates() -> None:
    """A file with OpenCLIP's 24 layers reads as diffusers' 23; written from 23 layers it loads, without the 24th."""
    configs = small_configs("sd2")
    configs["text_encoder"]["num_hidden_layers"] = 24
    full = original_tensors(build_parts(configs), "sd2")
    prefix = "cond_stage_model.model."
    full |= {f"{prefix}text_projection": torch.zeros(32, 32), f"{prefix}logit_scale": torch.tensor(4.6)}
    read = ToDiffusers(_Held(full), pieces_in_file("text_encoder", full, "sd2"))
    configs["text_encoder"]["num_hidden_layers"] = 23
    encoder = build_parts(configs)["text_encoder"]
    assert read.shapes() == {name: tuple(tensor.shape) for name, tensor in _Plain(encoder).state_dict().items()}
    theirs = single_file_utils.convert_open_clip_checkpoint(encoder, full, prefix=prefix)
    assert {name.removeprefix("text_model.") for name in theirs} == set(read.shapes())
    written = original_tensors({"text_encoder": encoder, **_without_text("sd2")}, "sd2")
    assert not any("resblocks.23." in name or name.endswith("text_projection") for name in written)


def _without_text(kind: str) -> dict[str, nn.Module]:
    parts = small_parts(kind)
    return {part: parts[part] for part in ("unet", "vae")}


def test_old_folders_of_an_autoencoder() -> None:
    """SD 1.4's folder names its attention as diffusers did before 0.15."""
    vae = small_parts("sd1")["vae"].state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    new = {piece.diffusers[0]: piece.original for piece in vae_pieces(vae)}
    assert set(new) == set(vae)
    for name, original in new.items():
        before = name
        for now, then in old.items():
            before = before.replace(f".attentions.0.{now}.", f".attentions.0.{then}.")
        assert vae_pieces([*vae, before])[-1].original == original


def test_old_text_encoders_with_a_prefix_and_positions() -> None:
    """Names with and without ``text_model.`` are the same model; OpenCLIP has no buffer of positions."""
    parts = small_parts("sdxl")
    tensors = original_tensors(parts, "sdxl")
    weights = {part: ModuleWeights(module) for part, module in parts.items()}
    for part in ("text_encoder", "text_encoder_2"):
        held = {
            name if name.startswith("text_p") else f"text_model.{name.removeprefix('text_model.')}": tensor
            for name, tensor in parts[part].state_dict().items()
        }
        weights[part] = _Held({**held, "text_model.embeddings.position_ids": torch.arange(77)[None]})
    old = dict(to_original(weights, "sdxl"))
    added = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    assert set(old) == {*tensors, added}
    assert all(torch.equal(old[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "time_embedding.cond_proj.weight"),
        ("unet", "encoder_hid_proj.weight"),
        ("unet", "mid_block.attentions.1.norm.weight"),
        ("unet", "down_blocks.0.resnets.0.conv3.weight"),
        ("unet", "down_blocks.0.attentions.0.gate.weight"),
        ("vae", "encoder.mid_block.attentions.0.to_add_k.weight"),
        ("vae", "decoder.up_blocks.9.motion.weight"),
        ("text_encoder_2", "encoder.layers.0.self_attn.rotary.weight"),
    ],
)
def test_a_tensor_without_a_place_is_refused(part: str, name: str) -> None:
    """Nothing is dropped in silence."""
    parts = small_parts("sdxl")
    weights = {key: ModuleWeights(module) for key, module in parts.items()}
    weights[part] = _Held({**parts[part].state_dict(), name: torch.zeros(1, 1)})
    with pytest.raises(BaseModelError, match=name.replace(".", r"\.")):
        dict(to_original(weights, "sdxl"))


@pytest.mark.parametrize(
    "names",
    [
        ["model.diffusion_model.input_blocks.99999999999.0.op.weight"],
        ["model.diffusion_model.output_blocks.².1.conv.weight", "model.diffusion_model.input_blocks..0.op.weight"],
        ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight", ""],
    ],
)
def test_strange_names_end_soon(names: list[str]) -> None:
    """Numbers from a stranger's file do not decide how long we work."""
    assert unet_projections(names) == {}


def test_the_header_alone_is_read(file: Path) -> None:
    """Names and shapes of a file are those that safetensors tells."""
    with safe_open(file, framework="pt") as stored:
        assert set(SafetensorsWeights(file).shapes()) == set(stored.keys())
