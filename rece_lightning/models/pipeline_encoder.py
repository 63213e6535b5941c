"""Prompts → rows by a pipeline's own ``encode_prompt``, and which of them are the concept."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.encoded_answer import call_of, embedded, rows_of
from rece_lightning.models.encoder_turns import EncoderTurns
from rece_lightning.models.families.base import Family, Source
from rece_lightning.models.text import Encoded, PromptRows
from rece_lightning.models.text_space import TEXT, TextSpace

WORD = "a"
"""Any text of one token or more: what follows it is what a tokenizer or a template puts behind every text."""
FIXED = {"do_classifier_free_guidance": False, "batch_size": 1, "num_images_per_prompt": 1, "num_videos_per_prompt": 1}


Seen = dict[str, tuple[Tensor, "Tensor | None"]]
"""Text encoder → tokens and mask that it was given, ``[positions]`` of the first prompt."""


class _Enough(Exception):
    """The tokens were seen."""


class PipelineEncoder:
    """Encodes with a diffusers pipeline, whose denoiser and autoencoder need not be there.

    Rows are those of the pipeline's own ``encode_prompt``, bit for bit, one prompt at a time: with several together
    some pipelines pad them to the longest. What a denoiser's mask hides is zero here, and counts for nothing.

    Args:
        pipeline: with tokenizers and text encoders.
        family: of the pipeline.
        config: of its denoiser.
        spaces: that rows are asked for.
        passed: gives the rows of a space after the modules that they pass before a reader.
        asked: arguments of ``encode_prompt`` that the model wants in place of the defaults of a call.
        turns: of text encoders that need not all be in memory at once.

    Raises:
        BaseModelError: if a text encoder is missing that a space needs.
    """

    def __init__(
        self,
        pipeline: Any,
        family: Family,
        config: Mapping[str, Any],
        spaces: Sequence[TextSpace],
        passed: Callable[[TextSpace, Tensor], Tensor] | None = None,
        asked: Mapping[str, Any] | None = None,
        turns: EncoderTurns | None = None,
    ) -> None:
        self.pipeline, self.family, self.asked = pipeline, family, asked or {}
        self.sources = family.sources_of(config)
        self.spaces = {space.name: space for space in spaces}
        self.passed = passed or (lambda space, rows: rows)
        self.turns = turns
        self._suffixes: dict[str, int] = {}
        for source in self.sources.values():
            if all(getattr(pipeline, name, None) is None for name in source.encoders):
                raise BaseModelError(
                    f"{type(pipeline).__name__} has no {source.encoders[0]}, which makes its {source.argument}; load "
                    "the pipeline whole."
                )

    # What it is made of

    @property
    def towers(self) -> list[tuple[Any, nn.Module]]:
        """Tokenizers and text encoders, those that are there; all of them stay in memory from then on."""
        if self.turns is not None:
            self.turns.hold()
        return [(self.tokenizer_of(name), part) for name, part in self._encoders.items()]

    @property
    def _encoders(self) -> dict[str, nn.Module]:
        """Text encoders that are there."""
        parts = self.pipeline.components.items()
        return {name: part for name, part in parts if name.startswith("text_encoder") and isinstance(part, nn.Module)}

    def tokenizer_of(self, encoder: str) -> Any:
        """Tokenizer of a text encoder, by the name of its part."""
        tokenizer = getattr(self.pipeline, encoder.replace("text_encoder", "tokenizer"))
        return getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one

    @property
    def first_encoder(self) -> str:
        """The text encoder whose rows the denoiser reads one by one."""
        return next(name for name in self.sources[TEXT].encoders if getattr(self.pipeline, name, None) is not None)

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.tokenizer_of(self.first_encoder)

    @property
    def text_encoder(self) -> Any:
        """The encoder itself."""
        return getattr(self.pipeline, self.first_encoder)

    @property
    def device(self) -> torch.device:
        """Where it lies, or is put for its turn."""
        if self.turns is not None:
            return self.turns.device
        return next(self.text_encoder.parameters()).device

    # Rows

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Encoded:
        """Encode prompts one by one."""
        spaces: dict[str, list[PromptRows]] = {name: [] for name in self.spaces}
        calls = []
        for prompt, (answer, seen) in zip(prompts, self.answers(prompts), strict=True):
            calls.append(call_of(answer, self.sources) | ({} if prompt else self._without_prompt()))
            for name, source in self.sources.items():
                rows, mask = rows_of(answer, source)
                places = self._places(source, seen, len(rows))
                for space in self.spaces.values():
                    if (space.source or space.name) != name:
                        continue
                    read = self.passed(space, rows)
                    if mask is not None:
                        read = read * mask[:, None].to(read)
                    spaces[space.name].append(PromptRows(read, *places))
        last = torch.tensor([one.last for one in next(iter(spaces.values()), [])])
        return Encoded(**vars(embedded(calls, self.sources)), last_subject=last, spaces=spaces)

    def _without_prompt(self) -> dict[str, Tensor]:
        """What guidance reads in place of a prompt, by the pipeline's arguments, where it is no empty prompt."""
        places: dict[str | None, int | None] = {}
        for source in self.sources.values():
            places |= {source.argument: source.negative, source.mask_argument: source.negative_mask}
        wanted = {f"negative_{name}": place for name, place in places.items() if place is not None}
        answer = self.answer("", do_classifier_free_guidance=True, negative_prompt=[""]) if wanted else ()
        return {name: answer[place][0] for name, place in wanted.items()}

    def answers(self, prompts: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], Seen]]:
        """Of each prompt what ``encode_prompt`` returns, and what the encoders were given."""

        def ask(prompt: str) -> tuple[tuple[Any, ...], Seen]:
            with self.recorded() as seen:
                return self.answer(prompt), seen

        yield from map(ask, prompts) if self.turns is None else self.turns.answers(prompts, ask)

    def answer(self, prompt: str, **further: Any) -> tuple[Any, ...]:
        """What ``encode_prompt`` returns, asked as the pipeline's own call asks it, or with ``further`` arguments."""
        arguments = {**self._arguments, "prompt": [prompt], **further}
        if "device" in arguments:
            arguments["device"] = self.device
        answer = self.pipeline.encode_prompt(**arguments)
        return answer if isinstance(answer, tuple) else (answer,)

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """What ``encode_prompt`` is called with beside the prompt: what a call of the pipeline gives it."""
        encode = inspect.signature(self.pipeline.encode_prompt).parameters
        call = inspect.signature(self.pipeline.__call__).parameters
        shared = {
            name: call[name].default
            for name in encode
            if name in call and call[name].default is not inspect.Parameter.empty and "prompt" not in name
        }
        if "complex_human_instruction" in call:  # its name is no prompt's, its default is part of every prompt
            shared["complex_human_instruction"] = call["complex_human_instruction"].default
        fixed = {name: value for name, value in FIXED.items() if name in encode}
        empty = {name: None for name, one in encode.items() if one.default is inspect.Parameter.empty}
        device = {"device": None} if "device" in encode else {}
        return {**empty, **shared, **fixed, **self.asked, **device}

    @contextmanager
    def recorded(self, until: Collection[str] = ()) -> Iterator[Seen]:
        """Within the block text encoders leave their tokens and masks here, ``[positions]`` of the first prompt."""
        seen: Seen = {}
        handles = []

        def keeper(name: str) -> Callable[..., None]:
            def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                ids = kwargs.get("input_ids", args[0] if args else None)
                mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
                if isinstance(ids, Tensor) and name not in seen:
                    seen[name] = ids[0].cpu(), mask[0].cpu() if isinstance(mask, Tensor) else None
                if until and seen.keys() >= set(until):
                    raise _Enough

            return keep

        for name, part in self._encoders.items():
            handles.append(part.register_forward_pre_hook(keeper(name), with_kwargs=True))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    # Where the subject is

    def _places(
        self, source: Source, seen: Mapping[str, tuple[Tensor, Tensor | None]], count: int
    ) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Row of the last subject token, and first row and that row of every further encoder's part."""
        if source.one_row:
            return 0, ()
        found, start = [], 0
        for encoder in source.encoders:
            if encoder not in seen:
                continue
            ids, mask = seen[encoder]
            last_part = encoder == source.encoders[-1] or len(source.encoders) == 1
            length = count - start if last_part else len(ids)
            found.append((start, start + self._last(encoder, ids, mask, length, packed=source.packed)))
            start += length
        first, *more = found
        return first[1], tuple(more)

    def _last(self, encoder: str, ids: Tensor, mask: Tensor | None, count: int, *, packed: bool) -> int:
        """Among ``count`` rows that of the last token which is the prompt's own."""
        own = self._own(encoder, ids, mask)
        behind = self._suffix(encoder)
        place = own[max(0, len(own) - 1 - behind)]
        if packed:
            place = max(0, len(own) - 1 - behind)
            return min(max(0, place - (len(own) - count)), count - 1)
        # Rows of a template before the prompt may have been cut off.
        return min(max(0, place - (len(ids) - count)), count - 1)

    def _own(self, encoder: str, ids: Tensor, mask: Tensor | None) -> list[int]:
        """Positions that are no padding."""
        if mask is not None:
            return [int(place) for place in mask.bool().nonzero().flatten()]
        padding = self.tokenizer_of(encoder).pad_token_id
        end = self.tokenizer_of(encoder).eos_token_id
        kept = [place for place, one in enumerate(ids.tolist()) if one != padding]
        if padding == end and int(ids[0]) != end:  # the first end of the text is its own, what follows pads it
            stop = next((place for place, one in enumerate(ids.tolist()) if one == end), len(ids) - 1)
            kept = list(range(stop + 1))
        return kept or [0]

    def _suffix(self, encoder: str) -> int:
        """Tokens that come behind every prompt: an end of text, the rest of a template."""
        if encoder not in self._suffixes:
            with_word, without = (self._tokens(encoder, text) for text in (WORD, ""))
            count = 0
            while count < min(len(with_word), len(without)) and with_word[-1 - count] == without[-1 - count]:
                count += 1
            self._suffixes[encoder] = count
        return self._suffixes[encoder]

    def _tokens(self, encoder: str, prompt: str) -> list[int]:
        """A prompt's tokens as the encoder is given them, without padding; no encoder after it runs."""
        return self._given(prompt, {encoder})[encoder]

    def _given(self, prompt: str, encoders: Collection[str] = ()) -> dict[str, list[int]]:
        """Text encoder → a prompt's tokens as it is given them, without padding.

        Args:
            prompt: that is looked at.
            encoders: that are asked for, all unless given; the last one of them does not run.
        """
        with self.recorded(until=encoders or self._encoders) as seen, suppress(_Enough):
            self.answer(prompt)
        return {
            name: [int(ids[place]) for place in self._own(name, ids, mask)]
            for name, (ids, mask) in seen.items()
            if name in encoders or hasattr(self.pipeline, name.replace("text_encoder", "tokenizer"))
        }

    def token_ids(self, prompts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """The first tokenizer's numbers of each prompt, uncut; no template around it.

        Args:
            prompts: any number.
            special: with those that begin and end a text.
        """
        written = self.tokenizer(list(prompts), add_special_tokens=special)["input_ids"]
        return [list(ids) for ids in written]

    def too_long(self, prompts: Sequence[str]) -> dict[str, str]:
        """Prompts of which an encoder is not given all tokens, with what is cut off by the one that takes least."""
        lost: dict[str, str] = {}
        for prompt in dict.fromkeys(prompts):
            for encoder, given in self._given(prompt).items():
                if missing := self._missing(encoder, prompt, given):
                    cut = str(self.tokenizer_of(encoder).decode(missing)).strip()
                    lost[prompt] = max(lost.get(prompt, ""), cut, key=len)
        return lost

    def missing(self, encoder: str, prompt: str) -> list[int]:
        """The last tokens of a prompt, which a text encoder is not given."""
        return self._missing(encoder, prompt, self._tokens(encoder, prompt))

    def _missing(self, encoder: str, prompt: str, given: Sequence[int]) -> list[int]:
        own = self.tokenizer_of(encoder)(prompt, add_special_tokens=False)["input_ids"]
        # By how often each is there: a word that is repeated may be kept once and lost once.
        count = sum((Counter(own) - Counter(given)).values())
        return list(own[len(own) - count :])

    def cut(self, prompt: str) -> str | None:
        """What of a prompt does not fit; ``None`` when all of it does."""
        return self.too_long([prompt]).get(prompt)
