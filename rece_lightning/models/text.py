"""Prompts → text embeddings, in batches, from one text encoder or from two side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.text_space import POOLED, TEXT


@dataclass(frozen=True)
class PromptRows:
    """A prompt in one text space."""

    rows: Tensor
    """``[positions, d]``; a row that no denoiser reads is zero."""
    last: int
    """Position of the last subject token."""
    more: tuple[tuple[int, int], ...] = ()
    """Where rows of further encoders follow: first position and that of the last subject token, for each."""


@dataclass(frozen=True)
class Embedded:
    """Some texts as embeddings."""

    embeddings: Tensor
    """``[n, positions, d]``: what a pipeline takes in place of the prompts."""
    pooled: Tensor | None = None
    """``[n, p]``: one row a prompt, a text space of its own."""
    own: Sequence[Tensor] = ()
    """Embeddings of every prompt without the zeros behind shorter ones, where their numbers differ."""
    calls: Sequence[Mapping[str, Tensor]] = ()
    """What the pipeline takes in place of each prompt, by the names of its arguments, where it is more than these."""

    def embedding(self, row: int) -> Tensor:
        """Embedding of one prompt, ``[positions, d]``."""
        return self.own[row] if self.own else self.embeddings[row]


@dataclass(frozen=True, kw_only=True)
class Encoded(Embedded):
    """Prompts as embeddings, and where in them their subjects are."""

    last_subject: Tensor
    """Position of each prompt's last subject token, ``[n]``; of CLIP ``attention_mask.sum() − 2``, as published."""
    spaces: Mapping[str, Sequence[PromptRows]] = field(default_factory=dict)
    """Text space → rows of every prompt, where these are not the embeddings themselves."""

    def rows(self, space: str) -> Sequence[PromptRows]:
        """The rows of every prompt in a text space. The space ``pooled`` has one row a prompt.

        Raises:
            BaseModelError: if the text encoder makes none.
        """
        if space in self.spaces:
            return self.spaces[space]
        if space == TEXT:
            places = self.last_subject.tolist()
            return [PromptRows(rows, last) for rows, last in zip(self.embeddings, places, strict=True)]
        if space != POOLED or self.pooled is None:
            raise BaseModelError(f"model.pretrained: its text encoder makes no embeddings of the space {space!r}.")
        return [PromptRows(row[None], 0) for row in self.pooled]


class EncodesPrompts(Protocol):
    """Tokenizers and text encoders of a model, without the rest."""

    @property
    def tokenizer(self) -> Any:
        """The first one."""

    @property
    def towers(self) -> list[tuple[Any, Any]]:
        """Tokenizers and text encoders."""

    @property
    def device(self) -> torch.device:
        """Where the first encoder lies."""

    def encode(self, prompts: list[str]) -> Encoded:
        """Embeddings of prompts."""

    def token_ids(self, prompts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """The first tokenizer's numbers of each prompt, uncut."""

    def too_long(self, prompts: Sequence[str]) -> dict[str, str]:
        """Prompts that do not fit, with what is cut off."""


class PromptEncoder:
    """CLIP tokenizers and text encoders of a model, without the rest; encoders stay in their own training mode.

    With a second encoder (SDXL) an embedding is the last hidden states but one of both, side by side; the projection of
    the second gives the pooled embedding. SDXL's refiner has the second alone.
    """

    def __init__(
        self,
        tokenizer: Any | None,
        text_encoder: Any | None,
        tokenizer_2: Any | None = None,
        text_encoder_2: Any | None = None,
    ) -> None:
        self.parts = (tokenizer, text_encoder, tokenizer_2, text_encoder_2)
        pairs = [(tokenizer, text_encoder), (tokenizer_2, text_encoder_2)]
        self.towers: list[tuple[Any, Any]] = [pair for pair in pairs if pair[1] is not None]
        self.tokenizer, self.text_encoder = self.towers[0]
        self.is_xl = text_encoder_2 is not None
        """Whether its rows are the last hidden states but one, and there is a pooled embedding."""
        positions = int(self.text_encoder.config.max_position_embeddings)
        # Pipelines cut and pad to what the tokenizer says, which is beyond all bounds where its folder says nothing.
        self.positions = min(positions, int(getattr(self.tokenizer, "model_max_length", positions)))

    @classmethod
    def of_pipeline(cls, pipeline: Any) -> PromptEncoder:
        """Of a live diffusers pipeline of Stable Diffusion 1.x, 2.x or XL, sharing its modules.

        Raises:
            BaseModelError: if it has no CLIP text encoder.
        """
        first = [getattr(pipeline, name, None) for name in ("tokenizer", "text_encoder")]
        second = [getattr(pipeline, name, None) for name in ("tokenizer_2", "text_encoder_2")]
        lacks = None in first and (None in second or first != [None, None])
        if lacks or getattr(pipeline, "text_encoder_3", None) is not None:
            raise BaseModelError(
                f"{type(pipeline).__name__} has no tokenizer and text encoder of Stable Diffusion's kind; "
                "give a pipeline of Stable Diffusion 1.x, 2.x or XL."
            )
        return cls(*first, *second)

    @property
    def device(self) -> torch.device:
        """Where the first text encoder lies."""
        return self.text_encoder.device

    def token_ids(self, prompts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """The first tokenizer's numbers of each prompt, uncut.

        Args:
            prompts: any number.
            special: with those that begin and end a text.
        """
        written_out = whole_inversions(list(prompts), self.tokenizer)
        return [list(ids) for ids in self.tokenizer(written_out, add_special_tokens=special)["input_ids"]]

    def cut(self, prompt: str) -> str | None:
        """What of a prompt does not fit the tokenizer's positions; ``None`` when all of it does."""
        ids, room = self.token_ids([prompt], special=False)[0], self.positions - 2
        return str(self.tokenizer.decode(ids[room:])).strip() if len(ids) > room else None

    def too_long(self, prompts: Sequence[str]) -> dict[str, str]:
        """Prompts that do not fit the tokenizer's positions, with what is cut off; all are looked at in one call."""
        texts = list(dict.fromkeys(prompts))
        if not texts:
            return {}
        counts = [len(ids) for ids in self.token_ids(texts, special=False)]
        longest = [text for text, count in zip(texts, counts, strict=True) if count > self.positions - 2]
        return {text: lost for text in longest if (lost := self.cut(text))}

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Encoded:
        """Encode prompts as the model's pipeline does: padded and cut to its positions, textual inversions whole."""
        states, last, pooled = [], [], None
        padding = {"padding": "max_length", "truncation": True, "max_length": self.positions, "return_tensors": "pt"}
        for tokenizer, text_encoder in self.towers:
            tokens = tokenizer(whole_inversions(prompts, tokenizer), **padding)
            # Both tokenizers cut a text into the same tokens; they differ in what they pad with.
            last.append(tokens["attention_mask"].sum(dim=1) - 2)
            ids = tokens["input_ids"].to(text_encoder.device)
            with inference(text_encoder):
                if not self.is_xl:
                    mask = tokens["attention_mask"].to(ids.device) if hides_padding(text_encoder) else None
                    return Encoded(text_encoder(ids, attention_mask=mask).last_hidden_state, last_subject=last[0])
                answer = text_encoder(ids, output_hidden_states=True)
            states.append(answer.hidden_states[-2])
            pooled = getattr(answer, "text_embeds", pooled)
        return Encoded(torch.cat([state.to(self.device) for state in states], dim=-1), pooled, last_subject=last[0])


def hides_padding(text_encoder: Any) -> bool:
    """Whether Stable Diffusion's pipelines give this text encoder the mask of a prompt's own tokens."""
    return bool(getattr(text_encoder.config, "use_attention_mask", False))


def whole_inversions(prompts: list[str], tokenizer: Any) -> list[str]:
    """Prompts with every textual inversion of several vectors written out, as pipelines do.

    Such a concept is several tokens, ``<x>``, ``<x>_1``, …, of which a user writes the first.
    """
    added = getattr(tokenizer, "added_tokens_encoder", {})
    if not any(f"{token}_1" in added for token in added):
        return prompts
    from diffusers.loaders import TextualInversionLoaderMixin  # seconds, for the few models that have them

    converted: list[str] = TextualInversionLoaderMixin().maybe_convert_prompt(prompts, tokenizer)
    return converted


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Without dropout, and afterwards in its former modes, part by part: somebody may be training some of it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def aligned_rows(concept: Tensor, last: int, target: Tensor, target_last: int, rule: str) -> tuple[Tensor, Tensor]:
    """The positions of a prompt pair that the first edit uses.

    Args:
        concept, target: ``[positions, d]``.
        last, target_last: positions of their last subject tokens.
        rule: ``aligned`` (from the last subject token on, both prompts aligned at theirs and cut to the
            shorter; published), ``last`` (that token alone), ``end`` (what follows it, aligned in the same way: the end
            of the text, and the padding that repeats it; the last position where nothing follows), ``all`` (every
            position).

    Returns:
        Concept rows and target rows, ``[r, d]`` each.
    """
    if rule == "all":
        return concept, target
    if rule == "last":
        return concept[last : last + 1], target[target_last : target_last + 1]
    if rule == "end":
        last, target_last = min(last + 1, len(concept) - 1), min(target_last + 1, len(target) - 1)
    count = min(len(concept) - last, len(target) - target_last)
    return concept[last : last + count], target[target_last : target_last + count]
