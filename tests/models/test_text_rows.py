"""Which rows of a prompt and its target the first edit takes."""

from __future__ import annotations

import pytest
import torch

from rece_lightning.models.text import aligned_rows

CONCEPT, TARGET = torch.arange(6.0)[:, None], 10 + torch.arange(6.0)[:, None]


@pytest.mark.parametrize(
    ("rule", "last", "target_last", "rows", "targets"),
    [
        ("aligned", 3, 1, [3, 4, 5], [11, 12, 13]),
        ("last", 3, 1, [3], [11]),
        ("end", 3, 1, [4, 5], [12, 13]),
        ("end", 1, 3, [2, 3], [14, 15]),
        ("end", 5, 0, [5], [11]),  # nothing follows: a language model's last token
        ("all", 3, 1, [0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]),
    ],
)
def test_rows_of_a_rule(rule: str, last: int, target_last: int, rows: list[int], targets: list[int]) -> None:
    concept, target = aligned_rows(CONCEPT, last, TARGET, target_last, rule)

    assert concept.flatten().tolist() == rows
    assert target.flatten().tolist() == targets


@pytest.mark.parametrize("rule", ["aligned", "last", "end", "all"])
def test_one_row_is_taken_by_every_rule(rule: str) -> None:
    concept, target = aligned_rows(CONCEPT[:1], 0, TARGET[:1], 0, rule)

    assert (concept.item(), target.item()) == (0, 10)
