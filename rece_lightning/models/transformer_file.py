"""Open FLUX.1 and Stable Diffusion 3 as their makers publish them and ComfyUI keeps them: the transformer alone.

Names and shapes of the header tell what it is, and where the text is read; text encoders and tokenizers come from a
diffusers folder of the same family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.denoisers import supported
from rece_lightning.models.families import family_named, family_of
from rece_lightning.models.families.base import Family
from rece_lightning.models.family_parts import warn_of_lost
from rece_lightning.models.folder import part_weights
from rece_lightning.models.original.model import ToDiffusers
from rece_lightning.models.original.pieces import Piece, Shape
from rece_lightning.models.part_configs import check_part, read_json, read_parts
from rece_lightning.models.pickled import PICKLES
from rece_lightning.models.weights import Weights, check_floats

PREFIXES = ("model.diffusion_model.", "")
"""What the names may begin with: in a whole checkpoint, and in a file of the transformer alone."""
MARKS = {"flux": "double_blocks.0.img_attn.qkv.weight", "sd3": "joint_blocks.0.x_block.attn.qkv.weight"}
"""Family → a tensor that no other of this layout has under this name beside its readers."""
SETTING = "model.text_encoders"


def config_of_file(pretrained: str, config: str | None, text_encoders: str | None) -> str | None:
    """Where the configurations of a checkpoint file are, of the two settings that may say it.

    Raises:
        ConfigurationError: if both do, or text encoders are given beside a model that has its own.
    """
    path = Path(pretrained)
    # What is to be a file and is not there, or lies behind a ~, is looked at where it is opened.
    named_so = path.suffix in (".safetensors", *PICKLES) and not path.is_dir()
    if text_encoders is not None and not named_so and not path.is_file():
        raise ConfigurationError(
            f"{SETTING}: {text_encoders!r} beside model.pretrained {pretrained!r}, which is no checkpoint file: a "
            "whole model is read with its own text encoders; leave the setting out."
        )
    if config is not None and text_encoders is not None:
        raise ConfigurationError(
            f"{SETTING}: {text_encoders!r} beside model.config {config!r}; the folder of the text encoders holds the "
            "configurations too, so give one of them."
        )
    return config if text_encoders is None else text_encoders


def original_readers(shapes: Mapping[str, Shape]) -> tuple[Family, dict[str, str]] | None:
    """Family, and diffusers name → name in the file of every weight that reads text; ``None`` for another layout.

    Args:
        shapes: of all tensors of the file.
    """
    for title, mark in MARKS.items():
        family = family_named(title)
        assert family is not None
        for prefix in PREFIXES:
            readers = {f"{own}.weight": f"{prefix}{original}.weight" for own, original in family.original.items()}
            if prefix + mark in shapes and all(name in shapes for name in readers.values()):
                return family, readers
    return None


def open_transformer_file(
    name: str, path: Path, config: str | None, variant: str | None, weights: Weights
) -> BaseModel | None:
    """Find what reads the text in a transformer's file; ``None`` for a file of another layout.

    Args:
        name: what the user called it.
        path: of the file.
        config: diffusers folder with the text encoders.
        variant: of the weight files of that folder.
        weights: of the file.

    Raises:
        BaseModelError: if the folder is missing or of another family, or a reader is quantized.
    """
    shapes = weights.shapes()
    found = original_readers(shapes)
    if found is None:
        return None
    family, readers = found
    own = ToDiffusers(weights, [Piece(original, (reader,)) for reader, original in readers.items()])
    check_floats(own, readers)
    folder = _folder(path, config, family)
    warn_of_lost(folder, family)
    named = [part for part in read_parts(folder) if part.startswith("text_encoder")]
    parts = [part for part in named if (folder / part).is_dir()]
    if not parts:
        raise BaseModelError(f"{SETTING}: {folder} holds no text encoder; give a whole diffusers folder.")
    for part in read_parts(folder):
        if (folder / part).is_dir():
            check_part(folder / part)
    transformer = _transformer_config(folder, own.shapes())
    spaces = family.spaces({"transformer": (transformer, own.shapes())})
    text = tuple(part_weights(folder, part, variant) for part in parts)
    return BaseModel(
        name=name,
        path=path,
        layout="single_file",
        family=family.name,
        variant=variant,
        spaces=spaces,
        parameters=sum(math.prod(shapes[key]) for key in denoiser_names(shapes) or ()),
        weights=own,
        text=text,
        denoisers={"transformer": (transformer, own)},
        encoder_names=parts,
        config=folder,
    )


def denoiser_names(shapes: Mapping[str, Shape]) -> list[str] | None:
    """Names of all tensors of the transformer in a file that :func:`original_readers` knows; ``None`` for another."""
    found = original_readers(shapes)
    if found is None:
        return None
    family, readers = found
    prefix = next(iter(readers.values())).removesuffix(f"{next(iter(family.original.values()))}.weight")
    return [name for name in shapes if name.startswith(prefix)]


def _folder(path: Path, config: str | None, family: Family) -> Path:
    """The diffusers folder that encodes for a file of a family."""
    how = f"give {SETTING} FOLDER, a diffusers folder of {family.title} with its text encoders and tokenizers"
    if config is None:
        raise BaseModelError(
            f"model.pretrained: {path} holds {family.title}'s transformer, and the text encoders are needed too; {how}."
        )
    folder = Path(config).expanduser()
    index = folder / "model_index.json"
    if not index.is_file():
        raise BaseModelError(f"{SETTING}: {config!r} is no folder with a model_index.json; {how}.")
    kind = str(read_json(index).get("_class_name"))
    other = family_of(kind)
    if other is None or other.name != family.name:
        raise BaseModelError(
            f"{SETTING}: {folder} is of {other.title if other else kind}, the file {path} of {family.title}; {how}. "
            f"Known families: {supported()}."
        )
    return folder


def _transformer_config(folder: Path, readers: Mapping[str, Shape]) -> dict[str, Any]:
    """The transformer's configuration as far as encoding asks for it; the file's shapes come first."""
    file = folder / "transformer" / "config.json"
    said = dict(read_json(file)) if file.is_file() else {}
    rows = next(shape for name, shape in readers.items() if name == "context_embedder.weight")
    return {**said, "joint_attention_dim": rows[1]}
