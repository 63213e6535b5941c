"""Diffusers pipelines of whatever ``model.pretrained`` may name, and their projections exchanged."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.denoisers import denoisers_of, together
from rece_lightning.models.encoders import SUFFIXES, load_tower
from rece_lightning.models.families import family_named
from rece_lightning.models.families.base import Family
from rece_lightning.models.family_parts import left_out
from rece_lightning.models.find import find_base
from rece_lightning.models.folder import variant_of
from rece_lightning.models.part_configs import read_json, read_parts
from rece_lightning.models.pickled import PickledWeights
from rece_lightning.models.single_file import whole_unet

UNUSED = ("feature_extractor", "image_encoder")
"""Parts that make no picture from a prompt; a cache or a copy may lack them."""


def load_pipeline(
    pretrained: str | BaseModel = "emoji",
    *,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> DiffusionPipeline:
    """Load the original model as a diffusers pipeline on the CPU, without a safety checker.

    Beside what diffusers loads itself it takes the embedded world and, with nothing fetched, a checkpoint file in the
    original layout.

    Args:
        pretrained: ``emoji``, a diffusers folder, a checkpoint file, or a hub id, as ``model.pretrained``; or a base
            model that was found.
        revision: of the hub repository.
        variant: of the weight files in a folder, such as ``fp16``.
        config: of a checkpoint file: a shipped layout or a folder of configurations.
        dtype: of the weights in memory.

    Raises:
        BaseModelError: if it cannot be found or is not whole; the message says what to do.
    """
    base = pretrained
    if not isinstance(base, BaseModel):
        base = find_base(str(pretrained), revision, variant, config)
    common: dict[str, Any] = {"local_files_only": True, "dtype": dtype}
    if base.family in ("sd1", "sd2"):
        common |= {"safety_checker": None, "requires_safety_checker": False}
    if family := family_named(base.family):
        common |= left_out(base.path, family)
    try:
        with _quietly():
            pipeline = _opened(base, dtype, common)
    except Exception as error:  # diffusers raises many kinds; each means that the model is not whole
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"model.pretrained: {base.path} cannot be loaded as a pipeline ({reason}); copy the model anew."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _opened(base: BaseModel, dtype: torch.dtype, common: dict[str, Any]) -> DiffusionPipeline:
    if base.layout != "folder":
        index = json.loads((base.configurations / "model_index.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, index["_class_name"])
        common |= {"safety_checker": None, **_parts(base, dtype)}
        return kind.from_single_file(str(base.path), config=str(base.configurations), **common)
    named = read_parts(base.path)
    common |= {part: None for part in UNUSED if part in named and not (base.path / part).is_dir()}
    if isinstance(base.weights, PickledWeights):
        # Diffusers opens PyTorch's files with weights_only, but looks for their shards only when told.
        variant = variant_of(Path(base.weights.where).name)  # a part may have none
        common["unet"] = UNet2DConditionModel.from_pretrained(
            base.path / "unet", use_safetensors=False, variant=variant, dtype=dtype
        )
    return DiffusionPipeline.from_pretrained(base.path, variant=base.variant, **common)


@contextmanager
def _quietly() -> Iterator[None]:
    """What the libraries say while they load is about their own parts, and nobody can act on it; both get their
    verbosity and their progress bars back."""
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    before = [(one.get_verbosity(), one.is_progress_bar_enabled()) for one in libraries]
    for one in libraries:
        one.set_verbosity_error()
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one, (verbosity, shown) in zip(libraries, before, strict=True):
            one.set_verbosity(verbosity)
            if shown:
                one.enable_progress_bar()


def check_draws(base: BaseModel) -> None:
    """Refuse a model that cannot make a picture of a prompt alone, before anything of it is loaded.

    Raises:
        ConfigurationError: saying what it wants besides.
    """
    name = str(read_json(base.configurations / "model_index.json").get("_class_name"))
    family = family_named(base.family)
    if family is not None:
        _check_family_draws(base, family, name)
        return
    unet, vae = (read_json(base.configurations / part / "config.json") for part in ("unet", "vae"))
    with _quietly():  # a pipeline's modules are imported now
        kind = getattr(diffusers, name, None) or diffusers.StableDiffusionPipeline
    taken = inspect.signature(kind.__call__).parameters
    read, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if "image" in taken and "mask_image" not in taken:
        why = "it starts from a picture"
    elif "num_frames" in taken or "prompt_embeds" not in taken:
        why = "it makes no single picture of a prompt"
    elif "mask_image" not in taken and read != latents:
        why = f"its U-Net reads {read} channels, {latents} of a picture in the making and others beside them"
    else:
        return
    raise ConfigurationError(
        f"model.pretrained: {base.name}: no pictures can be made with {name} from prompts alone ({why}). The erasure "
        "needs none: leave out data.validation, attacks and the verbs that make pictures."
    )


STARTED = ("Img2Img", "ImageToVideo", "VideoToVideo", "Inpaint", "Fill", "Control", "VACE", "Condition")
"""In the name of a pipeline: it starts from a picture, or wants something else beside the prompt."""


def _check_family_draws(base: BaseModel, family: Family, name: str) -> None:
    if base.layout != "folder":
        raise ConfigurationError(
            f"model.pretrained: {base.name}: no pictures are made from a transformer's file alone; give the diffusers "
            "folder, or export single-file and draw with the program that the file is of. The erasure needs none: "
            "leave out data.validation, attacks and the verbs that make pictures."
        )
    wants = next((word for word in STARTED if word in name), None)
    if family.draws and wants is None:
        return
    why = "it wants a picture beside the prompt" if wants else "two models make a picture in turn, and this is one"
    raise ConfigurationError(
        f"model.pretrained: {base.name}: no pictures can be made with {name} from prompts alone ({why}). The erasure "
        "needs none: leave out data.validation, attacks and the verbs that make pictures."
    )


def _parts(base: BaseModel, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """U-Net and text encoders of a checkpoint file; diffusers' reader knows fewer of their spellings and structures."""
    config = UNet2DConditionModel.load_config(base.configurations, subfolder="unet", local_files_only=True)
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
    weights = whole_unet(base.path)
    state = {name: tensor.to(dtype) for name, tensor in weights.read(weights.shapes())}
    unet.load_state_dict(state, assign=True)
    encoders = {
        f"text_encoder{suffix}": load_tower(base, suffix, encoder)[1].to(dtype).eval()
        for suffix, encoder in zip(SUFFIXES, base.text, strict=False)
    }
    return {"unet": unet.eval(), **encoders}


@torch.no_grad()
def put_weights(unet: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named tensors into the U-Net's parameters, cast to their dtype and device."""
    for name, weight in weights.items():
        parameter = unet.get_parameter(name)
        parameter.copy_(weight.to(parameter))


def put_into(pipeline: Any, weights: Iterable[tuple[str, Tensor]]) -> Any:
    """Copy named tensors into the parameters of a pipeline's denoisers; of several, names begin with the part's.

    Returns:
        The pipeline.
    """
    put_weights(together(denoisers_of(pipeline)), dict(weights))
    return pipeline
