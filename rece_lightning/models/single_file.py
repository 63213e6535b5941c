"""Open a checkpoint file in the original Stable Diffusion layout: one file, names and shapes alone tell what it is."""

from __future__ import annotations

import math
from pathlib import Path

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.layouts import LAYOUTS, config_folder, kind_of
from rece_lightning.models.original.markers import Changes, marked
from rece_lightning.models.original.model import ToDiffusers, pieces_in_file, text_prefixes, unet_projections
from rece_lightning.models.original.pieces import Piece
from rece_lightning.models.original.unet import PREFIX
from rece_lightning.models.part_configs import check_part, check_parts, read_parts
from rece_lightning.models.pickled import PICKLES, file_weights
from rece_lightning.models.quantized import gguf_refused, is_gguf
from rece_lightning.models.transformer_file import open_transformer_file
from rece_lightning.models.weights import Weights


def open_single_file(name: str, path: Path, config: str | None, variant: str | None = None) -> BaseModel:
    """Read the header of a checkpoint, which the user called ``name``, and find its projections.

    Args:
        config: a shipped layout, or a folder of configurations; found out from the shapes unless given. For a file of
            a transformer alone the diffusers folder of its text encoders.
        variant: of the weight files in such a folder.

    Raises:
        BaseModelError: if it is damaged, holds code, or is no text-to-image model of the known layouts.
    """
    if is_gguf(path):
        raise BaseModelError(gguf_refused(path))
    if path.suffix not in (".safetensors", *PICKLES):
        raise BaseModelError(
            f"model.pretrained: {path} is a file that ends in {path.suffix!r}; give a .safetensors or .ckpt "
            "checkpoint, or the diffusers folder that holds model_index.json."
        )
    weights = file_weights(path)
    transformer = open_transformer_file(name, path, config, variant, weights)
    if transformer is not None:
        return transformer
    shapes = weights.shapes()
    names = unet_projections(shapes)
    if not names:
        raise BaseModelError(
            f"model.pretrained: {path} holds no U-Net in Stable Diffusion's original layout ({PREFIX}…attn2.to_k); "
            "give a whole checkpoint of Stable Diffusion 1.x, 2.x or XL, the transformer's file of FLUX.1 or Stable "
            "Diffusion 3, or a diffusers folder."
        )
    _check_first_attention(path, shapes)
    folder = _configurations(path, config, shapes, marked(weights))
    prefixes = text_prefixes(shapes)
    if not prefixes:
        raise BaseModelError(
            f"model.pretrained: {path} holds no text encoder; give the whole checkpoint, not the U-Net alone."
        )
    encoders = ["text_encoder", "text_encoder_2"][: len(prefixes)]
    family = "sdxl" if len(prefixes) > 1 else "sd2" if "cond_stage_model.model." in prefixes else "sd1"
    unet = ToDiffusers(weights, [Piece(stored, (name,)) for name, stored in names.items()])
    text = {part: ToDiffusers(weights, pieces_in_file(part, shapes, family)) for part in encoders}
    spaces, _ = check_parts(folder, str(path), unet, text)
    return BaseModel(
        name=name,
        path=path,
        layout="single_file",
        family=family,
        variant=None,
        spaces=spaces,
        parameters=sum(math.prod(shape) for key, shape in shapes.items() if key.startswith(PREFIX)),
        weights=unet,
        text=tuple(text.values()),
        config=folder,
    )


def whole_unet(path: Path) -> Weights:
    """The U-Net of a checkpoint file under its diffusers names.

    Raises:
        BaseModelError: if diffusers has no place for one of its tensors.
    """
    weights = file_weights(path)
    # The family decides names of text encoders alone.
    return ToDiffusers(weights, pieces_in_file("unet", weights.shapes(), "sd1"))


def _check_first_attention(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a U-Net whose first attention reads the text too, as that of Stable Diffusion's upscaler does.

    Raises:
        BaseModelError: naming the layer.
    """
    for key, shape in shapes.items():
        if key.startswith(PREFIX) and key.endswith(".attn1.to_k.weight"):
            queries = shapes.get(key.replace("to_k", "to_q"), shape)
            if queries[-1] != shape[-1]:
                layer = key.removesuffix(".to_k.weight")
                raise BaseModelError(
                    f"model.pretrained: {path}: {layer} reads the text too, and only attn2 is known of such files; "
                    "give the diffusers folder of this model."
                )


def _configurations(path: Path, config: str | None, shapes: dict[str, tuple[int, ...]], changes: Changes) -> Path:
    """Folder of the configurations of a checkpoint."""
    if config is None:
        kind = kind_of(shapes)
        if kind is None:
            raise BaseModelError(
                f"model.pretrained: {path} has the shapes of no layout that ships ({', '.join(LAYOUTS)}); "
                "give the folder of a model's configurations with --model.config."
            )
        return config_folder(kind, shapes, changes)
    if config in LAYOUTS:
        return config_folder(config, shapes, changes)
    folder = Path(config).expanduser()
    if not (folder / "model_index.json").is_file():
        raise BaseModelError(
            f"model.config: {config!r} is no layout that ships ({', '.join(LAYOUTS)}) and no folder with a "
            "model_index.json; give one of these."
        )
    for part in read_parts(folder):
        check_part(folder / part)
    return folder
