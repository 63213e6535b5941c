"""Which tokens a search may use, so that what it finds can be written down and read back as the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.vocabulary import whole_words


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
