"""Which parts a folder of a declared family has, and whether they are enough; nothing of them is opened."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.beside import may_read_text
from rece_lightning.models.families.base import Family
from rece_lightning.models.part_configs import read_json, read_parts


def family_parts(folder: Path, family: Family) -> tuple[list[str], list[str]]:
    """Denoisers and text encoders of a folder.

    Args:
        folder: that ``save_pretrained`` of one of the family's pipelines wrote.
        family: of the pipeline.

    Raises:
        BaseModelError: for a part that is missing, or that reads the text and is not edited.
    """
    warn_of_lost(folder, family)
    without = left_out(folder, family)
    named = [part for part in read_parts(folder) if part not in without]
    index = read_json(folder / "model_index.json")
    denoisers = [part for part in family.denoisers if part in named]
    encoders = [part for part in named if part.startswith("text_encoder")]
    for part in (*denoisers, *encoders, *(part for part in named if part.startswith("tokenizer"))):
        if not (folder / part).is_dir():
            raise BaseModelError(
                f"model.pretrained: {folder} lacks {part}/, which its model_index.json names; copy the model whole."
            )
    if not denoisers:
        raise BaseModelError(
            f"model.pretrained: {folder}: its model_index.json names no {' or '.join(family.denoisers)}, which "
            f"{family.title} needs; copy the model whole."
        )
    _check_encoders(folder, family, read_json(folder / denoisers[0] / "config.json"), named, encoders)
    _check_stages(folder, family, denoisers, index)
    for part in named:
        own = part in family.denoisers or part.startswith("text_encoder")
        if not own and may_read_text(part, str(index[part][1])):
            raise BaseModelError(
                f"model.pretrained: {folder}: its {part} ({index[part][1]}) may read the text too, and an edit of "
                f"{family.title}'s denoiser leaves it as it is. Give the model without it."
            )
    return denoisers, encoders


def left_out(folder: Path, family: Family) -> dict[str, None]:
    """The parts that the pipeline is opened without: named without a class, or optional and not there.

    Diffusers saves a pipeline without one of its text encoders so, and does not open it again unless told.
    """
    index = read_json(folder / "model_index.json")
    optional = {one for part in family.optional for one in (part, _tokenizer(part))}
    none = [key for key, value in index.items() if isinstance(value, list) and value[:1] == [None]]
    gone = [part for part in optional if part in index and not (folder / part).is_dir()]
    # An encoder without its tokenizer, or the other way round, was lost.
    pairs = [{part, _tokenizer(part)} for part in family.optional]
    whole = {one for pair in pairs if pair <= {*none, *gone} for one in pair}
    return dict.fromkeys((*none, *(part for part in gone if part in whole)))


def warn_of_lost(folder: Path, family: Family) -> None:
    """Say which text encoders a folder's index names that are not there, though the model opens without them."""
    index, without = read_json(folder / "model_index.json"), left_out(folder, family)
    for part in family.optional:
        entry = index.get(part)
        if part in without and isinstance(entry, list) and entry[:1] != [None]:
            kind = str(entry[1]).removesuffix("EncoderModel")
            warnings.warn(
                f"model.pretrained: {folder} lacks {part}/ ({kind}), which its model_index.json names: its rows are "
                f"taken as zeros, and the model with {kind} reads more of the text than this one; copy the model "
                "whole to erase from that.",
                stacklevel=4,
            )


def _tokenizer(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")


def _check_encoders(folder: Path, family: Family, config: Any, named: list[str], encoders: list[str]) -> None:
    """Refuse a folder without a text encoder that a space's rows are made of, or without its tokenizer."""
    needed = [one for source in family.sources_of(config).values() for one in source.encoders]
    for part in dict.fromkeys(needed):
        if part not in encoders and part not in family.optional:
            raise BaseModelError(
                f"model.pretrained: {folder}: its model_index.json gives {part} no class, and "
                f"{family.title} reads what it makes of the text; copy the model whole."
            )
    for part in encoders:
        if _tokenizer(part) not in named:
            raise BaseModelError(
                f"model.pretrained: {folder}: its model_index.json names {part} and no {_tokenizer(part)}; copy the "
                "model whole."
            )


def _check_stages(folder: Path, family: Family, denoisers: list[str], index: dict[str, Any]) -> None:
    """Refuse a model of two denoisers that take the steps in turn, of which one is missing."""
    ratio = index.get("boundary_ratio")
    missing = [part for part in family.denoisers if part not in denoisers]
    # At 0 the first takes all steps, at 1 the second.
    needed = {"transformer": True, "transformer_2": isinstance(ratio, (int, float)) and ratio > 0}
    if isinstance(ratio, (int, float)) and ratio >= 1:
        needed["transformer"] = False
    lost = [part for part in missing if needed.get(part, False)]
    if len(family.denoisers) > 1 and lost:
        raise BaseModelError(
            f"model.pretrained: {folder} has no {lost[0]}: its boundary_ratio {ratio!r} divides the steps of a picture "
            f"between {' and '.join(family.denoisers)}, and what one draws the other would not be erased from. Copy "
            "the model whole."
        )
