"""Which device each part goes to, by what the parts need and what is free: numbers in, a plan out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

HOST = "cpu"


@dataclass(frozen=True)
class Need:
    """What a part asks of the device that it lies on."""

    part: str
    weights: int
    """Bytes that it holds."""
    working: int
    """Bytes more while it works."""
    works: str
    """The phase of a run in which it works."""
    present: tuple[str, ...] = ()
    """Phases in which it must be on its device; a part that waits is in host memory in all others. Without any it
    never waits."""

    def __str__(self) -> str:
        return f"{megabytes(self.weights)} MB, {megabytes(self.working)} MB more at work"


@dataclass(frozen=True)
class Placed:
    """A part on a device."""

    need: Need
    device: str
    waits: bool
    """Its weights are on the device only in the phases in which it is needed."""
    fits: bool
    why: str
    given: bool = False
    """Somebody chose the device."""

    @property
    def part(self) -> str:
        """Name of the part."""
        return self.need.part


@dataclass(frozen=True)
class Plan:
    """Where every part goes, and the most that each device will have to hold."""

    rows: tuple[Placed, ...]
    free: Mapping[str, int]
    """Device → bytes that were free when the plan was made."""

    def stays_on(self, home: str) -> bool:
        """Whether the trainer's device has room for every part that nobody chose a device for to stay."""
        return all(row.given or (row.fits and not row.waits and row.device == home) for row in self.rows)

    @property
    def peaks(self) -> dict[str, int]:
        """Device → bytes at most, for every device that was looked at."""
        return peaks(self.rows, self.free)


def plan(
    needs: Sequence[Need],
    free: Mapping[str, int],
    *,
    given: Mapping[str, str] | None = None,
    offload: bool | None = None,
) -> Plan:
    """Give every part a device.

    Parts take their turn as they are listed. Each takes the first of these that leaves no device with more than it has
    free: to stay on the first device, to stay on the next ones; to wait in host memory while it is unused and work on
    the first device, on the next ones; the host. A part for which nothing has room goes to the host, and says so.

    Args:
        needs: of the parts, the one that profits most from an accelerator first.
        free: bytes of every device that may be used, the trainer's own first; the host, ``cpu``, too.
        given: part → device that somebody chose: it wins whatever is free.
        offload: whether parts wait in host memory; as there is room unless given.
    """
    given, rows = given or {}, list[Placed]()
    for need in sorted(needs, key=lambda need: need.part not in given):
        device = given.get(need.part)
        rows.append(_given(need, device, rows, free, offload) if device else _chosen(need, rows, free, offload))
    return Plan(tuple(sorted(rows, key=lambda row: needs.index(row.need))), dict(free))


def peaks(rows: Iterable[Placed], devices: Iterable[str] = ()) -> dict[str, int]:
    """Bytes that each device must hold at most: what stays there, and what the fullest phase adds.

    Weights that wait count in host memory all the time: the host keeps its copy while they are away.
    """
    rows = list(rows)
    phases = {phase for row in rows for phase in (row.need.works, *row.need.present)}
    sizes = {}
    for device in dict.fromkeys([*devices, *(row.device for row in rows), HOST]):
        stays = sum(row.need.weights for row in rows if (HOST if row.waits else row.device) == device)
        sizes[device] = stays + max((_added(rows, device, phase) for phase in phases), default=0)
    return sizes


def _added(rows: Iterable[Placed], device: str, phase: str) -> int:
    here = [row for row in rows if row.device == device]
    at_work = sum(row.need.working for row in here if row.need.works == phase)
    return at_work + sum(row.need.weights for row in here if row.waits and phase in row.need.present)


def _options(need: Need, free: Mapping[str, int], offload: bool | None) -> Iterator[tuple[str, bool]]:
    accelerators = [device for device in free if device != HOST] if next(iter(free)) != HOST else []
    if offload is not True or not need.present:
        yield from ((device, False) for device in accelerators)
    if offload is not False and need.present:
        yield from ((device, True) for device in accelerators)
    yield HOST, False


def _chosen(need: Need, rows: Sequence[Placed], free: Mapping[str, int], offload: bool | None) -> Placed:
    home = next(iter(free))
    for device, waits in _options(need, free, offload):
        if _fits([*rows, Placed(need, device, waits, True, "")], free):
            why = "the trainer's device" if device == home else f"{home} has no room for it"
            if waits:
                why += ", where it cannot stay" if offload is None and device == home else ""
                why += "; waits in host memory"
            return Placed(need, device, waits, True, why)
    left = _left(rows, free)
    room = ", ".join(f"{device} {megabytes(max(0, bytes_left))} MB" for device, bytes_left in left.items())
    return Placed(need, HOST, False, False, f"nothing has room for it: it needs {need}, and there is {room}")


def _given(need: Need, device: str, rows: Sequence[Placed], free: Mapping[str, int], offload: bool | None) -> Placed:
    able = bool(need.present) and device != HOST
    for waits in [False] * (offload is not True or not able) + [True] * (offload is not False and able):
        if _fits([*rows, Placed(need, device, waits, True, "")], free):
            return Placed(need, device, waits, True, "given" + ("; waits in host memory" if waits else ""), True)
    # Nothing is left to choose: it is tried as it was asked for.
    waits = able and offload is True
    left = _left(rows, free).get(device, 0)
    why = f"given, though it needs {need}, and there is {megabytes(max(0, left))} MB"
    return Placed(need, device, waits, False, why, True)


def _fits(rows: Sequence[Placed], free: Mapping[str, int]) -> bool:
    """Whether there is room for the last row; other devices may have been overburdened before it."""
    before, after = peaks(rows[:-1]), peaks(rows)
    return all(
        size <= free.get(device, 0) or (device != rows[-1].device and size == before.get(device, 0))
        for device, size in after.items()
    )


def _left(rows: Sequence[Placed], free: Mapping[str, int]) -> dict[str, int]:
    taken = peaks(rows, free)
    return {device: size - taken[device] for device, size in free.items()}


def megabytes(size: int) -> str:
    """Bytes as megabytes, rounded up: what must be free."""
    return f"{math.ceil(size / 1e6):,}"
