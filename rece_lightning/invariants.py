"""What every picture reads, whatever its prompt: the begin-of-text token and the empty prompt."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.loop import Evidence
from rece_lightning.models.text import PromptEncoder


def invariant_rows(encoder: PromptEncoder) -> Tensor:
    """Rows of the empty prompt, ``[positions, d]``: guidance reads it at every step.

    Its first row is the begin-of-text token's, which under a causal text encoder is the same in every prompt.
    """
    return encoder.encode([""]).embeddings[0]


def with_invariants(evidence: Evidence, rows: Tensor | None, device: torch.device | str) -> Evidence:
    """The evidence with rows that an edit has to leave as they are.

    Args:
        evidence: of the prompts.
        rows: ``[m, d]``; ``None``: there are none.
        device: of the algebra.

    Raises:
        ConfigurationError: if the rows, which may come from a checkpoint, do not fit the evidence.
    """
    if rows is None:
        return evidence
    if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != evidence.whole.width:
        raise ConfigurationError(
            f"The rows of the empty prompt do not fit: embeddings are {evidence.whole.width} wide; if they come from a "
            "checkpoint, it is damaged."
        )
    return replace(evidence, invariants=rows.to(device).double())
