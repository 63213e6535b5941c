"""A pipeline of no declared family: what a run of it shows of how it reads its text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import LiveDenoisers, supported
from rece_lightning.models.families.base import Family, Place, Source
from rece_lightning.models.live_readers import LiveReaders
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text import Encoded, PromptRows
from rece_lightning.models.text_space import TEXT, home_of
from rece_lightning.models.trace import Call, Group, Trace, calls_of, gets_around, inputs_of, trace, with_text_of

DENOISERS = ("transformer", "unet", "prior")
TEXTS = (("a dog", "a cat"), ("a axe", "a dog"), ("a man", "a car"), ("red", "blue"), ("one", "two"))
"""Pairs, of which one has as many tokens: how many there are tells a denoiser something that is no embedding."""


class FoundDenoiser:
    """What a trace of a pipeline's denoiser found, as if its family had been declared.

    Args:
        pipeline: of diffusers, of no declared family; it makes the first step of two pictures.

    Raises:
        ConfigurationError: if it cannot be run, or something gets the text around the linear maps that were found.
    """

    def __init__(self, pipeline: Any) -> None:
        self.kind, self.pipeline = type(pipeline).__name__, pipeline
        parts = {name: getattr(pipeline, name, None) for name in DENOISERS}
        self.part = next((name for name, part in parts.items() if isinstance(part, nn.Module)), "")
        if not self.part or not hasattr(pipeline, "encode_prompt"):
            raise ConfigurationError(
                f"erase: {self.kind} is of no known family, and has no {', '.join(DENOISERS)} to look at; give a "
                f"diffusers pipeline of {supported()}."
            )
        self.denoiser: nn.Module = getattr(pipeline, self.part)
        try:
            self.first, self.other, found = self._traced()
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigurationError(
                f"erase: {self.kind} is of no known family, and cannot be run with a prompt alone to see how it reads "
                f"its text ({reason}); give a diffusers pipeline of {supported()}."
            ) from error
        odd = [group for group in found.entries if group.columns is not None and group.columns[0] != 0]
        if not found.complete or odd or not found.entries:
            around = ", ".join(found.around) or (odd[0].names[0] if odd else "nothing that was seen")
            raise ConfigurationError(
                f"erase: {self.kind} is of no known family, and its text gets around every linear map that reads it "
                f"alone, through {around}; an edit in closed form would leave it there. Give a pipeline of "
                f"{supported()}."
            )
        self.entries = found.entries
        self.family = self._family()

    def _traced(self) -> tuple[Call, Call, Trace]:
        first, later, other = two_texts(self.pipeline, self.denoiser)
        return first, other, trace(self.denoiser, first, later, other)

    def names(self) -> list[str]:
        """The readers that were found."""
        return [name for group in self.entries for name in group.names]

    def _family(self) -> Family:
        places = []
        for number, group in enumerate(self.entries):
            readers = "|".join(re.escape(name) for name in group.names)
            columns = None if group.columns is None else _count(group)
            name = TEXT if number == 0 else f"{TEXT}_{number + 1}"
            places.append(Place(name, f"(?:{readers})", name, columns=columns))
        encoders = tuple(name for name in self.pipeline.components if name.startswith("text_encoder"))
        sources = {place.source: Source(place.name, 0, encoders[:1] or ("text_encoder",)) for place in places}
        return Family("found", self.kind, (self.kind,), tuple(places), sources, (self.part,))

    def live(self) -> LiveDenoisers:
        """Its readers, to be edited in place."""
        return LiveDenoisers(self.pipeline, self.family, "erase: pipeline")

    def encoder(self, live: LiveDenoisers) -> FoundEncoder:
        """What encodes its prompts."""
        return FoundEncoder(self, live)


LIBRARIES = ("diffusers", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "torchao", "optimum")
"""Whose modules are what their family's declaration was tested on."""


def refuse_changed(pipeline: Any, live: LiveReaders, parts: Mapping[str, nn.Module], field: str) -> None:
    """Trace a denoiser of a known family that has modules of somebody else: the declaration may miss what these read.

    Args:
        pipeline: of diffusers.
        live: its declared readers.
        parts: part of the pipeline → its denoiser.
        field: where it was found, for messages.

    Raises:
        ConfigurationError: if the text gets around the declared readers.
    """
    for part, denoiser in parts.items():
        foreign = next(
            (type(one) for one in denoiser.modules() if type(one).__module__.split(".")[0] not in LIBRARIES), None
        )
        if foreign is None or part not in pipeline.components:
            continue
        name = f"{foreign.__module__}.{foreign.__qualname__}"
        try:
            if live.adapted:
                raise ValueError("a LoRA lies around its readers")
            first, _, other = two_texts(pipeline, denoiser)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            warnings.warn(
                f"{field}: {part} has modules of its own ({name}), and could not be traced ({error}): whether "
                "these read the text beside what is edited was not looked at.",
                stacklevel=4,
            )
            continue
        declared = [
            Group((path,), reader.columns)
            for space in live.spaces
            for weight, reader in space.readers.items()
            for home, path in [home_of(weight.removesuffix(".weight"), parts)]
            if home == part
        ]
        around = gets_around(denoiser, declared, first, other)
        if around:
            raise ConfigurationError(
                f"{field}: {part} has modules of its own ({name}), and the text gets around what its family reads it "
                f"with, through {', '.join(around)}; an edit would leave it there. Give the pipeline with the {part} "
                "that diffusers has for it."
            )


def two_texts(pipeline: Any, denoiser: nn.Module) -> tuple[Call, Call, Call]:
    """What a denoiser is given at one step, at another step with the same text, and at the first with another text."""
    tokenizers = [one for name, one in pipeline.components.items() if name.startswith("tokenizer") and one]

    def alike(pair: tuple[str, str]) -> bool:
        counts = [[len(one(text)["input_ids"]) for text in pair] for one in tokenizers]
        return all(first == second for first, second in counts)

    one, another = next(filter(alike, TEXTS), TEXTS[0])
    first, later = calls_of(pipeline, denoiser, one)
    return first, later, with_text_of(first, later, calls_of(pipeline, denoiser, another)[0])


def _count(group: Group) -> Any:
    assert group.columns is not None
    count = group.columns[1]
    return lambda _: count


class FoundEncoder(PipelineEncoder):
    """Rows are what the readers are given while the pipeline begins a picture."""

    def __init__(self, found: FoundDenoiser, live: LiveDenoisers) -> None:
        super().__init__(found.pipeline, found.family, live.config, live.spaces)
        self.found = found
        watched = {group.names[0]: found.denoiser.get_submodule(group.names[0]) for group in found.entries}
        self._watched: Mapping[str, nn.Module] = watched
        one, another = (inputs_of(found.denoiser, call, watched) for call in (found.first, found.other))
        # Which call, and which row of its batch, is the prompt's: the last one that the text changes.
        self._place = {name: _varying(one[name], another[name]) for name in watched}

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Encoded:
        """Encode prompts one by one."""
        spaces: dict[str, list[PromptRows]] = {name: [] for name in self.spaces}
        for prompt in prompts:
            with self.recorded() as seen:
                call = calls_of(self.found.pipeline, self.found.denoiser, prompt)[0]
            inputs = inputs_of(self.found.denoiser, call, self._watched)
            for space, group in zip(self.spaces.values(), self.found.entries, strict=True):
                number, row = self._place[group.names[0]]
                read = inputs[group.names[0]][number]
                rows = (read[row] if read.ndim > 2 else read[row : row + 1])[..., : space.width]
                last = 0
                for encoder, (ids, mask) in seen.items():
                    if 1 < len(rows) <= len(ids):
                        last = self._last(encoder, ids, mask, len(rows), packed=False)
                        break
                spaces[space.name].append(PromptRows(rows, last))
        first = spaces[next(iter(spaces))]
        return Encoded(
            embeddings=torch.stack([one.rows for one in first]) if first else torch.zeros(0, 0, 0),
            last_subject=torch.tensor([one.last for one in first]),
            spaces=spaces,
        )


def _varying(one: list[Tensor], another: list[Tensor]) -> tuple[int, int]:
    """Call and row of the batch in which two texts differ, the last of them."""
    found = (0, 0)
    for number, (first, other) in enumerate(zip(one, another, strict=False)):
        if first.shape != other.shape:
            continue
        differs = (first != other).flatten(1).any(dim=1).nonzero().flatten()
        if len(differs):
            found = number, int(differs[-1])
    return found
