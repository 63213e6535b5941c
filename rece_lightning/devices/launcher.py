"""Who started this process, and how many like it: a trainer that does not know of them does the whole run once each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rece_lightning.core.errors import ConfigurationError

MPI = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "MPI_LOCALNRANKS"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
)
"""How many processes there are, and how many on this machine: Open MPI, MPICH and Intel's, MVAPICH."""
BY_HAND = ("bash", "interactive")
"""Names of SLURM jobs in which, by Lightning's rule too, somebody works at a prompt."""


@dataclass(frozen=True)
class Launch:
    """Processes that a launcher started, this one among them."""

    launcher: str
    """Such as ``torchrun``."""
    processes: int
    """On all machines together."""
    here: int | None
    """On this machine; ``None`` where the launcher does not say."""

    @property
    def machines(self) -> int | None:
        """How many machines they are on, where they are spread evenly."""
        return None if not self.here or self.processes % self.here else self.processes // self.here


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What started several processes like this one; ``None`` for a single process, and for one that Lightning started.

    Args:
        environment: variables; those of this process unless given.
    """
    own = os.environ if environment is None else environment
    found = _by_torch(own) or _by_slurm(own) or _by_mpi(own)
    return found if found is not None and found.processes > 1 else None


def _by_torch(own: Mapping[str, str]) -> Launch | None:
    # Lightning gives the processes that it starts no RANK.
    if not _count(own, "WORLD_SIZE") or "RANK" not in own:
        return None
    name = "torchrun" if "TORCHELASTIC_RUN_ID" in own else "a launcher (RANK and WORLD_SIZE are set)"
    return Launch(name, _count(own, "WORLD_SIZE"), _count(own, "LOCAL_WORLD_SIZE") or None)


def _by_slurm(own: Mapping[str, str]) -> Launch | None:
    # A batch script has SLURM_NTASKS too, and is one process; a step is what srun started.
    if not _count(own, "SLURM_STEP_NUM_TASKS") or own.get("SLURM_JOB_NAME") in BY_HAND:
        return None
    here = _count(own, "SLURM_NTASKS_PER_NODE")
    nodes = _count(own, "SLURM_STEP_NUM_NODES")
    tasks = _count(own, "SLURM_STEP_NUM_TASKS")
    return Launch("srun", tasks, here or (tasks // nodes if nodes and tasks % nodes == 0 else None))


def _by_mpi(own: Mapping[str, str]) -> Launch | None:
    for world, local in MPI:
        if _count(own, world):
            return Launch("mpirun", _count(own, world), _count(own, local) or None)
    return None


def _count(own: Mapping[str, str], name: str) -> int:
    value = own.get(name, "")
    return int(value) if value.isdecimal() else 0


def check_launch(trainer: Any) -> None:
    """Refuse a trainer that does not work together with the processes that were started beside it.

    Raises:
        ConfigurationError: naming the launcher and the remedy.
    """
    launch = launched()
    if launch is None:
        return
    meeting = getattr(trainer.strategy, "cluster_environment", None)
    joined = meeting is not None and meeting.creates_processes_externally
    if joined and trainer.world_size == launch.processes:
        return
    counts = f"counts {trainer.world_size}" if joined or trainer.world_size == 1 else "knows nothing of the others"
    if launch.launcher == "mpirun" and not joined:
        remedy = "install mpi4py, which Lightning needs to join them, or start them with torchrun --nproc-per-node N"
    else:
        devices = f"devices: {launch.here or 'how many there are on a machine'}"
        remedy = f"give trainer.{devices}" + (f" and num_nodes: {launch.machines}" if launch.machines else "")
    raise ConfigurationError(
        f"trainer.devices: {launch.launcher} started {launch.processes} processes, and this trainer {counts}: every "
        f"one would do the whole run for itself, in a folder of its own; {remedy}; or "
        "start one process alone."
    )
