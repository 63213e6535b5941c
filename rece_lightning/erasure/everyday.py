"""What is preserved where nobody says: everyday words of the model's own tokenizer, and others to measure drift on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import unedited
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.reaching import Reaching
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.concepts import PromptPair
from rece_lightning.erasure.encoding import Rows, in_parts
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.vocabulary import everyday_words

COUNT = 240
"""Words that are drawn."""
HELD_OUT = 4
"""One of so many is held out: drift is measured on it, and no edit preserves it."""
LOOKED_AT = 1000
"""Erased prompts that words are compared with."""


@dataclass(frozen=True)
class Everyday:
    """Some words with their rows: those to preserve and those to measure drift on."""

    preserved: tuple[str, ...]
    held_out: tuple[str, ...]
    preserved_rows: Rows
    held_out_rows: Rows


@torch.no_grad()
def everyday(
    encoder: EncodesPrompts,
    spaces: Sequence[str],
    gram: Gram,
    pairs: Iterable[PromptPair],
    *,
    listed: Iterable[str] = (),
    preserve: bool = True,
) -> Iterator[Everyday]:
    """Draw words of the tokenizer, in parts that are encoded together.

    Left out are the words of an erased prompt or its target, those of a list, and those that mean what is erased:
    whose keys and values are nearer to a concept's than :data:`rece_lightning.core.robust.WITHIN` of its way to its
    target, on the unedited model, at the last token of the word and the end of the text behind it.

    Args:
        encoder: of the model.
        spaces: names of the text spaces that rows are wanted of, the one of ``gram`` first.
        gram: ``G`` of what reads the first of them.
        pairs: what is erased.
        listed: prompts that somebody else has a use for.
        preserve: some; otherwise fewer are drawn, and all of them are held out.

    Raises:
        ConfigurationError: if the tokenizer has no words, and some are to be preserved.
    """
    erased = list(islice(pairs, LOOKED_AT))
    own = (text for pair in erased for text in (pair.prompt, pair.target))
    taken = {word for text in own for word in text.lower().split()} | {one.strip().lower() for one in listed}
    try:
        common = everyday_words(encoder.tokenizer, COUNT if preserve else COUNT // HELD_OUT)
    except ConfigurationError:
        if preserve:
            raise
        return  # drift is measured on what is preserved
    words = [word for word in common if word.lower() not in taken]
    means = list(_meanings(encoder, spaces[0], gram, erased))
    drawn = 0
    for part in in_parts(words):
        encoded = encoder.encode(part)
        rows = {space: [one.rows for one in encoded.rows(space)] for space in spaces}
        told_apart = _told_apart(rows[spaces[0]], [one.last for one in encoded.rows(spaces[0])])
        near = [reaching.measure(told_apart)[0].amin(dim=1) < WITHIN for reaching in means]
        left = [place for place in range(len(part)) if not any(bool(one[place]) for one in near)]
        held = [place for turn, place in enumerate(left, drawn) if not preserve or turn % HELD_OUT == HELD_OUT - 1]
        kept = [place for place in left if place not in held]
        drawn += len(left)
        yield Everyday(
            tuple(part[place] for place in kept),
            tuple(part[place] for place in held),
            {space: [own[place] for place in kept] for space, own in rows.items()},
            {space: [own[place] for place in held] for space, own in rows.items()},
        )


def _meanings(encoder: EncodesPrompts, space: str, gram: Gram, pairs: Sequence[PromptPair]) -> Iterator[Reaching]:
    """What words are compared with; a prompt that reads as its target does has no meaning of its own."""
    for part in in_parts(pairs):
        texts = list(dict.fromkeys([*(pair.prompt for pair in part), *(pair.target for pair in part)]))
        found = encoder.encode(texts).rows(space)
        rows = _told_apart([one.rows for one in found], [one.last for one in found])
        place = {text: number for number, text in enumerate(texts)}
        own = [(rows[place[pair.prompt]], rows[place[pair.target]]) for pair in part]
        apart = [(concept, target) for concept, target in own if not torch.equal(concept, target)]
        if apart:
            concepts, targets = (torch.stack(side) for side in zip(*apart, strict=True))
            yield Reaching.of(gram, unedited(gram), concepts, targets)


def _told_apart(rows: Sequence[Tensor], last: Sequence[int]) -> Tensor:
    """The last token of every prompt's subject and the end of its text, ``[n, 2, d]``."""
    return torch.stack([own[[place, min(place + 1, len(own) - 1)]] for own, place in zip(rows, last, strict=True)])
