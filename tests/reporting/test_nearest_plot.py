"""The curve over the rank of nearness says what the pictures of the nearest concepts show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.results.comparison import FIRST, LAST, ORIGINAL, Column, Comparison
from rece_lightning.metrics import wilson_interval
from rece_lightning.reporting.nearest import draw_nearest, nearest_findings, nearest_svg

NEAR = {"text": ("comb", "dog", "rose"), "name": ("rose", "comb", "dog")}
HITS = {ORIGINAL: {"comb": 4, "dog": 4, "rose": 3}, FIRST: {"comb": 4, "dog": 4, "rose": 4},
        LAST: {"comb": 1, "dog": 2, "rose": 4}}  # fmt: skip
"""Column → concept → hits in four pictures."""


def comparison(keys: tuple[str, ...] = (ORIGINAL, FIRST, LAST)) -> Comparison:
    """Concepts in another order than that of nearness, and one that was preserved for another reason."""
    prompts = (EvaluationPrompt("bomb", "bomb"), *(EvaluationPrompt(name, name, "preserved")
               for name in ("dog", "rose", "comb", "pizza")))  # fmt: skip
    rows = tuple(row for row in range(5) for _ in range(4))
    columns = {}
    for key in keys:
        hits = [
            seed < {**HITS[key], "bomb": 0, "pizza": 4}[prompts[row].concept] for row in range(5) for seed in range(4)
        ]
        columns[key] = Column(key, key, rows, tuple(range(4)) * 5, torch.zeros(20, 3, 1, 1), torch.tensor(hits))
    return Comparison(prompts, frozenset({"bomb"}), "test", columns=columns, nearest=NEAR)


@pytest.mark.parametrize("order", ["text", "name"])
def test_lines_hold_all_up_to_a_rank_crosses_each_concept(order: str) -> None:
    axes = Figure().add_subplot()
    draw_nearest(axes, comparison(), order)
    assert len(axes.lines) == 2  # the original and the last, nothing between
    for line, crosses, band, key in zip(
        axes.lines, axes.collections[1::2], axes.collections[::2], (ORIGINAL, LAST), strict=True
    ):
        counts = [HITS[key][concept] for concept in NEAR[order]]
        summed = [sum(counts[: rank + 1]) for rank in range(3)]
        wanted = [100 * hits / (4 * (rank + 1)) for rank, hits in enumerate(summed)]
        np.testing.assert_allclose(np.asarray(line.get_xydata()), [[1, wanted[0]], [2, wanted[1]], [3, wanted[2]]])
        np.testing.assert_allclose(np.asarray(crosses.get_offsets())[:, 1], [25 * hits for hits in counts])
        low, high = wilson_interval(summed[-1], 12)
        ends = band.get_paths()[0].vertices
        np.testing.assert_allclose(sorted(set(ends[ends[:, 0] == 3, 1].round(6))), [100 * low, 100 * high], atol=1e-4)
    assert [text.get_text().split(" ", 1)[1] for text in axes.get_xticklabels()] == list(NEAR[order])
    assert f"by {order}" in axes.get_xlabel()


def test_the_score_and_both_halves_are_said_in_words_beside_the_plot() -> None:
    says = nearest_findings(comparison())
    assert len(says) == 4
    assert "Of the 3 concepts nearest by text 58 % " in says[0]
    assert "the original model 92 % " in says[0]
    assert says[1].startswith("The nearer half of them is shown in 25 % ")
    assert "the farther half in 75 % " in says[1]
    page = nearest_svg(comparison())
    assert page.startswith("<svg ")
    assert says[0] in page.replace("&#x27;", "'")
    # A measured model has no original beside it; where nothing was asked by nearness there is no plot.
    alone = nearest_findings(comparison((LAST,)))
    assert "original" not in " ".join(alone)
    assert nearest_svg(comparison((LAST,))).startswith("<svg ")
    assert nearest_svg(replace(comparison(), nearest={})) == ""
    unseen = comparison()
    unseen.columns = {key: replace(column, hits=None) for key, column in unseen.columns.items()}
    assert nearest_svg(unseen) == ""


def test_where_nothing_erased_was_asked_for_the_preserved_decide() -> None:
    found = comparison()
    kept = replace(found, prompts=tuple(replace(row, kind="preserved") for row in found.prompts))
    assert kept.verdict()[0].startswith("The whole erasure: preserved concepts detected in ")
    nobody = replace(kept, columns={key: replace(column, hits=None) for key, column in kept.columns.items()})
    assert nobody.verdict() == ["No detector was given: look at the pictures."]
