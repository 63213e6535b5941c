"""Prompts → text embeddings, in batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel

TOKEN_RULES = ("aligned", "last", "all")


@dataclass(frozen=True)
class Encoded:
    """Embeddings of some prompts."""

    embeddings: Tensor
    """``[n, positions, d]``."""
    last_subject: Tensor
    """Position of each prompt's last subject token, ``[n]``: ``attention_mask.sum() − 2``, as published."""


class PromptEncoder:
    """Tokenizer and text encoder of a base model, loaded without the rest."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.positions = int(text_encoder.config.max_position_embeddings)

    @classmethod
    def load(cls, base: BaseModel, device: torch.device | str = "cpu") -> PromptEncoder:
        """Load in float32.

        Raises:
            BaseModelError: if the weights do not fit their configuration.
        """
        try:
            tokenizer = CLIPTokenizer.from_pretrained(base.folder / "tokenizer", local_files_only=True)
            text_encoder, loading = CLIPTextModel.from_pretrained(
                base.folder / "text_encoder",
                local_files_only=True,
                use_safetensors=True,
                variant=base.variant,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BaseModelError(
                f"model.pretrained: {base.folder}: tokenizer or text encoder cannot be loaded ({reason}); "
                "copy the model anew."
            ) from error
        # Transformers fills what is missing with random numbers.
        broken = sorted(loading["missing_keys"])
        broken += [name for name, value in text_encoder.named_parameters() if not bool(value.isfinite().all())]
        if broken:
            raise BaseModelError(
                f"model.pretrained: {base.weight_file('text_encoder')}: {broken[0]} is missing or holds values that "
                "are NaN or infinite; fetch the file again."
            )
        return cls(tokenizer, text_encoder.to(device))

    @property
    def device(self) -> torch.device:
        """Where the text encoder lies."""
        return self.text_encoder.device

    def cut(self, prompt: str) -> str | None:
        """What of a prompt does not fit the tokenizer's positions; ``None`` when all of it does."""
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        room = self.positions - 2
        return str(self.tokenizer.decode(ids[room:])).strip() if len(ids) > room else None

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Encoded:
        """Encode prompts, padded and cut to the model's positions as its pipeline does."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.positions, return_tensors="pt"
        )
        embeddings = self.text_encoder(tokens["input_ids"].to(self.device)).last_hidden_state
        return Encoded(embeddings, tokens["attention_mask"].sum(dim=1) - 2)


def aligned_rows(concept: Tensor, last: int, target: Tensor, target_last: int, rule: str) -> tuple[Tensor, Tensor]:
    """The positions of a prompt pair that the first edit uses.

    Args:
        concept: ``[positions, d]``.
        last: position of its last subject token.
        target: ``[positions, d]``.
        target_last: position of its last subject token.
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
