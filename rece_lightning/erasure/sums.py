"""Sums of one kind of prompts in one text space: the rows that are still here, and the moments of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rece_lightning.core.moments import Moments
from rece_lightning.erasure.encoding import TOGETHER, EncodedPair, pair_moments, scatter

PARTS = ("erased", "cross", "target")
COLUMNS = ("last", "target_last", "weight")


@dataclass
class PairSums:
    """Erased prompts: those whose rows are here, and the moments of the others."""

    rows: list[EncodedPair] = field(default_factory=list)
    first: Moments | None = None
    whole: Moments | None = None
    count: int = 0
    """Of all of them."""

    @property
    def elements(self) -> int:
        """Numbers in the rows."""
        return sum(2 * pair.concept.numel() for pair in self.rows)

    def fold(self, width: int, rule: str, device: torch.device | str, least: int) -> None:
        """Add rows to the moments, :data:`TOGETHER` prompts at a time; fewer than ``least`` wait for more."""
        while self.rows and len(self.rows) >= least:
            part, self.rows = self.rows[:TOGETHER], self.rows[TOGETHER:]
            self.add(*pair_moments(part, rule, device))

    def add(self, first: Moments, whole: Moments) -> None:
        """Add moments."""
        self.first = first if self.first is None else self.first.erasing_also(first)
        self.whole = whole if self.whole is None else self.whole.erasing_also(whole)

    def start(self, width: int, device: torch.device | str) -> None:
        """Moments of nothing, where there are none yet."""
        if self.first is None:
            self.first, self.whole = Moments.zeros(width, device), Moments.zeros(width, device)

    def moments(self, width: int, rule: str, device: torch.device | str) -> tuple[Moments, Moments]:
        """Of everything: of the positions that epoch 0 edits, and of all."""
        whole = PairSums(list(self.rows), self.first, self.whole)
        whole.start(width, device)
        whole.fold(width, rule, device, 1)
        assert whole.first is not None
        assert whole.whole is not None
        return whole.first, whole.whole

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors."""
        if self.rows:
            yield "concept", _stacked([pair.concept for pair in self.rows])
            yield "target", _stacked([pair.target for pair in self.rows])
            for name in COLUMNS:
                kind = torch.float64 if name == "weight" else torch.int64
                yield name, torch.tensor([getattr(pair, name) for pair in self.rows], dtype=kind)
            if any(pair.more for pair in self.rows):
                yield "further", torch.tensor([pair.more for pair in self.rows])
        for name, moments in (("first", self.first), ("whole", self.whole)):
            for part in PARTS if moments is not None else ():
                yield f"{name}.{part}", getattr(moments, part)

    def take(self, state: Mapping[str, Tensor], device: torch.device | str) -> None:
        """Add what :meth:`state` gave."""
        if "concept" in state:
            rows = [state[name].to(device).unbind() for name in ("concept", "target")]
            plain = [state[name].tolist() for name in COLUMNS]
            if "further" in state:
                plain.append([tuple(map(tuple, one)) for one in state["further"].tolist()])
            self.rows += [EncodedPair(*columns) for columns in zip(*rows, *plain, strict=True)]
        if "first.erased" in state:
            nothing = torch.zeros_like(state["first.erased"], device=device)
            first, whole = (
                Moments(**{part: state[f"{name}.{part}"].to(device) for part in PARTS}, preserved=nothing)
                for name in ("first", "whole")
            )
            self.add(first, whole)


@dataclass
class RowSums:
    """Prompts without a target: those whose rows are here, and ``Σ c cᵀ`` of the others."""

    rows: list[Tensor] = field(default_factory=list)
    moments: Tensor | None = None
    count: int = 0

    @property
    def elements(self) -> int:
        """Numbers in the rows."""
        return sum(row.numel() for row in self.rows)

    def fold(self, width: int, rule: str, device: torch.device | str, least: int) -> None:
        """As :meth:`PairSums.fold`."""
        while self.rows and len(self.rows) >= least:
            part, self.rows = self.rows[:TOGETHER], self.rows[TOGETHER:]
            self.add(scatter(part, width, device))

    def add(self, moments: Tensor) -> None:
        """Add moments."""
        self.moments = moments if self.moments is None else self.moments + moments

    def start(self, width: int, device: torch.device | str) -> None:
        """As :meth:`PairSums.start`."""
        if self.moments is None:
            self.moments = torch.zeros(width, width, dtype=torch.float64, device=device)

    def total(self, width: int, device: torch.device | str, *, together: bool, in_factors: bool = False) -> Tensor:
        """``Σ c cᵀ`` of everything.

        Args:
            width: ``d``.
            device: of the algebra.
            together: all rows in one product, as long as none is in the moments.
            in_factors: that product is not formed.
        """
        if together and self.moments is None:
            return scatter(self.rows, width, device, in_factors=in_factors)
        whole = RowSums(list(self.rows), self.moments)
        whole.start(width, device)
        whole.fold(width, "", device, 1)
        assert whole.moments is not None
        return whole.moments

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors."""
        if self.rows:
            yield "rows", _stacked(self.rows)
        if self.moments is not None:
            yield "moments", self.moments

    def take(self, state: Mapping[str, Tensor], device: torch.device | str) -> None:
        """Add what :meth:`state` gave."""
        if "rows" in state:
            self.rows += state["rows"].to(device).unbind()
        if "moments" in state:
            self.add(state["moments"].to(device))


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """Rows of prompts, ``[n, positions, d]``, on the CPU: zeros, which count for nothing, behind the shorter ones."""
    return pad_sequence([one.cpu() for one in rows], batch_first=True)
