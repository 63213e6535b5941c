"""Open a diffusers folder of a declared family: headers and configurations alone, no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models import folder as stable_diffusion
from rece_lightning.models.base import BaseModel
from rece_lightning.models.denoisers import refuse_unreachable, supported
from rece_lightning.models.families import family_of
from rece_lightning.models.families.base import Family
from rece_lightning.models.family_parts import family_parts
from rece_lightning.models.part_configs import check_part, read_json, read_parts
from rece_lightning.models.quantized import WAY_OUT
from rece_lightning.models.text_space import TextSpace
from rece_lightning.models.weights import Weights, check_floats


class JoinedWeights:
    """Weights of several parts as one, each name behind its part's."""

    def __init__(self, parts: Mapping[str, Weights]) -> None:
        self.parts = dict(parts)
        self.where = next(iter(self.parts.values())).where

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{part}.{name}": shape for part, one in self.parts.items() for name, shape in one.shapes().items()}

    def dtypes(self) -> dict[str, str]:
        return {f"{part}.{name}": dtype for part, one in self.parts.items() for name, dtype in one.dtypes().items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            part, own = name.split(".", 1)
            for _, tensor in self.parts[part].read([own]):
                yield name, tensor


def open_folder(name: str, folder: Path, variant: str | None) -> BaseModel:
    """Check that a folder, which the user called ``name``, is a text-to-image model whose parts fit together.

    Raises:
        BaseModelError: saying what is missing or does not fit.
    """
    index = folder / "model_index.json"
    kind = str(read_json(index).get("_class_name")) if index.is_file() else ""
    family = family_of(kind)
    if family is None:
        refuse_unreachable(kind, "model.pretrained")
        own = "StableDiffusion" in kind
        if index.is_file() and not own and not stable_diffusion.is_named(read_parts(folder)):
            raise BaseModelError(
                f"model.pretrained: {folder} is a {kind}, whose family is not known; give a model of {supported()}, or "
                "load the pipeline and try rece_lightning.erase(pipeline, ...)."
            )
        return stable_diffusion.open_folder(name, folder, variant)
    return open_family(name, folder, variant, family)


def open_family(name: str, folder: Path, variant: str | None, family: Family) -> BaseModel:
    """Check that the parts of a folder fit together, and find what reads the text.

    Args:
        name: what the user called it.
        folder: that ``save_pretrained`` of one of the family's pipelines wrote.
        variant: of the weight files.
        family: that the folder's pipeline belongs to.

    Raises:
        BaseModelError: saying what is missing or does not fit.
    """
    denoisers, encoders = family_parts(folder, family)
    for part in read_parts(folder):
        if (folder / part).is_dir():
            check_part(folder / part)
    weights = {part: stable_diffusion.part_weights(folder, part, variant) for part in (*denoisers, *encoders)}
    configs = {part: read_json(folder / part / "config.json") for part in denoisers}
    spaces = family.spaces({part: (configs[part], weights[part].shapes()) for part in denoisers})
    _check_spaces(folder, family, configs[denoisers[0]], spaces)
    joined: Weights = weights[denoisers[0]] if len(denoisers) == 1 else JoinedWeights(
        {part: weights[part] for part in denoisers}
    )  # fmt: skip
    for space in spaces:
        check_floats(joined, space.readers)
    return BaseModel(
        name=name,
        path=folder,
        layout="folder",
        family=family.name,
        variant=variant,
        spaces=spaces,
        parameters=sum(math.prod(shape) for shape in joined.shapes().values()),
        weights=joined,
        text=tuple(weights[part] for part in encoders),
        encoder_names=encoders,
        denoisers={part: (configs[part], weights[part]) for part in denoisers},
    )


def _check_spaces(folder: Path, family: Family, config: Mapping[str, Any], spaces: tuple[TextSpace, ...]) -> None:
    found = {space.name for space in spaces}
    for place in family.places_of(config):
        if place.name not in found and place.instead_of is None and place.component is None:
            raise BaseModelError(
                f"model.pretrained: {folder}: {family.title} reads its space {place.name!r} with {place.readers}, and "
                "no such weight is there; the file is incomplete, of another model, or quantized: then "
                f"{WAY_OUT}."
            )
