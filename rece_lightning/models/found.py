"""A pipeline of no declared family: what a run of it shows of how it reads its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import LiveDenoisers, supported
from rece_lightning.models.families.base import Family, Place, Source
from rece_lightning.models.pipeline_encoder import PipelineEncoder
from rece_lightning.models.text import Encoded, PromptRows
from rece_lightning.models.text_space import TEXT
from rece_lightning.models.trace import Call, Group, Trace, calls_of, inputs_of, trace, with_text_of

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
        one, another = self._alike()
        first, later = calls_of(self.pipeline, self.denoiser, one)
        other = with_text_of(first, later, calls_of(self.pipeline, self.denoiser, another)[0])
        return first, other, trace(self.denoiser, first, later, other)

    def _alike(self) -> tuple[str, str]:
        """Two texts of as many tokens under every tokenizer."""
        tokenizers = [one for name, one in self.pipeline.components.items() if name.startswith("tokenizer") and one]
        for pair in TEXTS:
            counts = [[len(one(text)["input_ids"]) for text in pair] for one in tokenizers]
            if all(first == second for first, second in counts):
                return pair
        return TEXTS[0]

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
