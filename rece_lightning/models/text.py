"""Prompts → text embeddings, in batches, from one text encoder or from two side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.text_space import POOLED, TEXT


@dataclass(frozen=True)
class Encoded:
    """Embeddings of some prompts."""

    embeddings: Tensor
    """``[n, positions, d]``: what the cross-attention reads."""
    last_subject: Tensor
    """Position of each prompt's last subject token, ``[n]``: ``attention_mask.sum() − 2``, as published."""
    pooled: Tensor | None = None
    """``[n, p]``: SDXL's second text space, which no cross-attention reads."""

    def rows(self, space: str) -> tuple[Tensor, Tensor]:
        """The rows of every prompt in a text space, ``[n, positions, d]``, and where its subject ends, ``[n]``.

        The space ``pooled`` has one row a prompt.

        Raises:
            BaseModelError: if the text encoder makes none.
        """
        if space == TEXT:
            return self.embeddings, self.last_subject
        if space != POOLED or self.pooled is None:
            raise BaseModelError(f"model.pretrained: its text encoder makes no embeddings of the space {space!r}.")
        return self.pooled[:, None], torch.zeros_like(self.last_subject)


class PromptEncoder:
    """CLIP tokenizers and text encoders of a model, without the rest; encoders stay in their own training mode.

    With two encoders (SDXL) an embedding is the last hidden states but one of both, side by side; the projection of
    the second gives the pooled embedding.
    """

    def __init__(
        self, tokenizer: Any, text_encoder: Any, tokenizer_2: Any | None = None, text_encoder_2: Any | None = None
    ) -> None:
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.towers = [(tokenizer, text_encoder)]
        if text_encoder_2 is not None:
            self.towers.append((tokenizer_2, text_encoder_2))
        positions = int(text_encoder.config.max_position_embeddings)
        # Pipelines cut and pad to what the tokenizer says, which is beyond all bounds where its folder says nothing.
        self.positions = min(positions, int(getattr(tokenizer, "model_max_length", positions)))

    @classmethod
    def of_pipeline(cls, pipeline: Any) -> PromptEncoder:
        """Of a live diffusers pipeline of Stable Diffusion 1.x, 2.x or XL, sharing its modules.

        Raises:
            BaseModelError: if it has no CLIP text encoder.
        """
        first = [getattr(pipeline, name, None) for name in ("tokenizer", "text_encoder")]
        if None in first or getattr(pipeline, "text_encoder_3", None) is not None:
            raise BaseModelError(
                f"{type(pipeline).__name__} has no tokenizer and text encoder of Stable Diffusion's kind; "
                "give a pipeline of Stable Diffusion 1.x, 2.x or XL."
            )
        second = [getattr(pipeline, name, None) for name in ("tokenizer_2", "text_encoder_2")]
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
                if len(self.towers) == 1:
                    masked = getattr(text_encoder.config, "use_attention_mask", False)
                    mask = tokens["attention_mask"].to(ids.device) if masked else None
                    return Encoded(text_encoder(ids, attention_mask=mask).last_hidden_state, last[0])
                answer = text_encoder(ids, output_hidden_states=True)
            states.append(answer.hidden_states[-2])
            pooled = getattr(answer, "text_embeds", pooled)
        return Encoded(torch.cat([state.to(self.device) for state in states], dim=-1), last[0], pooled)


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
            shorter; published), ``last`` (that token alone), ``all`` (every position).

    Returns:
        Concept rows and target rows, ``[r, d]`` each.
    """
    if rule == "all":
        return concept, target
    if rule == "last":
        return concept[last : last + 1], target[target_last : target_last + 1]
    count = min(len(concept) - last, len(target) - target_last)
    return concept[last : last + count], target[target_last : target_last + count]
