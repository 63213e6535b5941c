"""``G = Σ_l W_lᵀ W_l``: all that the algebra needs to know of the model's projections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.core.factored import Factored

# Narrower products run no faster.
SMALLEST_BLOCK = 128
NOTHING = "The model has no text-reading projection to edit."


@dataclass(frozen=True)
class Gram:
    """Gram matrix of the original text-reading projections, summed over layers."""

    total: Tensor
    """``Σ_l W_lᵀ W_l``, ``[d, d]``, float64; see :meth:`in_factors` for a sum that is never formed."""
    layers: Tensor | None = None
    """``W_lᵀ W_l`` a layer, ``[L, d, d]``: only the ``tensor`` technique needs it."""
    outputs: int | None = None
    """Number of outputs that were summed over, where it is known: a bound on the rounding of the sum."""

    @classmethod
    def of(
        cls,
        projections: Iterable[tuple[str, Tensor]],
        *,
        keep_layers: bool = False,
        device: torch.device | str = "cpu",
        shards: Sequence[torch.device | str] = (),
    ) -> Gram:
        """Sum over named projections ``[o_l, d]``, read one at a time.

        With shards the layers go to them in turn, and each sums its own share: beside what it was given, a device
        holds no more than one projection in float64 and its sum, ``[d, d]``. The sums are added in the order of the
        shards, so the result depends on how many there are in its last digits alone.

        Args:
            projections: names and weights.
            keep_layers: keep ``W_lᵀ W_l`` too.
            device: of the result.
            shards: devices that sum; ``device`` alone unless given. One may be named twice.

        Raises:
            BaseModelError: if there is none, their widths differ, or one holds NaN or infinity.
        """
        places = [torch.device(shard) for shard in shards or (device,)]
        totals: list[Tensor] = []
        layers = []
        outputs = 0
        for number, (name, weight) in enumerate(projections):
            place = places[number % len(places)]
            wide = weight.to(place, torch.float64)
            width = wide.shape[1]
            if totals and len(totals[0]) != width:
                raise BaseModelError(_widths(name, width, len(totals[0])))
            if number < len(places):
                totals.append(torch.zeros(width, width, dtype=wide.dtype, device=place))
            total = totals[number % len(places)]
            if keep_layers:
                layers.append(mirror(add_product(torch.zeros_like(total), wide)).to(device))
            add_product(total, wide)
            outputs += len(wide)
            del wide  # the next one would lie beside it for a moment
            # The diagonal of WᵀW holds NaN or infinity wherever W does: d numbers to look at, not o×d.
            if not bool(torch.isfinite(total.diagonal()).all()):
                raise BaseModelError(_damaged(name))
        if not totals:
            raise BaseModelError(NOTHING)
        whole = totals.pop(0).to(device)
        while totals:
            whole += totals.pop(0).to(device)
        return cls(mirror(whole), torch.stack(layers) if keep_layers else None, outputs)

    @classmethod
    def in_factors(cls, projections: Iterable[tuple[str, Tensor]], *, device: torch.device | str = "cpu") -> Gram:
        """The same of maps with fewer outputs than inputs, kept as ``WᵀW`` of all of them stacked, ``W [o, d]``.

        Args:
            projections: names and weights.
            device: of the result.

        Raises:
            BaseModelError: as :meth:`of`.
        """
        stacked: list[Tensor] = []
        for name, weight in projections:
            if stacked and stacked[0].shape[1] != weight.shape[1]:
                raise BaseModelError(_widths(name, weight.shape[1], stacked[0].shape[1]))
            stacked.append(weight.to(device, torch.float64))
            if not bool(torch.isfinite(stacked[-1]).all()):
                raise BaseModelError(_damaged(name))
        if not stacked:
            raise BaseModelError(NOTHING)
        whole = stacked[0] if len(stacked) == 1 else torch.cat(stacked)
        return cls(Factored.of_rows(whole), outputs=len(whole))

    @property
    def width(self) -> int:
        """``d``."""
        return self.total.shape[0]

    @property
    def scale(self) -> float:
        """``tr(G)/d``: what λ must be read against."""
        return float(self.total.trace()) / self.width


def _widths(name: str, width: int, others: int) -> str:
    return (
        f"{name} reads embeddings {width} wide, other projections {others}; "
        "narrow model.layers to projections of one width."
    )


def _damaged(name: str) -> str:
    return f"{name} holds NaN or infinity; the checkpoint is damaged, fetch it again."


def add_product(total: Tensor, weight: Tensor) -> Tensor:
    """Add ``WᵀW`` to the lower triangle of ``total``, in place, in blocks: a symmetric product needs half the work.

    Args:
        total: ``[d, d]``; what stands above its diagonal blocks is left alone.
        weight: ``W``, ``[o, d]``.
    """
    width = weight.shape[1]
    block = max(SMALLEST_BLOCK, width // 8)
    for first in range(0, width, block):
        last = min(first + block, width)
        total[first:last, :last].addmm_(weight[:, first:last].mT, weight[:, :last])
    return total


def mirror(total: Tensor) -> Tensor:
    """The symmetric matrix with the lower triangle of ``total``."""
    return total.tril() + total.tril(-1).mT
