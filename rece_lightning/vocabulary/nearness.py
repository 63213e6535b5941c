"""How near words are to what is erased: by their embeddings, and by how they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import torch

from rece_lightning.data.synonyms import TEMPLATE
from rece_lightning.data.texts import filled
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.vocabulary.rows import subject_rows

TEXT, NAME = "text", "name"


def nearest_first(
    words: Sequence[str], erased: Sequence[str], encoder: EncodesPrompts, space: str
) -> Mapping[str, tuple[str, ...]]:
    """The words in the order of their nearness to the nearest of what is erased.

    ``text``: by the cosine of their embeddings in a space that is edited, at the last token of the word and at the end
    of the text. ``name``: by how much of their letters they share in order (the ratio of ``difflib``).

    Args:
        words: to order.
        erased: prompts.
        encoder: of the model.
        space: that the embeddings are of.
    """
    if not words or not erased:
        return {TEXT: tuple(words), NAME: tuple(words)}
    rows = subject_rows(encoder, [filled(TEMPLATE, text) for text in (*words, *erased)], space=space)
    unit = torch.nn.functional.normalize(rows.flatten(1).double(), dim=1)
    by_text = (unit[: len(words)] @ unit[len(words) :].mT).amax(1)
    by_name = torch.tensor([max(_alike(word, other) for other in erased) for word in words])
    return {
        name: tuple(words[place] for place in near.argsort(descending=True, stable=True).tolist())
        for name, near in ((TEXT, by_text), (NAME, by_name))
    }


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()
