"""What a checkpoint holds of the prompts: their rows or their moments, whichever is smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.moments import Moments, RowPairs
from rece_lightning.erasure.encoding import EncodedPair

ROWS = ("first_rows", "whole_rows")


def store_evidence(
    pairs: Sequence[EncodedPair],
    kept: Sequence[Tensor],
    held_out: Sequence[Tensor],
    evidence: Evidence,
    held_out_moments: Tensor,
    needs_rows: bool,
) -> dict[str, Any]:
    """Plain types and tensors on the CPU.

    Args:
        pairs: what is erased.
        kept: embeddings ``[positions, d]`` of what is preserved.
        held_out: of what is measured alone.
        evidence: moments of the same.
        held_out_moments: ``P_h``.
        needs_rows: the technique ``tensor`` takes the prompts apart again.
    """
    elements = sum(2 * pair.concept.numel() for pair in pairs) + sum(rows.numel() for rows in (*kept, *held_out))
    if needs_rows or not moments_are_smaller(elements, len(held_out_moments)):
        return {
            "pairs": [{**vars(pair), "concept": pair.concept.cpu(), "target": pair.target.cpu()} for pair in pairs],
            "kept": [rows.cpu() for rows in kept],
            "held_out": [rows.cpu() for rows in held_out],
        }
    return store_moments(evidence, held_out_moments)


def moments_are_smaller(elements: int, width: int) -> bool:
    """Whether nine moments take less room than so many numbers in rows: rows are float32, moments float64."""
    return 4 * elements > 8 * 9 * width**2


def store_moments(evidence: Evidence, held_out_moments: Tensor) -> dict[str, Any]:
    """The moments alone, and the rows that a loop works on."""
    parts: dict[str, Moments | RowPairs] = {"first": evidence.first, "whole": evidence.whole}
    # A loop that works on rows must go on from rows: moments would answer the same but for the last digits.
    parts |= {key: rows for key in ROWS if (rows := getattr(evidence, key)) is not None}
    stored = {name: {key: value.cpu() for key, value in vars(part).items()} for name, part in parts.items()}
    return {**stored, "held_out_moments": held_out_moments.cpu()}


def restore_moments(stored: Mapping[str, Any], device: torch.device | str) -> Evidence:
    """The evidence of a checkpoint that holds moments."""
    rows = {
        key: RowPairs(**{name: value.to(device) for name, value in stored[key].items()})
        for key in ROWS
        if key in stored
    }
    first, whole = (Moments(**stored[key]).to(device) for key in ("first", "whole"))
    return Evidence(first, whole, first_rows=rows.get("first_rows"), whole_rows=rows.get("whole_rows"))
