"""Open a checkpoint file in the original Stable Diffusion layout: one file, names and shapes alone tell what it is."""

from __future__ import annotations

import math
from pathlib import Path

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.families.unet import checked_spaces
from rece_lightning.models.layouts import LAYOUTS, config_folder, kind_of
from rece_lightning.models.original import UNET, ToDiffusers, text_prefixes, unet_projections
from rece_lightning.models.part_configs import (
    check_index,
    check_part,
    check_text_encoder,
    check_widths,
    named_parts,
    pooled_width,
    read_json,
)
from rece_lightning.models.pickled import PICKLES, PickledWeights
from rece_lightning.models.weights import Renamed, SafetensorsWeights, Weights, check_floats

OPEN_CLIP = "cond_stage_model.model."


def open_single_file(name: str, path: Path, config: str | None) -> BaseModel:
    """Read a checkpoint's header and find its projections.

    Args:
        name: what the user called it.
        path: of the file.
        config: a shipped layout, or a folder of configurations; found out from the shapes unless given.

    Raises:
        BaseModelError: if it is damaged, holds code, or is no text-to-image model of the known layouts.
    """
    weights: Weights
    if path.suffix == ".safetensors":
        weights = SafetensorsWeights(path)
    elif path.suffix in PICKLES:
        weights = PickledWeights(path)
    else:
        raise BaseModelError(
            f"model.pretrained: {path} is a file that ends in {path.suffix!r}; give a .safetensors or .ckpt "
            "checkpoint, or the diffusers folder that holds model_index.json."
        )
    shapes = weights.shapes()
    names = unet_projections(shapes)
    if not names:
        raise BaseModelError(
            f"model.pretrained: {path} holds no U-Net in Stable Diffusion's original layout ({UNET}…attn2.to_k); "
            "give a whole checkpoint of Stable Diffusion 1.x, 2.x or XL, or a diffusers folder."
        )
    folder = configurations(path, config, shapes)
    prefixes = text_prefixes(shapes)
    if not prefixes:
        raise BaseModelError(
            f"model.pretrained: {path} holds no text encoder; give the whole checkpoint, not the U-Net alone."
        )
    encoders = ["text_encoder", "text_encoder_2"][: len(prefixes)]
    configs = [read_json(folder / part / "config.json") for part in encoders]
    config_of_unet = read_json(folder / "unet" / "config.json")
    width = check_widths(folder, config_of_unet.get("cross_attention_dim"), [one.get("hidden_size") for one in configs])
    unet = Renamed(weights, names)
    spaces = checked_spaces(str(path), unet, width, pooled_width(config_of_unet, configs))
    family = "sdxl" if len(prefixes) > 1 else "sd2" if OPEN_CLIP in prefixes else "sd1"
    text = tuple(ToDiffusers(weights, part, family) for part in encoders)
    for part, one, encoder in zip(encoders, configs, text, strict=True):
        check_text_encoder(folder / part / "config.json", one, encoder.shapes())
        check_floats(encoder, (name for name in encoder.shapes() if not name.endswith("position_ids")))
    return BaseModel(
        name=name,
        path=path,
        layout="single_file",
        family=family,
        variant=None,
        spaces=spaces,
        parameters=sum(math.prod(shape) for key, shape in shapes.items() if key.startswith(UNET)),
        unet=unet,
        text=text,
        config=folder,
    )


def configurations(path: Path, config: str | None, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Folder of the configurations of a checkpoint.

    Raises:
        BaseModelError: if none is known for it.
    """
    if config is None:
        kind = kind_of(shapes)
        if kind is None:
            raise BaseModelError(
                f"model.pretrained: {path} has the shapes of no layout that ships ({', '.join(LAYOUTS)}); "
                "give the folder of a model's configurations with --model.config."
            )
        return config_folder(kind, shapes)
    if config in LAYOUTS:
        return config_folder(config, shapes)
    folder = Path(config).expanduser()
    if not (folder / "model_index.json").is_file():
        raise BaseModelError(
            f"model.config: {config!r} is no layout that ships ({', '.join(LAYOUTS)}) and no folder with a "
            "model_index.json; give one of these."
        )
    index = read_json(folder / "model_index.json")
    check_index(folder / "model_index.json", index)
    for part in named_parts(index):
        check_part(folder / part)
    return folder
