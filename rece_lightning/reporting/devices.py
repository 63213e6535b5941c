"""Which part lay on which device, and how full each device was: the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES = {"text_encoder": "text encoder", "unet": "U-Net", "autoencoder": "autoencoder", "algebra": "algebra"}


@dataclass(frozen=True)
class PartRow:
    """A part of the model on its device."""

    part: str
    device: str
    weights: int | None
    """Bytes; ``None`` where the part was not loaded."""
    working: int | None
    """Bytes more while it works, estimated."""
    waits: bool
    """It is in host memory while it is unused."""
    fits: bool
    why: str

    @property
    def name(self) -> str:
        """For people."""
        return NAMES.get(self.part, self.part)

    @property
    def place(self) -> str:
        """Device, and whether the part is there all the time."""
        return f"{self.device}, waits in host memory" if self.waits else self.device

    @property
    def size(self) -> str:
        """Megabytes of weights, and more at work."""
        if self.weights is None or self.working is None:
            return "–"
        return f"{megabytes(self.weights)} + {megabytes(self.working)}"


@dataclass(frozen=True)
class Devices:
    """A plan and what became of it."""

    parts: Sequence[PartRow]
    free: Mapping[str, int]
    """Device → bytes that were free before."""
    planned: Mapping[str, int]
    """Device → bytes at most, as planned."""
    peaks: Mapping[str, float]
    """Device → megabytes at most, as measured."""
    gram: Sequence[str] = ()
    """Devices that summed shares of the Gram, where it was more than the algebra's."""

    @property
    def rows(self) -> list[dict[str, str]]:
        """Every device that was looked at or used: ``device``, and ``free``, ``planned`` and ``peak`` in megabytes."""
        texts = {
            "free": {name: megabytes(size) for name, size in self.free.items()},
            "planned": {name: megabytes(size) for name, size in self.planned.items()},
            "peak": {name: f"{size:,.0f}" for name, size in self.peaks.items()},
        }
        names = dict.fromkeys([*self.free, *self.planned, *self.peaks])
        return [{"device": one, **{key: sizes.get(one, "–") for key, sizes in texts.items()}} for one in names]


def megabytes(size: int) -> str:
    """Bytes as megabytes: whole ones, with one digit below 10."""
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"


def as_markdown(devices: Devices) -> str:
    """The parts as a table for TensorBoard's text tab."""
    lines = ["| part | device | MB + MB at work | why |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.place} | {row.size} | {row.why} |" for row in devices.parts]
    return "\n".join(lines)
