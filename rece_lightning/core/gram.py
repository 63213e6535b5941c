"""``G = Σ_l W_lᵀ W_l``: all that the algebra needs to know of the model's projections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rece_lightning.core.errors import BaseModelError


@dataclass(frozen=True)
class Gram:
    """Gram matrix of the original text-reading projections, summed over layers."""

    total: Tensor
    """``Σ_l W_lᵀ W_l``, ``[d, d]``, float64."""
    layers: Tensor | None = None
    """``W_lᵀ W_l`` a layer, ``[L, d, d]``: only the ``tensor`` technique needs it."""

    @classmethod
    def of(
        cls,
        projections: Iterable[tuple[str, Tensor]],
        *,
        keep_layers: bool = False,
        device: torch.device | str = "cpu",
    ) -> Gram:
        """Sum over named projections ``[o_l, d]``, read one at a time.

        Raises:
            BaseModelError: if there is none, their widths differ, or one holds NaN or infinity.
        """
        total: Tensor | None = None
        layers = []
        for name, weight in projections:
            wide = weight.to(device).double()
            gram = wide.mT @ wide
            # The Gram of a matrix with NaN or infinity holds NaN or infinity: d×d to look at, not o×d.
            if not bool(torch.isfinite(gram).all()):
                raise BaseModelError(f"{name} holds NaN or infinity; the checkpoint is damaged, fetch it again.")
            if total is not None and total.shape != gram.shape:
                raise BaseModelError(
                    f"{name} reads embeddings {gram.shape[0]} wide, other projections {total.shape[0]}; "
                    "narrow model.layers to projections of one width."
                )
            total = gram if total is None else total + gram
            if keep_layers:
                layers.append(gram)
        if total is None:
            raise BaseModelError("The model has no text-reading projection to edit.")
        return cls(total, torch.stack(layers) if keep_layers else None)

    @property
    def width(self) -> int:
        """``d``."""
        return self.total.shape[0]

    @property
    def scale(self) -> float:
        """``tr(G)/d``: what λ must be read against."""
        return float(self.total.trace()) / self.width
