"""Two processes measure what one measures: columns and metrics of an evaluation."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.columns import ColumnParts
from rece_lightning.evaluation.drawing import own_share
from rece_lightning.evaluation.folders import References
from rece_lightning.evaluation.quality import ColumnQuality, Quality
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.metrics import ArtistScore, FrechetDistance, KernelDistance, PerceptualDistance, PictureDistance

NAMES = [("bomb", "erased"), ("axe", "erased"), ("fox", "preserved"), ("key", "preserved"), ("dog", "preserved")]
SEEDS, BATCH = 3, 4


class Corners:
    """Features and a distance of two: the mean of every channel's upper and lower half."""

    protocol = "corners-6"
    num_features = 6

    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.unflatten(2, (2, -1)).mean((3, 4)).flatten(1)


class Apart(PictureDistance):
    """Largest difference of the features."""

    protocol = "apart"

    def kept_of(self, pictures: Tensor) -> Tensor:
        return Corners()(pictures)

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().amax(1).double()


class Bright:
    """Detects what is bright."""

    protocol = "bright"

    def check(self, concept: str) -> None:
        """Everything can be bright."""

    def detect(self, pictures: Tensor, concepts: Any) -> Tensor:
        return pictures.mean((1, 2, 3)) > 0.5


def pictures(shots: list[tuple[int, int]], salt: int) -> Tensor:
    """Of shots: each from its own generator."""
    made = [
        torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1000 * salt + 10 * row + seed))
        for row, seed in shots
    ]
    return torch.stack(made)


def measured(folder: str) -> dict[str, Any]:
    """What this process and the others find."""
    found = Comparison(tuple(EvaluationPrompt(name, name, kind) for name, kind in NAMES))
    shots = [(row, seed) for row in range(len(NAMES)) for seed in range(SEEDS)]
    pairs = [PerceptualDistance(Apart()), ArtistScore(Apart()), FrechetDistance(Corners()), KernelDistance(Corners())]
    sets = [FrechetDistance(Corners()), KernelDistance(Corners())]
    parts = ColumnParts(found, Bright(), shots)
    own = own_share(shots, BATCH)
    lines = []
    for metrics, references in ((pairs, None), (sets, References(folder))):
        quality = Quality(metrics, found, shots, references)
        column = ColumnQuality(quality, "rece", compared=references is None)
        for first in range(0, len(own), BATCH):
            batch = own[first : first + BATCH]
            kept = quality.kept_of(pictures(batch, 1)) if references is None else None
            column.add(pictures(batch, 2), batch, kept)
            if references is None:
                parts.add(pictures(batch, 2), batch)
        lines += column.lines()
    whole = parts.column("rece", "RECE")
    assert whole is not None
    figures = [(line.metric, line.reference, line.figure.part, line.figure.total) for line in lines]
    values = [[line.figure.value, *line.figure.interval, line.figure.deviation] for line in lines]
    assert whole.hits is not None
    return {
        "figures": figures,
        "values": torch.tensor(values, dtype=torch.double),
        "shots": (whole.rows, whole.seeds, whole.places),
        "hits": whole.hits,
        "pictures": whole.pictures,
    }


def run(rank: int, port: int, folder: str) -> None:
    """One of two processes; keeps what it finds."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.save(measured(folder), Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_give_the_columns_and_figures_of_one(tmp_path: Path) -> None:
    from rece_lightning.evaluation.png import save_pixels, to_pixels

    for number, picture in enumerate(pictures([(row, 0) for row in range(7)], 3)):
        save_pixels(to_pixels(picture), tmp_path / f"{number}.png", {})
    alone = measured(str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found["figures"] == alone["figures"]
        assert found["shots"] == alone["shots"]
        assert torch.equal(found["hits"], alone["hits"])
        assert torch.equal(found["pictures"], alone["pictures"])
        torch.testing.assert_close(found["values"], alone["values"], rtol=1e-9, atol=1e-9, equal_nan=True)
    names = {(metric, reference) for metric, reference, _, _ in alone["figures"]}
    assert ("kernel_distance", f"the pictures in {tmp_path.name}") in names
    assert len(alone["figures"]) == 2 + 3 + 1 + 1 + 2
