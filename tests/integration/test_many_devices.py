"""Two processes hold one map, bit for bit, and it is one process's to rounding."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from PIL import Image

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.cli.trainer import strategy_for
from rece_lightning.core import UCE, Eraser
from rece_lightning.core.embedding_map import stored
from rece_lightning.data.batches import EvaluationBatches
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.strategy import ClosedFormStrategy, check_strategy, check_trainer
from tests.helpers.command import write_config
from tests.helpers.ranks import CASES, EPOCHS, evidence_of, fit, matrix_of

REPOSITORY = Path(__file__).resolve().parents[2]
BOUND = 1e-10
"""Of the relative difference, times the condition number of the worst system that was solved."""


def environment() -> dict[str, str]:
    """Without what an earlier run with several processes left, and with one thread a process."""
    own = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    left = {key: value for key, value in os.environ.items() if key not in own}
    return {**left, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def run(*command: str | Path, where: Path, limit: float = 300) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, *(str(part) for part in command)]
    return subprocess.run(
        arguments, cwd=where, env=environment(), text=True, capture_output=True, timeout=limit, check=False
    )


@pytest.fixture(scope="module")
def fits(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cases on one process, and on two: what each rank left."""
    place = tmp_path_factory.mktemp("fits")
    # With one thread, as the ranks have it: a network's sums depend on the number.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = {case: fit(str(tiny_model), case, place / "alone" / case, 1) for case in CASES}
    finally:
        torch.set_num_threads(threads)
    (place / "two").mkdir()
    done = run("-m", "tests.helpers.ranks", tiny_model, place / "two", where=REPOSITORY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    ranks = [torch.load(place / "two" / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    return {"alone": alone, "ranks": ranks, "place": place, "model": str(tiny_model)}


def condition_of(module: RECE) -> float:
    """Largest condition number of the systems that the epochs solve, from the evidence of one process."""
    gram, eraser, worst = module.session.gram, Eraser(module.method, evidence_of(module), module.session.gram), 1.0
    for _ in range(EPOCHS):
        record = eraser.step()
        scales, moments = record.editor, record.moments
        assert isinstance(scales, UCE)
        eye = torch.eye(moments.width, dtype=torch.float64)
        system = scales.erase_scale * moments.erased + scales.preserve_scale * moments.preserved + scales.lamb * eye
        befores = stored(record.before).reshape(-1, *eye.shape)
        derivations = [m.mT @ gram.total @ m + module.method.derivation.scale * eye for m in befores]
        worst = max(worst, *(float(torch.linalg.cond(matrix)) for matrix in (system, *derivations)))
    return worst


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_hold_the_same_bits(fits: Mapping[str, Any], case: str) -> None:
    first, second = (rank[case] for rank in fits["ranks"])
    assert torch.equal(first["map"], second["map"])
    assert torch.equal(first["held_out"], second["held_out"])
    for one, other in zip(first["moments"], second["moments"], strict=True):
        for name in one:
            assert torch.equal(one[name], other[name]), name
    assert first["history"] == second["history"]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_hold_what_one_process_holds(fits: Mapping[str, Any], case: str) -> None:
    module, two = fits["alone"][case], fits["ranks"][0][case]
    evidence = evidence_of(module)
    assert two["prompts"] == evidence.prompts
    for mine, theirs in zip((evidence.first, evidence.whole), two["moments"], strict=True):
        for name, matrix in vars(mine).items():
            torch.testing.assert_close(theirs[name], matrix, rtol=1e-12, atol=1e-12 * float(matrix.abs().max() + 1))
    alone = matrix_of(module)
    difference = float((two["map"] - alone).norm() / alone.norm())
    assert difference <= BOUND * condition_of(module)
    # The map is one that does something.
    assert float((alone - torch.eye(alone.shape[-1], dtype=torch.float64)).norm()) > 0.1


def test_a_run_goes_on_with_another_number_of_ranks(fits: Mapping[str, Any], tmp_path: Path) -> None:
    whole = fits["alone"]["many"]
    bound = BOUND * condition_of(whole) * matrix_of(whole).norm()
    first, second = (rank["resumed"]["map"] for rank in fits["ranks"])
    assert torch.equal(first, second)
    # One process's moments are taken as they are, not summed over the ranks.
    assert torch.equal(first, matrix_of(whole))
    back = fit(fits["model"], "many", tmp_path, 1, resume=fits["place"] / "two" / "many" / "epoch=0.ckpt")
    assert float((matrix_of(back) - matrix_of(whole)).norm()) <= bound
    assert torch.equal(matrix_of(back), fits["ranks"][0]["many"]["map"])


def test_torchrun(fits: Mapping[str, Any], tmp_path: Path) -> None:
    done = run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "tests.helpers.ranks", fits["model"], tmp_path),
        where=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for case in CASES:
        left = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)[case]["map"] for rank in range(2)]
        assert torch.equal(left[0], left[1])
        assert torch.equal(left[0], fits["ranks"][0][case]["map"])


# A rank that dies


@pytest.mark.parametrize(("rank", "how"), [(0, "raise"), (1, "raise"), (1, "kill"), (0, "hang")])
def test_a_rank_that_dies_ends_the_others(tiny_model: Path, tmp_path: Path, rank: int, how: str) -> None:
    began = time.monotonic()
    done = run("-m", "tests.helpers.dying_rank", tiny_model, tmp_path, str(rank), how, where=REPOSITORY, limit=100)
    assert time.monotonic() - began < 90  # 30 of them are the imports of two processes on a slow machine
    assert done.returncode != 0
    if how != "kill":
        assert f"rank {rank} ended: ValueError: out of paper" in done.stderr
        assert done.stderr.count("ValueError: out of paper") >= 2
    # What was done is there, and goes on with one process.
    module = RECE(str(tiny_model), tune="off")
    trainer = Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    data = ConceptData(["bomb", "axe"], preserve=["dog"], batch_size=1)
    trainer.fit(module, data, ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert len(module.history) == 4


# Pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """``fit`` with an evaluation, ``validate`` and ``predict`` by one process and by two."""
    places = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for devices, place in enumerate(places, start=1):
        done = run("-m", "tests.helpers.ranks_pictures", place, str(devices), where=REPOSITORY)
        assert done.returncode == 0, done.stderr[-4000:]
    return places


@pytest.mark.parametrize("file", ["fit/evaluation.csv", "validate/evaluation.csv", "pictures/index.csv"])
def test_counts_are_those_of_one_process(pictures: tuple[Path, Path], file: str) -> None:
    one, two = ((place / file).read_text() for place in pictures)
    assert one == two
    assert len(one.splitlines()) > 10


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_what_is_measured_is_that_of_one_process(pictures: tuple[Path, Path], verb: str) -> None:
    tables = [list(csv.DictReader((place / verb / "quality.csv").open())) for place in pictures]
    assert len(tables[0]) == len(tables[1]) > 0
    for one, two in zip(*tables, strict=True):
        for key, value in one.items():
            if key in ("value", "low", "high", "figure") and value.replace(".", "").isdigit():
                assert float(two[key]) == pytest.approx(float(value), rel=1e-5)
            else:
                assert two[key] == value


def test_predict_makes_every_picture_once(pictures: tuple[Path, Path]) -> None:
    names = [sorted(path.name for path in (place / "pictures").glob("*.png")) for place in pictures]
    assert names[0] == names[1] == [f"{number:05d}.png" for number in range(10)]
    for name in names[0]:
        one, two = (np.asarray(Image.open(place / "pictures" / name), dtype=int) for place in pictures)
        # The map differs in its last digits, and so may the rounding to whole grey values.
        assert np.abs(one - two).max() <= 1


# The command


def test_the_command_opens_one_folder(tiny_model: Path, tmp_path: Path) -> None:
    write_config(tmp_path, tiny_model, data={"concepts": ["bomb", "axe"], "batch_size": 1})
    fit = ("-m", "rece_lightning", "fit", "--config", "run.yaml", "--trainer.devices", "2")
    done = run(*fit, where=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["version_0"]
    folder = tmp_path / "runs" / "run" / "version_0"
    assert {"config.yaml", "edited.safetensors", "metrics.csv", "report.html"} <= {p.name for p in folder.iterdir()}
    with (folder / "metrics.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream) if row["map_change"]] == ["0", "1"]
    # It goes on there.
    done = run(*fit, "--ckpt_path", "last", "--trainer.max_epochs", "3", where=tmp_path)
    assert done.returncode == 2
    assert "edited.safetensors" in done.stderr
    done = run(*fit, "--ckpt_path", "last", "--trainer.max_epochs", "3", "--overwrite", where=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (folder / "checkpoints" / "epoch=2.ckpt").exists()
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["version_0"]


# Strategies and loaders


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_find_unused_parameters_true"])
@pytest.mark.parametrize("stage", ["fit", "validate", "predict"])
def test_strategies_that_cannot_are_refused_by_name(strategy: str, stage: str) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, logger=False)
    with pytest.raises(ConfigurationError, match=r"trainer\.strategy: 'ddp'.*strategy: closed_form"):
        check_trainer(trainer, stage)


def test_sharding_strategies_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"trainer\.strategy: 'fsdp'.*strategy: closed_form"):
        check_strategy(SimpleNamespace(strategy=FSDPStrategy(), world_size=2))


@pytest.mark.parametrize(("devices", "nodes", "wanted"), [(1, 1, "auto"), (2, 1, "closed_form"), (1, 2, "closed_form")])
def test_auto_is_the_strategy_that_works(devices: int, nodes: int, wanted: str) -> None:
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": devices, "num_nodes": nodes}
    assert strategy_for(settings) == wanted
    trainer = Trainer(**settings, strategy=strategy_for(settings), max_epochs=1, logger=False)
    check_trainer(trainer, "fit")
    assert isinstance(trainer.strategy, ClosedFormStrategy) == (wanted != "auto")
    assert trainer.world_size == devices * nodes


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 13])
def test_batches_of_all_ranks_are_those_of_one(monkeypatch: pytest.MonkeyPatch, world: int, count: int) -> None:
    prompts = [EvaluationPrompt(f"prompt {number}", "", "erased") for number in range(count)]
    shares = []
    for rank in range(world):
        monkeypatch.setattr("rece_lightning.data.batches.rank_and_world", lambda rank=rank: (rank, world))
        loader = EvaluationBatches(prompts, 3)
        batches = list(loader)
        assert len(batches) == len(loader)
        # Lightning leaves out the hooks of a rank that has no batch, and the others would wait for it.
        assert bool(batches) == bool(count)
        assert [prompts[place] for place in loader.mine()] == [row for batch in batches for row in batch]
        shares.append([batch for batch in batches if batch])
    whole = [tuple(prompts[first : first + 3]) for first in range(0, count, 3)]
    assert [shares[place % world][place // world] for place in range(len(whole))] == whole
    assert sum(map(len, shares)) == len(whole)
