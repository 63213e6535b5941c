"""The words of a tokenizer's vocabulary."""

from __future__ import annotations

from typing import Any

END_OF_WORD = "</w>"


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Every word that the tokenizer takes as one token, in the order of the tokens.

    CLIP's vocabulary holds words, ends of words, and pieces; what begins a word without ending it is no word that a
    prompt can hold on its own. Numbers, signs, and single letters are left out.

    Args:
        tokenizer: CLIP's, or another whose tokens decode to text.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    ends = any(token.endswith(END_OF_WORD) for token in vocabulary)
    tokens = sorted(
        index
        for token, index in vocabulary.items()
        if index not in special and (token.endswith(END_OF_WORD) or not ends)
    )
    words = [str(tokenizer.decode([index])).strip() for index in tokens]
    candidates = [(index, word) for index, word in zip(tokens, words, strict=True) if len(word) > 1 and word.isalpha()]
    if not candidates:
        return []
    # A token that the tokenizer never makes of its own text is in no prompt.
    made = tokenizer([word for _, word in candidates], add_special_tokens=False)["input_ids"]
    return [word for (index, word), ids in zip(candidates, made, strict=True) if list(ids) == [index]]
