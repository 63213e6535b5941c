"""How many bytes of tensors are alive at once: counted, so that it can be asked on any device, meta too."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations within it make, until they are freed.

    ``peak`` and ``now`` are keyed by device type; what was there before is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in given:
                self._take(leaf)
        return made

    def _take(self, tensor: torch.Tensor) -> None:
        storage, kind = tensor.untyped_storage(), tensor.device.type
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now[kind] = self.now.get(kind, 0) + storage.nbytes()
        self.peak[kind] = max(self.peak.get(kind, 0), self.now[kind])
        weakref.finalize(storage, self._let_go, key, kind, storage.nbytes())

    def _let_go(self, key: int, kind: str, size: int) -> None:
        self._known.discard(key)
        self.now[kind] -= size
