"""Float64 as another processor may round it: sums in any order, decompositions by other steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rece_lightning.core.certificate import UNIT

STRENGTH = 0.5
"""Of what the order of a sum may make of it; the sum itself was rounded too."""


def matrix_product(left: Tensor, right: Tensor) -> Tensor:
    """Largest error of a product's entries, over the unit roundoff: as many roundings as terms."""
    return left.shape[-1] * (left.abs() @ right.abs())


def added_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return (left.shape[-1] + 1) * (total.abs() + left.abs() @ right.abs())


PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "mm": matrix_product,
    "bmm": matrix_product,
    "mv": matrix_product,
    "dot": lambda left, right: len(left) * (left.abs() @ right.abs()),
    "addmm": added_product,
    "baddbmm": added_product,
}
SUMS = {"sum": torch.sum, "trace": torch.trace}
DECOMPOSITIONS = {"_linalg_eigh", "linalg_cholesky_ex", "cholesky_solve", "_linalg_solve_ex", "_linalg_svd"}


class OtherRounding(TorchDispatchMode):
    """Moves each result of a product of matrices or a sum by a good part of what its rounding may be.

    Up or down by chance, entry by entry; a decomposition or solve by some units in the last place of its largest entry.
    What is rounded alike on every processor (a sum or product of two numbers, a root) stays as it is.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        plain = name.removesuffix("_")
        if plain in PRODUCTS:
            # In place, what was there is needed first.
            sizes = PRODUCTS[plain](*args)
            return self.moved(func(*args, **(kwargs or {})), sizes)
        found = func(*args, **(kwargs or {}))
        if name in SUMS and isinstance(found, Tensor) and found.is_floating_point():
            count = args[0].numel() // max(found.numel(), 1)
            return self.moved(found, count * SUMS[name](args[0].abs(), *args[1:], **(kwargs or {})))
        if name in DECOMPOSITIONS:
            parts = found if isinstance(found, tuple) else (found,)
            for part in parts:
                if part.is_floating_point() and part.numel():
                    self.moved(part, 8 * part.abs().max().expand(part.shape))
        return found

    def moved(self, found: Tensor, sizes: Tensor) -> Tensor:
        if found.dtype != torch.float64:
            return found
        ways = torch.randint(0, 2, found.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return found.add_(STRENGTH * UNIT * sizes * ways)
