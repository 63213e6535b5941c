"""A family of models: which parts denoise, where they read their text, and how its pipeline makes the rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rece_lightning.models.text_space import ENTRY, POOLED, TEXT, Reader, TextSpace

Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]
KIND = re.compile(r"\.to_([kv])$")


@dataclass(frozen=True)
class Source:
    """Rows that a pipeline's ``encode_prompt`` gives, before anything of the denoiser touches them."""

    argument: str
    """Of the pipeline, which takes these rows in place of a prompt."""
    answer: int
    """Place among what ``encode_prompt`` returns."""
    encoders: tuple[str, ...] = ("text_encoder",)
    """Parts of the pipeline whose rows follow one another; of one row a prompt all that make it."""
    mask: int | None = None
    """Place of the mask of rows that are read; without one all of them are."""
    mask_argument: str | None = None
    """Argument of the pipeline that takes it."""
    packed: bool = False
    """Rows of padding are left out, so that a row's place counts the tokens that are none."""
    one_row: bool = False
    """One row a prompt."""
    listed: bool = False
    """The pipeline takes a list, one tensor a prompt."""
    layer: int | None = None
    """Of an answer that holds several layers of an encoder, the one that is meant."""
    negative: int | None = None
    """Place of what guidance reads without a prompt, where that is another text than an empty prompt."""
    negative_mask: int | None = None
    """Place of its mask."""


@dataclass(frozen=True)
class Place:
    """A declared text space: how the weights are called that read it, and what its rows have passed by then."""

    name: str
    readers: str
    """Regular expression of their whole names, without ``.weight``."""
    source: str = TEXT
    """Which rows."""
    before: tuple[str, ...] = ()
    """Modules of the denoiser that the rows pass first, in this order: a norm, a projector."""
    instead_of: str | None = None
    """Name of the space in whose place it may be edited."""
    columns: Callable[[Config], int] | None = None
    """How many leading columns of the readers' input are the text's; all of them unless given."""
    component: str | None = None
    """The denoiser that reads it; every one unless given."""


@dataclass(frozen=True)
class Family:
    """What is declared of a family. :mod:`rece_lightning.models.trace` finds the same in a running pipeline."""

    name: str
    title: str
    pipelines: tuple[str, ...]
    """Diffusers' classes."""
    places: tuple[Place, ...] | Callable[[Config], tuple[Place, ...]]
    sources: Mapping[str, Source] | Callable[[Config], Mapping[str, Source]]
    denoisers: tuple[str, ...] = ("transformer",)
    """Parts of the pipeline that may denoise; one or more of them are there."""
    guidance: str = "guidance_scale"
    """Argument of the pipeline that says how far to go from the empty prompt's picture."""
    unguided: float = 1.0
    """Up to this scale that guidance is off."""
    prompt_first: bool = False
    """Whether the prompts stand before the empty ones where a pipeline guides in one batch."""
    negative: bool = True
    """Whether that guidance reads the empty prompt; a distilled model's is a number that it is given."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """What else a pipeline is called with for one picture: one frame of a video."""
    optional: tuple[str, ...] = ()
    """Text encoders that a folder may lack, with their tokenizers, as its makers say."""
    lora: bool = True
    """Whether its pipelines load LoRAs."""
    draws: bool = True
    """Whether its pipelines make pictures from a prompt alone."""
    original: Mapping[str, str] = field(default_factory=dict)
    """Reader without ``.weight`` → its name in the layout of the model's makers, which other tools keep."""
    note: str = ""
    """What else a user should know, one sentence."""

    def places_of(self, config: Config) -> tuple[Place, ...]:
        """Its text spaces.

        Args:
            config: of the denoiser.
        """
        return self.places(config) if callable(self.places) else self.places

    def sources_of(self, config: Config) -> Mapping[str, Source]:
        """Its rows by name.

        Args:
            config: of the denoiser.
        """
        return self.sources(config) if callable(self.sources) else self.sources

    def reader(self, config: Config) -> Callable[[str], bool]:
        """Whether a parameter of this name in a denoiser reads text.

        Args:
            config: of the denoiser.
        """
        patterns = [re.compile(place.readers) for place in self.places_of(config)]

        def reads(name: str) -> bool:
            stem = name.removesuffix(".weight")
            return stem != name and any(pattern.fullmatch(stem) for pattern in patterns)

        return reads

    def spaces(self, denoisers: Mapping[str, tuple[Config, Shapes]]) -> tuple[TextSpace, ...]:
        """The text spaces of a model, from configurations, names and shapes alone.

        Args:
            denoisers: part → its configuration, and the shapes of its parameters under their diffusers names. With
                several parts the names of parameters begin with the part's.
        """
        several = len(denoisers) > 1
        found: dict[str, tuple[Place, int, dict[str, Reader]]] = {}
        for component, (config, shapes) in denoisers.items():
            for place in self.places_of(config):
                if place.component not in (None, component):
                    continue
                wanted = re.compile(place.readers)
                columns = None if place.columns is None else place.columns(config)
                # Sorted: the sum over layers must not depend on how a file orders them.
                for name, shape in sorted(shapes.items()):
                    stem = name.removesuffix(".weight")
                    if stem == name or len(shape) != 2 or not wanted.fullmatch(stem):
                        continue
                    kind = KIND.search(stem)
                    reader = Reader(tuple(shape), None if columns is None else (0, columns), kind[1] if kind else "")
                    _, _, readers = found.setdefault(place.name, (place, columns or shape[1], {}))
                    readers[f"{component}.{name}" if several else name] = reader
        return tuple(
            TextSpace(name, width, readers, place.source, place.before, place.instead_of, place.component)
            for name, (place, width, readers) in found.items()
        )


CONTEXT = Place(TEXT, r"context_embedder")
"""One map that all rows of the prompt pass."""
POOLED_BESIDE_TIME = Place(POOLED, r"time_text_embed\.text_embedder\.linear_1", POOLED)
"""The first map of a pooled embedding that is added to that of the timestep."""


def behind_projector(*modules: str) -> tuple[Place, ...]:
    """Keys and values of every block behind a projector, and the projector's first map in their place.

    Args:
        modules: that the rows pass, the projector first.
    """
    return (
        Place(TEXT, r"transformer_blocks\.\d+\.attn2\.to_[kv]", before=modules),
        Place(ENTRY, rf"{re.escape(modules[0])}\.linear_1", instead_of=TEXT),
    )


def rows_and_pooled(rows: Source, pooled: Source | None = None) -> dict[str, Source]:
    """The usual two names."""
    return {TEXT: rows} | ({} if pooled is None else {POOLED: pooled})
