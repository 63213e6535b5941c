"""Processes that something else started: all of them work together, or none of them begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.devices.launcher import Launch, launched
from tests.helpers.command import run_command, write_config

TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "4", "SLURM_PROCID": "0",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "123456",
}  # fmt: skip
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 4, 2)),
        ({**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "2"}, Launch("a launcher (RANK and WORLD_SIZE are set)", 2, None)),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}, None),  # Lightning's own
        (SRUN, Launch("srun", 4, 2)),
        ({name: value for name, value in SRUN.items() if "PER_NODE" not in name}, Launch("srun", 4, 2)),
        ({**SRUN, "SLURM_JOB_NAME": "bash"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script, which is one process
        ({**SRUN, **TORCHRUN}, Launch("torchrun", 4, 2)),  # within a step of srun
        (MPIRUN, Launch("mpirun", 4, 4)),
        ({"PMI_SIZE": "3"}, Launch("mpirun", 3, None)),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, None),
    ],
)
def test_what_the_environment_says(environment: dict[str, str], wanted: Launch | None) -> None:
    assert launched(environment) == wanted


@pytest.mark.parametrize(("here", "machines"), [(None, None), (2, 2), (4, 1), (3, None)])
def test_machines(here: int | None, machines: int | None) -> None:
    assert Launch("torchrun", 4, here).machines == machines


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (TORCHRUN, ["torchrun started 4", "devices: 2 and num_nodes: 2"]),
        ({**SRUN, "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}, ["srun started 4", "num_nodes: 4"]),
        (MPIRUN, ["mpirun started 4", "mpi4py", "torchrun"]),
    ],
    ids=["torchrun", "srun", "mpirun"],
)
def test_one_process_of_several_that_works_alone_is_refused(
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    says: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trainer = {"devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    outcome = run_command(capsys, "fit", "--config", write_config(tmp_path, tiny_model, trainer={"devices": 1}))
    with pytest.raises(ConfigurationError) as caught:
        Trainer(max_epochs=1, accelerator="cpu", **trainer).fit(
            RECE(str(tiny_model), tune="off"), ConceptData(["bomb"])
        )
    for message in (outcome.err, str(caught.value)):
        assert all(part in message for part in ("trainer.devices", "in a folder of its own", *says)), message
    assert outcome.code == 2
    assert not Path("runs").exists()
    tool = run_command(capsys, "export", "--ckpt_path", "any", "--format", "lora", "--output", "out")
    assert tool.code == 2
    assert "export works in one process" in tool.err


def test_torchrun_needs_no_number_of_devices(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tiny_model, data={"concepts": ["bomb", "axe", "dog"], "batch_size": 1})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "rece_lightning", "fit", "--config", config],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["version_0"]
    alone = run_command(capsys, "fit", "--config", config, "--trainer.default_root_dir", tmp_path / "alone")
    assert alone.code == 0
    two = load_file(tmp_path / "runs/run/version_0/edited.safetensors")
    one = load_file(tmp_path / "alone/version_0/edited.safetensors")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight)
