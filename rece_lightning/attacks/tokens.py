"""Tokens that a search may use, what the denoiser reads under them, with gradients, and the prompts that they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Goal
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.text import Embedded, EncodesPrompts, PromptEncoder, hides_padding, inference
from rece_lightning.models.vocabulary import behind_a_word, suffix_ids, whole_words


class EncodesTokens(ABC):
    """A model's text encoders as a search of tokens asks them: some tokens are free, the rest of the prompt is not."""

    free: int
    """How many tokens may be chosen."""
    forms: Tensor | None = None
    """Token → the one that stands for it in each free place, ``[k, vocabulary]``; ``None``: itself everywhere."""

    @abstractmethod
    def encode(self, chosen: Tensor) -> Embedded:
        """Prompts of chosen tokens ``[n, k]``, without gradients."""

    @abstractmethod
    def encode_soft(self, weights: Sequence[Tensor], chosen: Tensor | None = None) -> Embedded:
        """The same, differentiable, from the free tokens' input embeddings.

        Args:
            weights: ``[n, k, width]`` for every table.
            chosen: tokens that are nearest to them, ``[n, k]``: encoders with other tokenizers read their text.
        """

    @abstractmethod
    def tables(self) -> list[Tensor]:
        """Input embeddings of every token, ``[vocabulary, width]``, for every encoder that reads these tokens."""

    def inputs(self, tokens: Tensor) -> list[Tensor]:
        """Input embeddings of tokens ``[n, k]`` in their places, ``[n, k, width]`` for every table."""
        placed = tokens if self.forms is None else self.forms[torch.arange(self.free), tokens]
        return [table.detach()[placed.to(table.device)] for table in self.tables()]

    def by_token(self, gradient: Tensor) -> Tensor:
        """What stands at the tokens of each place, ``[n, k, vocabulary]``, by the tokens that they stand for."""
        if self.forms is None:
            return gradient
        return gradient.gather(2, self.forms.to(gradient.device).expand(len(gradient), -1, -1))

    def mixer(self, allowed: Tensor) -> Callable[[Tensor], list[Tensor]]:
        """Gives the input embeddings ``[1, k, width]`` of points over allowed tokens ``[k, v]``, for every table."""
        if self.forms is None:
            tables = [table.detach()[allowed.to(table.device)] for table in self.tables()]
            return lambda points: [(points.to(table) @ table)[None] for table in tables]
        # Only the first place has its own form of a token: no space before it.
        ends = [
            [table.detach()[self.forms[place, allowed].to(table.device)] for place in (0, -1)]
            for table in self.tables()
        ]
        return lambda points: [
            torch.cat([points[:1].to(first) @ first, points[1:].to(other) @ other])[None] for first, other in ends
        ]


class TokenEncoder(EncodesTokens):
    """CLIP's text encoders, from token ids instead of text: some free tokens, then a prompt's own.

    Args:
        encoder: whose towers it uses; their weights are left alone.
        free: how many tokens may be chosen.
        suffix: ids of the tokens that follow them.

    Raises:
        ConfigurationError: if these are more than the encoder's positions.
    """

    def __init__(self, encoder: EncodesPrompts, free: int, suffix: Sequence[int] = ()) -> None:
        if not isinstance(encoder, PromptEncoder):
            raise ConfigurationError(
                "attacks: a search of tokens needs text encoders whose tokens are known; take paraphrase or derived "
                "for this model."
            )
        self.encoder = encoder
        self.free, self.suffix = free, torch.tensor(list(suffix), dtype=torch.long)
        length, room = free + len(suffix), encoder.positions - 2
        if length > room:
            raise ConfigurationError(
                f"attacks: tokens: the prompt has {length} tokens, the text encoder takes {room}; take fewer."
            )

    def filled(self, chosen: Tensor) -> Tensor:
        """Whole prompts ``[n, length]`` from free tokens ``[n, k]``."""
        return torch.cat([chosen, self.suffix.expand(len(chosen), -1)], dim=1)

    def encode(self, chosen: Tensor, batch_size: int = 256) -> Embedded:
        """Prompts of chosen tokens ``[n, k]``, without gradients."""
        with torch.no_grad():
            parts = [self._encode(part, None) for part in chosen.split(batch_size)]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Embedded(torch.cat([part.embeddings for part in parts]), torch.cat(pooled) if pooled else None)

    def encode_soft(self, weights: Sequence[Tensor], chosen: Tensor | None = None) -> Embedded:
        """The same, differentiable, from the free tokens' input embeddings ``[n, k, width]`` of every tower."""
        nothing = torch.zeros(len(weights[0]), self.free, dtype=torch.long)
        return self._encode(nothing, weights)

    def tables(self) -> list[Tensor]:
        """Input embeddings of every token, ``[vocabulary, width]``, for every tower."""
        return [_table(text_encoder).weight for _, text_encoder in self.encoder.towers]

    def _encode(self, chosen: Tensor, soft: Sequence[Tensor] | None) -> Embedded:
        states, pooled = [], None
        xl = self.encoder.is_xl
        for tower, (tokenizer, text_encoder) in enumerate(self.encoder.towers):
            ids = self._ids(tokenizer, chosen).to(text_encoder.device)
            handle = None
            if soft is not None:
                handle = _table(text_encoder).register_forward_hook(_replacement(soft[tower]))
            try:
                with inference(text_encoder):
                    mask = self._mask(ids) if not xl and hides_padding(text_encoder) else None
                    answer = text_encoder(ids, attention_mask=mask, output_hidden_states=xl)
            finally:
                if handle is not None:
                    handle.remove()
            states.append(answer.hidden_states[-2] if xl else answer.last_hidden_state)
            pooled = getattr(answer, "text_embeds", None) if xl else None
        return Embedded(torch.cat([state.to(states[0].device) for state in states], dim=-1), pooled)

    def _ids(self, tokenizer: Any, chosen: Tensor) -> Tensor:
        whole = self.filled(chosen.cpu())
        ids = torch.full((len(whole), self.encoder.positions), int(tokenizer.pad_token_id), dtype=torch.long)
        ids[:, 0] = int(tokenizer.bos_token_id)
        ids[:, 1 : 1 + whole.shape[1]] = whole
        ids[:, 1 + whole.shape[1]] = int(tokenizer.eos_token_id)
        return ids

    def _mask(self, ids: Tensor) -> Tensor:
        """1 where a prompt's tokens are, its start and its end among them."""
        own = self.free + len(self.suffix) + 2
        return (torch.arange(ids.shape[1], device=ids.device) < own).long().expand_as(ids)


def _table(text_encoder: Any) -> torch.nn.Embedding:
    return text_encoder.get_input_embeddings()


def _replacement(soft: Tensor) -> Any:
    """A hook that puts other input embeddings in the place of the free tokens', behind the begin token."""

    def hook(module: Any, arguments: Any, output: Tensor) -> Tensor:
        replaced = output.clone()
        replaced[:, 1 : 1 + soft.shape[1]] = soft.to(output)
        return replaced

    return hook


class Vocabulary:
    """The whole words of a tokenizer.

    A token counts if its text is read back as one token, alone and behind another word. So special tokens and pieces of
    words are out, and a prompt of such tokens, written with spaces, is read back as one token a word;
    :meth:`is_read_back` makes sure once more, because a tokenizer may join neighbours. Where a word behind a space is
    another token than alone (byte pairs of language models), the one alone stands for both.

    Args:
        tokenizer: of the text encoder that is searched.
        forbidden: words that may not appear. A token is out if it is one of their tokens, or begins with one of the
            words of three letters and more (``bombs`` for ``bomb``).
    """

    def __init__(self, tokenizer: Any, forbidden: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        banned = {word.lower() for phrase in forbidden for word in phrase.split()}
        # Two letters begin too many words.
        stems = [word for word in banned if len(word) >= 3]
        banned_ids = {number for word in banned for number in self._ids(word)}
        whole = whole_words(tokenizer)
        self.behind = behind_a_word(tokenizer, whole)
        """Token → the one that it is behind a space."""
        self.words: dict[int, str] = {
            number: text
            for number, text in whole.items()
            if number in self.behind
            and not {number, self.behind[number]} & banned_ids
            and text.lower() not in banned
            and not any(text.lower().startswith(word) for word in stems)
        }
        if not self.words:
            raise ConfigurationError("attacks: the tokenizer has no whole word to search with; give another model.")
        self.ids: Tensor = torch.tensor(sorted(self.words), dtype=torch.long)
        """Ids of the tokens that may be used, ``[v]``."""

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, tokens: Sequence[int], suffix: str = "") -> str:
        """Tokens as words with spaces between them, and what follows them."""
        known = self.words
        words = [known[n] if n in known else str(self.tokenizer.decode([n])).strip() for n in tokens]
        return " ".join([*words, suffix] if suffix else words)

    def is_read_back(self, tokens: Sequence[int], suffix: str = "") -> bool:
        """Whether the text of the tokens is read as the same tokens, and then what is read of the suffix."""
        own = [*tokens[:1], *(self.behind.get(n, n) for n in tokens[1:])]
        whole = self._ids(self.text(tokens, suffix))
        return whole == own + (suffix_ids(self.tokenizer, suffix) if suffix else [])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniformly random tokens, ``[count]``."""
        return self.ids[torch.randint(len(self.ids), (count,), generator=generator)]


def texts_found(
    attack: str,
    goal: Goal,
    restarts: Sequence[int],
    tokens: Tensor,
    vocabulary: Vocabulary,
    before: Tensor,
    after: Tensor,
    queries: int,
    suffix: str = "",
) -> list[AdversarialPrompt]:
    """Write prompts of free tokens ``[n, k]`` and a suffix down as text, with the losses ``[n]`` before and after.

    A prompt whose text is read back as other tokens is kept, because the text is what an attacker can send, and marked
    by the variant ``read differently``: its loss is that of the tokens, where these and not the text are encoded.
    """
    return [
        AdversarialPrompt(
            attack,
            goal.concept,
            restart,
            vocabulary.text(row, suffix),
            variant="" if vocabulary.is_read_back(row, suffix) else "read differently",
            loss_before=float(start),
            loss=float(end),
            queries=queries,
        )
        for restart, row, start, end in zip(restarts, tokens.tolist(), before, after, strict=True)
    ]
