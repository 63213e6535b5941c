"""What the processes of a run tell each other. With one process every function answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

Item = TypeVar("Item")


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def started_first() -> bool:
    """Whether this process is rank 0, as far as its environment says: also before the processes know each other."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over the ranks: one reduction of all tensors in one piece, in float64.

    The sum is made on rank 0 and sent to the others, so that every rank holds the same bits whatever the backend and
    the machines.

    Args:
        tensors: of the same shapes on every rank.
    """
    if rank_and_world()[1] == 1:
        return list(tensors)
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).to(_wire())
    dist.reduce(flat, dst=0)
    dist.broadcast(flat, src=0)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape).to(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def agreed(tensor: Tensor) -> Tensor | None:
    """Rank 0's tensor where the ranks hold different bits; ``None`` where they all hold the same.

    Ranks on unlike machines solve the same system to other last digits.
    """
    if rank_and_world()[1] == 1:
        return None
    own = tensor.detach().contiguous().to(_wire())
    first = own.clone()
    dist.broadcast(first, src=0)
    differs = torch.tensor(float(not torch.equal(own, first)), device=own.device)
    dist.all_reduce(differs)
    return first.to(tensor) if float(differs) else None


def gathered(item: Item) -> list[Item]:
    """What each rank gives, in the order of the ranks, on every rank."""
    world = rank_and_world()[1]
    if world == 1:
        return [item]
    found: list[Any] = [None] * world
    dist.all_gather_object(found, item)
    return found


def share_of(items: Sequence[Item]) -> list[Item]:
    """This rank's share: every world-th item, so that shares differ by one at most, none repeated and none left out."""
    rank, world = rank_and_world()
    return list(items[rank::world])


def _wire() -> torch.device:
    """Where tensors must lie to be sent."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
