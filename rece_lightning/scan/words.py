"""The words of a tokenizer's vocabulary."""

from __future__ import annotations

from typing import Any

from rece_lightning.models.whole_words import whole_words


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Every word that the tokenizer takes as one token, in the order of the tokens.

    Numbers, signs, and single letters are left out.

    Args:
        tokenizer: CLIP's, or another whose tokens decode to text.
    """
    return [word for word in whole_words(tokenizer).values() if len(word) > 1 and word.isalpha()]
