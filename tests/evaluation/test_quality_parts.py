"""What carries the metrics of an evaluation: roles, prompts, seeds, the file, small pictures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation import columns
from rece_lightning.evaluation.columns import ColumnParts
from rece_lightning.evaluation.quality import ColumnQuality, Quality
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.figures import QualityLine, quality_rows, read_quality, write_quality
from rece_lightning.evaluation.results.grid import PICTURES_A_CELL, cell
from rece_lightning.evaluation.results.sheets import MOST
from rece_lightning.metrics import ArtistScore, Figure, PerceptualDistance, PictureBatch, PictureDistance
from rece_lightning.metrics.figure import KEPT, SETS


class Brightness(PictureDistance):
    """Difference of two pictures' means."""

    protocol = "brightness"

    def kept_of(self, pictures: Tensor) -> Tensor:
        return pictures.mean((1, 2, 3))

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().double()


class Remembers:
    """A metric of one's own that says what it was given."""

    protocol = "remembers"
    compares = SETS
    groups: tuple[tuple[str, ...], ...] = ((KEPT,),)

    def __init__(self, prompts: int = 0, seeds: int = 0) -> None:
        self.prompts, self.seeds = prompts, seeds
        self.batches: list[PictureBatch] = []

    def sized(self, prompts: int, seeds: int) -> Remembers:
        return Remembers(prompts, seeds)

    def kept_of(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)

    def take_reference(self, kept: Tensor) -> None:
        raise AssertionError("there is no folder")

    def take(self, batch: PictureBatch) -> None:
        self.batches.append(batch)

    def figures(self, role: str) -> list[Figure]:
        given = [
            (text, row, seed)
            for batch in self.batches
            for text, row, seed in zip(batch.texts, batch.rows, batch.seeds, strict=True)
        ]
        return [Figure(role, float(self.seeds), len(given), repr((self.prompts, given)))]


PROMPTS = (
    EvaluationPrompt("axe", "axe"),
    EvaluationPrompt("a hatchet", "axe"),
    EvaluationPrompt("fox", "fox", "preserved", seed=3),
    EvaluationPrompt("fox", "fox", "preserved", seed=4),
    EvaluationPrompt("key", "key", "preserved", seed=3),
    EvaluationPrompt("key", "key", "preserved", seed=8),
)
SHOTS = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 3), (3, 4), (4, 3), (5, 8)]


def comparison() -> Comparison:
    return Comparison(PROMPTS, own=frozenset({"axe"}))


def grey(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 4, 4)


def test_erased_and_kept_are_measured_apart_and_synonyms_count_as_erased() -> None:
    quality = Quality([PerceptualDistance(Brightness()), ArtistScore(Brightness())], comparison(), SHOTS)
    assert quality.of_original == ["perceptual_distance", "artist_score"]
    column = ColumnQuality(quality, "rece", compared=True)
    before, after = grey(*[0.0] * 8), grey(0.5, 0.7, 0.1, 0.3, 0.0, 0.2, 0.0, 0.0)
    for part in (slice(0, 3), slice(3, 8)):  # batches that hold both
        column.add(after[part], SHOTS[part], quality.kept_of(before[part]))
    found = {(line.metric, line.figure.part): line.figure for line in column.lines()}
    assert found["perceptual_distance", "erased"].value == pytest.approx(0.4)
    assert found["perceptual_distance", "kept"].value == pytest.approx(0.05)
    assert found["artist_score", "difference"].value == pytest.approx(0.35)
    assert [found["artist_score", part].total for part in ("erased", "kept", "difference")] == [4, 4, 8]


def test_the_score_lies_in_an_interval_made_of_both() -> None:
    score = ArtistScore(Brightness())
    changes = torch.rand(40, generator=torch.Generator().manual_seed(3))
    score.update(grey(*[0.0] * 20), grey(*changes[:20].tolist()), "erased")
    score.update(grey(*[0.0] * 20), grey(*(changes[20:] / 4).tolist()), "kept")
    erased, kept = score.means()["erased"], score.means()["kept"]
    found = score.score()
    # Independent errors add up by their squares.
    half = math.hypot(*(mean.interval[1] - mean.mean for mean in (erased, kept)))
    assert found.interval[1] - found.mean == pytest.approx(half)
    assert found.mean == pytest.approx(float(score.compute()))


def test_a_prompt_of_several_rows_is_one_prompt_with_several_seeds() -> None:
    quality = Quality([Remembers(), Remembers()], comparison(), SHOTS)
    column = ColumnQuality(quality, "rece", compared=True)
    column.add(torch.rand(8, 3, 4, 4), SHOTS, quality.kept_of(torch.rand(8, 3, 4, 4)))
    first, second = column.lines()
    assert (first.metric, second.metric) == ("remembers", "remembers_2")
    # Four prompts; the kept ones are the last two, each with two sets of seeds.
    given = [("fox", 2, 0), ("fox", 2, 1), ("key", 3, 0), ("key", 3, 1)]
    assert first.figure.method == repr((4, given))
    assert first.figure.value == 2
    # Where one has more pictures than another, seeds are no sets.
    uneven = Quality([Remembers()], comparison(), SHOTS[:-1])
    column = ColumnQuality(uneven, "rece", compared=True)
    column.add(torch.rand(1, 3, 4, 4), [(4, 3)], uneven.kept_of(torch.rand(1, 3, 4, 4)))
    assert column.lines()[0].figure.value == 1


def test_what_needs_the_original_is_left_out_without_it() -> None:
    quality = Quality([PerceptualDistance(Brightness())], comparison(), SHOTS)
    column = ColumnQuality(quality, "original", compared=False)
    column.add(grey(0.1, 0.2), SHOTS[:2], None)
    assert column.lines() == []


# The file


def line(column: str, value: float, *, metric: str = "clip_score", protocol: str = "clip-score emoji") -> QualityLine:
    figure = Figure("kept", value, 12, 'says "a, b"', (value - 1, value + 1))
    return QualityLine(column, metric, protocol, "", figure)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    spread = Figure("kept", 0.1 + 0.2, 6, "±", deviation=1e-9)
    lines = [line("uce", 61.5), QualityLine("rece", "kernel_distance", "kid x", "the original model", spread)]
    back = read_quality(write_quality(lines, tmp_path / "quality.csv"))
    assert [str(one) for one in back] == [str(one) for one in lines]
    assert back[0] == lines[0]
    assert back[1].figure.value == 0.1 + 0.2
    assert read_quality(tmp_path / "none.csv") == []
    (tmp_path / "quality.csv").write_text("column,metric\nuce,clip_score\n")
    with pytest.raises(ConfigurationError, match="is damaged"):
        read_quality(tmp_path / "quality.csv")


def test_figures_of_other_rules_stand_in_other_rows() -> None:
    lines = [line("uce", 61.5), line("rece", 60.25), line("rece", 20.0, protocol="clip-score other")]
    rows = quality_rows(lines, ["original", "uce", "rece"])
    assert [row.texts for row in rows] == [("–", "61.5 (60.5–62.5)", "60.2 (59.2–61.2)"), ("–", "–", "20 (19–21)")]


# Small pictures


def test_a_column_keeps_small_pictures_of_the_sheet_and_the_grid_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST", 7)
    prompts = tuple(EvaluationPrompt(f"fox {row}", "fox", "preserved") for row in range(4))
    found = Comparison(prompts)
    shots = [(row, seed) for row in range(4) for seed in range(5)]
    parts = ColumnParts(found, None, shots)
    # As pictures of mixed guidance come: the last prompt first.
    order = sorted(shots, key=lambda shot: (shot[0] != 3, shot))
    for shot in order:
        value = (5 * shot[0] + shot[1]) / 19
        parts.add(torch.full((1, 3, 200, 200), value), [shot])
    column = parts.column("rece", "RECE")
    assert column is not None
    assert column.places is not None
    assert list(zip(column.rows, column.seeds, strict=True)) == shots
    assert column.places == (0, 1, 2, 3, 4, 5, 6, 10, 11, 15, 16)
    assert column.pictures.shape == (11, 3, 96, 96)
    assert column.pictures.dtype == torch.uint8
    assert len(column.first_pictures) == 7
    for index, place in enumerate(column.places):
        assert float(column.pictures[index].float().mean()) / 255 == pytest.approx(place / 19, abs=0.003)
    found.columns["rece"] = column
    shown = cell(column, 3)
    assert shown is not None
    assert shown.shape == (3, 96, 96 * PICTURES_A_CELL)
    assert [float(shown[0, 0, left]) for left in (0, 96)] == pytest.approx([15 / 19, 16 / 19], abs=0.003)


def test_memory_does_not_grow_with_the_pictures() -> None:
    """Bytes that a column holds: of twice as many pictures than a sheet takes as much as of just as many."""
    prompts = tuple(EvaluationPrompt(f"fox {row}", "fox", "preserved") for row in range(2))

    def held(seeds: int) -> int:
        parts = ColumnParts(Comparison(prompts), None, [(row, seed) for row in range(2) for seed in range(seeds)])
        for row in range(2):
            for first in range(0, seeds, 100):
                size = min(100, seeds - first)
                parts.add(torch.zeros(size, 3, 8, 8), [(row, first + seed) for seed in range(size)])
        column = parts.column("rece", "RECE")
        assert column is not None
        return column.pictures.nbytes

    assert held(MOST) - held(MOST // 2) <= PICTURES_A_CELL * 3 * 8 * 8
