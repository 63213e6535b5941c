"""Which device holds which part, and whether a part is let go when it is no longer needed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.memory import free_memory
from rece_lightning.devices.plan import HOST, Plan, plan
from rece_lightning.devices.sizes import needs_of, shard_need
from rece_lightning.models.base import BaseModel

PLACED_PARTS = ("text_encoder", "unet", "autoencoder", "algebra")


@dataclass(frozen=True)
class Placement:
    """Devices of the parts; ``auto`` is the trainer's own (the CPU for float64 where it has none)."""

    text_encoder: str = "auto"
    unet: str = "auto"
    autoencoder: str = "auto"
    algebra: str = "auto"
    release: bool = True
    """Let the text encoder and the pipeline go as soon as nothing needs them."""
    waiting: frozenset[str] = frozenset()
    """Parts that are in host memory while they are unused."""
    gram: tuple[str, ...] = ()
    """Devices that sum shares of the Gram; that of the algebra alone without any."""

    def __post_init__(self) -> None:
        for part in PLACED_PARTS:
            value = getattr(self, part)
            if value != "auto":
                check_device(part, value)
        for value in self.gram:
            check_device("gram", value)

    @property
    def given(self) -> dict[str, str]:
        """Part → device, where it is not ``auto``."""
        return {part: getattr(self, part) for part in PLACED_PARTS if getattr(self, part) != "auto"}

    def device_of(self, part: str, default: torch.device) -> torch.device:
        """Device of a part, ``default`` being the trainer's."""
        value = getattr(self, part)
        device = default if value == "auto" else torch.device(value)
        return torch.device("cpu") if part == "algebra" and device.type == "mps" else device

    def waits(self, part: str) -> bool:
        """Whether a part is in host memory while it is unused."""
        return part in self.waiting


def check_device(field: str, value: str) -> None:
    """Refuse what is no device, and devices that are not there.

    Raises:
        ConfigurationError: naming the field of ``DevicePlacement``.
    """
    said = f"DevicePlacement.{field}: {value!r}"
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(f"{said} is no device; give auto, cpu or cuda:0.") from error
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigurationError(f"{said}, but torch sees no CUDA device; give auto or cpu.")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise ConfigurationError(
            f"{said}, but torch sees {count} CUDA device{'s' * (count > 1)}; give auto, cpu or cuda:{count - 1}."
        )


@dataclass(frozen=True)
class Decided:
    """A plan, and the placement that carries it out."""

    plan: Plan
    placement: Placement
    of: tuple[BaseModel, torch.device]
    """The model, and the trainer's device."""
    needed: frozenset[str]
    """Parts that were planned for."""


def decide(
    asked: Placement,
    base: BaseModel,
    names: Sequence[str],
    *,
    home: torch.device,
    needed: Collection[str],
    batch_size: int,
    apart: int | None = None,
    offload: bool | None = None,
    processes: int = 1,
) -> Decided:
    """Look up what the parts need and what is free, and plan.

    Args:
        asked: devices that somebody chose.
        base: the model.
        names: of the projections that are edited.
        home: the trainer's device.
        needed: parts that the run will load; the others are left to the trainer's device.
        batch_size: pictures that are made together.
        apart: number of erased prompts where the algebra keeps matrices for every layer and prompt.
        offload: whether parts wait in host memory; as there is room unless given.
        processes: on this machine. With several each has a device of its own, and leaves those of the others alone.
    """
    sizes = needs_of(base, names, batch_size=batch_size, apart=apart)
    needs = [need for part, need in sizes.items() if part in needed]
    given = {part: full_name(device) for part, device in asked.given.items()}
    if home.type == "mps":
        given.setdefault("algebra", HOST)  # it has no float64
    trainers, chosen = full_name(home), [full_name(device) for device in asked.gram]
    devices = dict.fromkeys([trainers, *given.values(), *chosen, HOST])

    def planned() -> Plan:
        order = sorted(devices, key=lambda name: (name != trainers, name == HOST, name))
        return plan(needs, free_memory(order, processes=processes), given=given, offload=offload)

    best = planned()
    if home.type == "cuda" and processes == 1 and not best.stays_on(trainers):
        devices |= dict.fromkeys(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        best = planned()
    where = {part: given.get(part, trainers) for part in PLACED_PARTS} | {row.part: row.device for row in best.rows}
    shards = chosen or _with_room(best, where["algebra"], shard_need(base, names))
    waiting = frozenset(row.part for row in best.rows if row.waits)
    placement = Placement(**where, release=asked.release, waiting=waiting, gram=tuple(shards))  # type: ignore[arg-type]
    return Decided(best, placement, (base, home), frozenset(needed))


def full_name(name: str | torch.device) -> str:
    """``cuda:0`` for ``cuda``."""
    return f"cuda:{torch.cuda.current_device()}" if str(name) == "cuda" else str(torch.device(name))


def _with_room(plan: Plan, algebra: str, need: int) -> list[str]:
    """Accelerators that can sum a share of the Gram; none where the algebra's own device is the only one."""
    if algebra == HOST:
        return []
    peaks = plan.peaks
    left = {device: free - peaks[device] for device, free in plan.free.items()}
    others = [device for device, size in left.items() if device not in (HOST, algebra) and size >= need]
    return [algebra, *others] if others else []
