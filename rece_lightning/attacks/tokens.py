"""Tokens that a search may use, what the U-Net reads under them, with gradients, and the prompts that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Goal
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.text import EncodesPrompts, PromptEncoder, inference
from rece_lightning.models.vocabulary import whole_words


class TokenEncoder:
    """The text encoders, from token ids instead of text: some free tokens, then a prompt's own.

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
                "attacks: a search of tokens needs text encoders that are CLIP's, as Stable Diffusion 1.x, 2.x and XL "
                "have them; take paraphrase or derived for this model."
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

    def encode(self, chosen: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``[n, positions, d]`` and pooled ``[n, p]`` of chosen tokens ``[n, k]``, without gradients."""
        with torch.no_grad():
            parts = [self._encode(part, None) for part in chosen.split(batch_size)]
        pooled = [part[1] for part in parts if part[1] is not None]
        return torch.cat([part[0] for part in parts]), torch.cat(pooled) if pooled else None

    def encode_soft(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The same, differentiable, from the free tokens' input embeddings ``[n, k, width]`` of every tower."""
        nothing = torch.zeros(len(weights[0]), self.free, dtype=torch.long)
        return self._encode(nothing, weights)

    def tables(self) -> list[Tensor]:
        """Input embeddings of every token, ``[vocabulary, width]``, for every tower."""
        return [_table(text_encoder).weight for _, text_encoder in self.encoder.towers]

    def _encode(self, chosen: Tensor, soft: Sequence[Tensor] | None) -> tuple[Tensor, Tensor | None]:
        states, pooled = [], None
        xl = self.encoder.is_xl
        for tower, (tokenizer, text_encoder) in enumerate(self.encoder.towers):
            ids = self._ids(tokenizer, chosen).to(text_encoder.device)
            handle = None
            if soft is not None:
                handle = _table(text_encoder).register_forward_hook(_replacement(soft[tower]))
            try:
                with inference(text_encoder):
                    answer = text_encoder(ids, output_hidden_states=xl)
            finally:
                if handle is not None:
                    handle.remove()
            states.append(answer.hidden_states[-2] if xl else answer.last_hidden_state)
            pooled = getattr(answer, "text_embeds", None) if xl else None
        return torch.cat([state.to(states[0].device) for state in states], dim=-1), pooled

    def _ids(self, tokenizer: Any, chosen: Tensor) -> Tensor:
        whole = self.filled(chosen.cpu())
        ids = torch.full((len(whole), self.encoder.positions), int(tokenizer.pad_token_id), dtype=torch.long)
        ids[:, 0] = int(tokenizer.bos_token_id)
        ids[:, 1 : 1 + whole.shape[1]] = whole
        ids[:, 1 + whole.shape[1]] = int(tokenizer.eos_token_id)
        return ids


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

    A token counts if its text alone is read back as that one token. So special tokens and pieces of words are out, and
    a prompt of such tokens, written with spaces, is read back as the very same tokens; :meth:`is_read_back` makes sure
    once more, because a tokenizer may join neighbours.

    Args:
        tokenizer: CLIP's.
        forbidden: words that may not appear. A token is out if it is one of their tokens, or begins with one of the
            words of three letters and more (``bombs`` for ``bomb``).
    """

    def __init__(self, tokenizer: Any, forbidden: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        banned = {word.lower() for phrase in forbidden for word in phrase.split()}
        # Two letters begin too many words.
        stems = [word for word in banned if len(word) >= 3]
        banned_ids = {number for word in banned for number in self._ids(word)}
        self.words: dict[int, str] = {
            number: text
            for number, text in whole_words(tokenizer).items()
            if number not in banned_ids and not any(text.startswith(word) for word in stems)
        }
        if not self.words:
            raise ConfigurationError("attacks: the tokenizer has no whole word to search with; give another model.")
        self.ids: Tensor = torch.tensor(sorted(self.words), dtype=torch.long)
        """Ids of the tokens that may be used, ``[v]``."""

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as words with spaces between them."""
        known = self.words
        return " ".join(known[n] if n in known else str(self.tokenizer.decode([n])).strip() for n in tokens)

    def is_read_back(self, tokens: Sequence[int]) -> bool:
        """Whether the text of the tokens is read as the same tokens."""
        return self._ids(self.text(tokens)) == list(tokens)

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
) -> list[AdversarialPrompt]:
    """Write whole prompts of tokens ``[n, k]`` down as text, with the losses ``[n]`` of their starts and of them.

    A prompt whose text is read back as other tokens is kept, because the text is what an attacker can send, and marked
    by the variant ``read differently``: its loss is that of the tokens.
    """
    return [
        AdversarialPrompt(
            attack,
            goal.concept,
            restart,
            vocabulary.text(row),
            variant="" if vocabulary.is_read_back(row) else "read differently",
            loss_before=float(start),
            loss=float(end),
            queries=queries,
        )
        for restart, row, start, end in zip(restarts, tokens.tolist(), before, after, strict=True)
    ]
