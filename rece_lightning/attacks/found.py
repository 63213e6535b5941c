"""Tokens that a search found → adversarial prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Goal
from rece_lightning.attacks.tokens import Template
from rece_lightning.attacks.vocabulary import Vocabulary


def texts_found(
    attack: str,
    goal: Goal,
    restarts: Sequence[int],
    tokens: Tensor,
    vocabulary: Vocabulary,
    before: Tensor,
    after: Tensor,
    queries: int,
    template: Template | None = None,
) -> list[AdversarialPrompt]:
    """Write tokens ``[n, k]`` down as text.

    A prompt whose text is read back as other tokens is kept, because the text is what an attacker can send, and marked
    by the variant ``read differently``: its loss is that of the tokens.

    Args:
        attack: its name.
        goal: the concept.
        restarts: of every row.
        tokens: chosen ones, ``[n, k]``.
        vocabulary: they are from.
        before: losses of the starts, ``[n]``.
        after: losses of the tokens, ``[n]``.
        queries: of each restart.
        template: that the tokens fill; they are the whole prompt without it.
    """
    whole = tokens if template is None else template.filled(tokens)
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
        for restart, row, start, end in zip(restarts, whole.tolist(), before, after, strict=True)
    ]
