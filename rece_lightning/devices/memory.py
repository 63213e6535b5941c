"""How much memory is free, and how much was taken at most, per device."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from rece_lightning.devices.plan import HOST

SHARE = 0.9
"""Of what is free: allocators and libraries take some without being asked."""
CGROUPS = Path("/sys/fs/cgroup")


def free_memory(devices: Iterable[str], *, processes: int = 1) -> dict[str, int]:
    """Bytes that a run may take on each device, in the order given.

    To look at an accelerator takes some of its memory: a device that nothing needs is better left alone.

    Args:
        devices: ``cuda:0``, ``cpu``; of one whose memory torch cannot tell (``mps``) the host's is meant, which it
            shares.
        processes: that share the host's memory.
    """
    free = {}
    for name in devices:
        device = torch.device(name)
        whole = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_on_host() // processes
        free[name] = int(SHARE * whole)
    return free


def available_on_host() -> int:
    """Bytes that processes can still get without swapping, within the limits of the container or job."""
    return min(int(psutil.virtual_memory().available), _left_in_group())


def _left_in_group() -> int:
    """Of a control group (a container, a job of a scheduler); its file cache gives way."""
    left = sys.maxsize
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return left
    group = CGROUPS / own.strip().lstrip("/")
    for folder in (group, *group.parents):
        if folder != CGROUPS and CGROUPS not in folder.parents:
            break
        try:
            limit = int((folder / "memory.max").read_text())
            taken = int((folder / "memory.current").read_text())
            lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cache = next(int(value) for key, value in lines if key == "inactive_file")
        except (OSError, ValueError, StopIteration):
            continue  # no limit here, or none that can be read
        left = min(left, max(0, limit - taken + cache))
    return left


def begin_peaks() -> None:
    """From here on a peak is this run's; the host's is the process's, from its start on."""
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def peaks_in_megabytes() -> dict[str, float]:
    """Device → the most that this process took there: of tensors on an accelerator, of anything on the host."""
    peaks = {}
    if torch.cuda.is_initialized():
        sizes = {index: torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())}
        peaks = {f"cuda:{index}": size / 1e6 for index, size in sizes.items() if size}
    return peaks | {HOST: _peak_resident() / 1e6}


def _peak_resident() -> int:
    """Bytes."""
    if os.name == "nt":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
