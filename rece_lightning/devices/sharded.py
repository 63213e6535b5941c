"""Weights that no process holds whole: found before anybody edits a part of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist
from torch import nn

from rece_lightning.core.errors import ConfigurationError

REMEDY = (
    "train with ddp, or without the erasure; then save the model whole (a full state dict) and erase from it with "
    "rece_lightning.erase or `rece fit --model.pretrained FOLDER`"
)


def refuse_sharded(module: nn.Module, field: str, within: nn.Module | None = None) -> None:
    """Refuse a module whose parameters are spread over processes, or may be.

    A closed form of a shard is no shard of the closed form: ``G`` sums over whole layers, and what is written into
    a shard's view is lost or tears the layers apart.

    Args:
        module: somebody's own, wrapped by whatever trains it.
        field: where it was found, for messages.
        within: a module around it, which may shard what lies in it.

    Raises:
        ConfigurationError: naming what shards it, and what to do.
    """
    for kind, name in _sharding_of(module, within):
        raise ConfigurationError(
            f"{field}: {kind} shards {name}, so no process holds the weights that are to be edited; {REMEDY}."
        )


def _sharding_of(module: nn.Module, within: nn.Module | None) -> Iterator[tuple[str, str]]:
    """What shards a module (FSDP, FSDP2, another DTensor, DeepSpeed's ZeRO-3) and which part of it."""
    if dist.is_available():
        from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
        from torch.distributed.tensor import DTensor

        inside = set(module.modules())
        for part in (within or module).modules():
            # FSDP takes the parameters of what it wraps out of it: the module itself would look empty.
            if isinstance(part, FullyShardedDataParallel) and (part in inside or module in set(part.modules())):
                yield "FSDP (FullyShardedDataParallel)", type(part.module).__name__
        for name, part in module.named_modules():
            if isinstance(part, FSDPModule):
                yield "FSDP2 (fully_shard)", name or type(module).__name__
        for name, weight in module.named_parameters():
            if isinstance(weight, DTensor):
                yield "a device mesh (DTensor)", name
    for name, weight in module.named_parameters():
        if hasattr(weight, "ds_id"):
            yield "DeepSpeed ZeRO-3", name
