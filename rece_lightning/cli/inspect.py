"""``rece inspect``: how a model reads its text, and what an erasure of it would take. No weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rece_lightning.cli.parser import Parser
from rece_lightning.cli.verbs import TOOLS

if TYPE_CHECKING:
    from rece_lightning.models.base import BaseModel
    from rece_lightning.models.text_space import TextSpace
    from rece_lightning.models.weights import Weights

SHOWN = 3
"""Readers of a space that are named one by one."""


def inspect_command(argv: Sequence[str]) -> None:
    """Open the model's headers and say what is in them."""
    from rece_lightning.models.find import find_base
    from rece_lightning.models.transformer_file import config_of_file

    parser = Parser(prog="rece inspect", description=TOOLS["inspect"], allow_abbrev=False)
    parser.add_argument("--model.pretrained", dest="pretrained", required=True, help="as of `rece fit`")
    for name in ("revision", "variant", "config", "text_encoders"):
        parser.add_argument(f"--model.{name}", dest=name, help="as of `rece fit`")
    asked = parser.parse_args(argv)
    config = config_of_file(asked.pretrained, asked.config, asked.text_encoders)
    base = find_base(asked.pretrained, asked.revision, asked.variant, config)
    print("\n".join(description(base)))


def description(base: BaseModel) -> list[str]:
    """What is to be said of a model, line by line."""
    from rece_lightning.devices.sizes import algebra

    lines = [f"model: {base.name}", f"family: {title(base)}"]
    denoiser, parameters = of_denoiser(base)
    dtypes = denoiser.dtypes()
    stored = ", ".join(sorted({dtypes[name] for name in parameters}))
    lines.append(f"denoiser: {base.parameters:,} parameters, stored as {stored}")
    lines.append(f"text encoders: {', '.join(f'{one} ({size(bytes_of(weights))})' for one, weights in named(base))}")
    for space in base.spaces:
        lines += ["", *of_space(space)]
    # Of what may be edited in place of another space one is: the default, which the base is opened with.
    chosen = tuple(space for space in base.spaces if space.instead_of is None)
    kept, working = algebra(base, [name for space in chosen for name in space.names])
    edited = sum(bytes_of(base.weights, space.names) for space in chosen)
    whole, encoders = bytes_of(denoiser, parameters), sum(bytes_of(weights) for _, weights in named(base))
    lines += [
        "",
        f"an erasure reads {size(edited)} of the denoiser's {size(whole)}, and {size(encoders)} of text encoders",
        f"its matrices take {size(kept)} of memory, and {size(working)} more while an epoch runs",
    ]
    return lines


def of_denoiser(base: BaseModel) -> tuple[Weights, Sequence[str]]:
    """What denoises, with the names of all its parameters: a transformer's file was opened for its readers alone."""
    from rece_lightning.models.pickled import file_weights
    from rece_lightning.models.transformer_file import denoiser_names

    if base.layout == "single_file":
        file = file_weights(base.path)
        names = denoiser_names(file.shapes())
        if names is not None:
            return file, names
    return base.weights, list(base.weights.shapes())


def title(base: BaseModel) -> str:
    """What the model's family is called."""
    from rece_lightning.models.families import FAMILIES

    own = {
        "sd1": "Stable Diffusion 1.x",
        "sd2": "Stable Diffusion 2.x",
        "sdxl": "Stable Diffusion XL",
        "sdxl-refiner": "Stable Diffusion XL's refiner",
    }
    return {**own, **{family.name: family.title for family in FAMILIES}}[base.family]


def named(base: BaseModel) -> list[tuple[str, Weights]]:
    """Text encoders with the names of their parts."""
    return [(name, weights) for name, weights in zip(base.encoders, base.text, strict=True)]


def of_space(space: TextSpace) -> list[str]:
    """A text space: how wide it is, what its rows have passed, and what reads it."""
    place = f", in place of {space.instead_of} (model.method.spaces: [{space.name}])" if space.instead_of else ""
    lines = [f"space {space.name}: {space.width:,} wide{place}"]
    if space.before:
        lines.append(f"  behind {' and '.join(space.before)}")
    readers = list(space.readers.items())
    for name, reader in readers[:SHOWN]:
        columns = "" if reader.columns is None else f", columns {reader.columns[0]:,} to {reader.columns[1] - 1:,}"
        lines.append(f"  {name}  {' × '.join(f'{one:,}' for one in reader.shape)}{columns}")
    if len(readers) > SHOWN:
        lines.append(f"  … {len(readers)} in all")
    if any(reader.kind for _, reader in readers):
        lines.append("  keys and values can be edited apart (model.method.projections)")
    return lines


def bytes_of(weights: Weights, names: Sequence[str] | None = None) -> int:
    """Bytes of stored tensors, of all of them unless named."""
    from math import prod

    import torch

    shapes, dtypes = weights.shapes(), weights.dtypes()
    total = 0
    for name in shapes if names is None else names:
        kind = getattr(torch, dtypes[name], None)
        total += prod(shapes[name]) * (kind.itemsize if isinstance(kind, torch.dtype) else 1)
    return total


def size(count: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"
