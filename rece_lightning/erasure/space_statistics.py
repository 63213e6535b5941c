"""What the prompts say in one text space: rows while they are few, moments from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.moments import Moments
from rece_lightning.core.robust import Joined
from rece_lightning.erasure.encoding import (
    TOGETHER,
    EncodedPair,
    gather_evidence,
    in_parts,
    pair_moments,
    stay_rows,
    with_invariants,
)
from rece_lightning.erasure.sums import PARTS, PairSums, RowSums

ERASED, PRESERVED, HELD_OUT = "erased", "preserved", "held_out"
WORDS, FOUND, NEIGHBOURS = "words", "found", "neighbours"
ASKED = (ERASED, PRESERVED, HELD_OUT)
"""What the data asks for."""
JOINED = (WORDS, FOUND, NEIGHBOURS)
"""What joins it in a robust loop: other words and prompts for the concepts, attacks that were found, near words."""
PAIRED = (ERASED, WORDS, FOUND)
"""Kinds of prompts that have a target."""
MATRICES: dict[tuple[str, ...], int] = {ASKED: 9, JOINED: 10}
"""Moments that a group of kinds needs once it is no longer rows."""


class SpaceStatistics:
    """What was counted in one text space.

    Rows are kept while they take less room than their moments (a checkpoint holds whichever is smaller); from then on
    a batch of rows is added to the moments and let go, so memory does not grow with the number of prompts.

    Args:
        width: ``d``.
        rule: token selection of epoch 0.
        device: of the algebra.
        keep_prompts: keep every prompt whatever their number, for an editor that is ``per_layer``.
        shared: this rank holds its share of what the data asks for.
        in_factors: moments are never formed while there are fewer rows than ``d``.
    """

    def __init__(
        self,
        width: int,
        rule: str,
        device: torch.device | str,
        *,
        keep_prompts: bool = False,
        shared: bool = False,
        in_factors: bool = False,
    ) -> None:
        self.width, self.rule, self.device = width, rule, device
        self.keep_prompts, self.shared, self.in_factors = keep_prompts, shared, in_factors
        self.parts: dict[str, PairSums | RowSums] = {
            kind: PairSums() if kind in PAIRED else RowSums() for kind in (*ASKED, *JOINED)
        }
        self.invariants: Tensor | None = None
        """Rows that no edit may move, for an editor that holds them exactly."""

    @property
    def in_rows(self) -> bool:
        """Whether every row of what the data asks for is still here."""
        return self._erased.whole is None and not self.shared

    @property
    def pairs(self) -> list[EncodedPair]:
        """Erased prompts whose rows are here."""
        return self._erased.rows

    @property
    def has_all_pairs(self) -> bool:
        """Whether the rows of all erased prompts are here."""
        return not self.shared and len(self._erased.rows) == self._erased.count

    @property
    def prompts(self) -> int:
        """How many are erased."""
        return self._erased.count

    @property
    def _erased(self) -> PairSums:
        return self._paired(ERASED)

    def _paired(self, kind: str) -> PairSums:
        part = self.parts[kind]
        assert isinstance(part, PairSums)
        return part

    def _unpaired(self, kind: str) -> RowSums:
        part = self.parts[kind]
        assert isinstance(part, RowSums)
        return part

    def update(self, kind: str, rows: Sequence[EncodedPair] | Sequence[Tensor]) -> None:
        """Count rows of one of the kinds."""
        part = self.parts[kind]
        part.rows += rows  # type: ignore[arg-type,operator]
        part.count += len(rows)
        self._grow(ASKED if kind in ASKED else JOINED)

    def _grow(self, group: tuple[str, ...]) -> None:
        if self.keep_prompts:
            return
        parts = [self.parts[kind] for kind in group]
        folded = any(part.whole is not None for part in parts if isinstance(part, PairSums))
        elements = sum(part.elements for part in parts)
        # Rows are float32, moments float64; a product in factors has as many terms as there are rows.
        most = self.width**2 if self.in_factors else 2 * MATRICES[group] * self.width**2
        if folded or elements > most:
            self._fold(group, TOGETHER)

    def _fold(self, group: tuple[str, ...], least: int) -> None:
        erased = self._erased
        # Of sums that several ranks had made some are in the moments, however few they are.
        few = not self.shared and erased.count == len(erased.rows)
        few = few and stay_rows(sum(len(pair.concept) for pair in erased.rows), self.width)
        for kind in group:
            part = self.parts[kind]
            part.start(self.width, self.device)
            if kind != ERASED or not few:
                part.fold(self.width, self.rule, self.device, least)

    def subtract(self, pairs: list[EncodedPair]) -> None:
        """Take erased prompts out of the moments."""
        self._fold(ASKED, 1)
        erased = self._erased
        for part in in_parts(pairs):
            erased.add(*(moments.times(-1.0) for moments in pair_moments(part, self.rule, self.device)))
        erased.count -= len(pairs)

    def leave_out(self, places: Sequence[int]) -> None:
        """Take erased prompts out of the rows."""
        erased, gone = self._erased, set(places)
        erased.rows = [pair for place, pair in enumerate(erased.rows) if place not in gone]
        erased.count = len(erased.rows)

    def reduce(self, summed: Callable[[Sequence[Tensor]], list[Tensor]]) -> None:
        """Sum what the data asks for over the ranks, in one reduction.

        Args:
            summed: gives the sums of tensors over all ranks.
        """
        if not self.shared:
            return
        self._fold(ASKED, 1)
        first, whole = self._erased.first, self._erased.whole
        preserved, held_out = self._unpaired(PRESERVED), self._unpaired(HELD_OUT)
        assert first is not None
        assert whole is not None
        assert preserved.moments is not None
        assert held_out.moments is not None
        counts = torch.tensor([self.parts[kind].count for kind in ASKED], dtype=torch.float64).to(self.device)
        own = [getattr(moments, name) for moments in (first, whole) for name in PARTS]
        *sums, preserved.moments, held_out.moments, counts = summed([*own, preserved.moments, held_out.moments, counts])
        zero = torch.zeros_like(preserved.moments)
        self._erased.first = Moments(sums[0], sums[1], sums[2], zero)
        self._erased.whole = Moments(sums[3], sums[4], sums[5], zero)
        for kind, count in zip(ASKED, counts.tolist(), strict=True):
            self.parts[kind].count = int(count)
        self.shared = False

    def evidence(self) -> Evidence:
        """Everything that was counted.

        Raises:
            ConfigurationError: if no prompt was erased.
        """
        preserved, held_out = self._unpaired(PRESERVED), self._unpaired(HELD_OUT)
        if not self.prompts:
            raise ConfigurationError("data.concepts: no prompt was encoded; is the data empty?")
        together = self.in_rows
        if not together:
            self._fold(ASKED, 1)
        factors = self.in_factors and together
        matrix = preserved.total(self.width, self.device, together=together, in_factors=factors)
        if self.pairs:  # all rows are here, or so few of them that they stay
            evidence = gather_evidence(self.pairs, matrix, self.rule, self.device, keep_prompts=self.keep_prompts)
        else:
            first, whole = self._erased.first, self._erased.whole
            assert first is not None
            assert whole is not None
            first, whole = (replace(moments, preserved=matrix) for moments in (first, whole))
            evidence = Evidence(first, whole, prompts=self.prompts)
        drift = None
        if held_out.count:
            drift = held_out.total(self.width, self.device, together=together, in_factors=factors)
        evidence = replace(evidence, held_out=drift, joined=self._joined())
        return with_invariants(evidence, self.invariants, self.device)

    def _joined(self) -> Joined | None:
        words, found, near = self._paired(WORDS), self._paired(FOUND), self._unpaired(NEIGHBOURS)
        if not (words.count or found.count or near.count):
            return None
        if words.whole is not None:  # rows beside moments would take room twice
            self._fold(JOINED, 1)
        first, whole = words.moments(self.width, self.rule, self.device)
        # An attack's rows are what was sent: all of them count, in every epoch.
        sent = found.moments(self.width, self.rule, self.device)[1]
        return Joined(first, whole, sent, near.total(self.width, self.device, together=False))

    # Its state

    def state_dict(self) -> dict[str, Tensor]:
        """Everything as it is, on the CPU: what is added after :meth:`take` is added to the same bits."""
        state: dict[str, Tensor] = {}
        for kind, part in self.parts.items():
            if part.count or any(True for _ in part.state()):
                state[f"{kind}.count"] = torch.tensor(part.count)
                # Views share memory, and no file holds a tensor twice.
                state |= {f"{kind}.{name}": tensor.detach().cpu().clone() for name, tensor in part.state()}
        if self.invariants is not None:
            state["invariants"] = self.invariants.detach().cpu().clone()
        return state

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Add what :meth:`state_dict` gave: into empty statistics the very same, into others their sum.

        Raises:
            ConfigurationError: if it is something else; see :func:`rece_lightning.erasure.state.statistics_fault`.
        """
        for kind, part in self.parts.items():
            own = {name.removeprefix(f"{kind}."): value for name, value in state.items() if name.startswith(f"{kind}.")}
            if own:
                part.count += int(own["count"])
                part.take(own, self.device)
        if "invariants" in state:
            self.invariants = state["invariants"]
        for group in (ASKED, JOINED):
            self._grow(group)
