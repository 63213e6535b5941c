"""What the prompts say in one text space: rows while they are few, moments from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    scatter,
    stay_rows,
    with_invariants,
)

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
            yield "concept", torch.stack([pair.concept.cpu() for pair in self.rows])
            yield "target", torch.stack([pair.target.cpu() for pair in self.rows])
            for name in COLUMNS:
                kind = torch.float64 if name == "weight" else torch.int64
                yield name, torch.tensor([getattr(pair, name) for pair in self.rows], dtype=kind)
        for name, moments in (("first", self.first), ("whole", self.whole)):
            for part in PARTS if moments is not None else ():
                yield f"{name}.{part}", getattr(moments, part)

    def take(self, state: Mapping[str, Tensor], device: torch.device | str) -> None:
        """Add what :meth:`state` gave."""
        if "concept" in state:
            rows = [state[name].to(device).unbind() for name in ("concept", "target")]
            plain = (state[name].tolist() for name in COLUMNS)
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

    def total(self, width: int, device: torch.device | str, *, together: bool) -> Tensor:
        """``Σ c cᵀ`` of everything.

        Args:
            width: ``d``.
            device: of the algebra.
            together: all rows in one product, as long as none is in the moments.
        """
        if together and self.moments is None:
            return scatter(self.rows, width, device)
        whole = RowSums(list(self.rows), self.moments)
        whole.start(width, device)
        whole.fold(width, "", device, 1)
        assert whole.moments is not None
        return whole.moments

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors."""
        if self.rows:
            yield "rows", torch.stack([row.cpu() for row in self.rows])
        if self.moments is not None:
            yield "moments", self.moments

    def take(self, state: Mapping[str, Tensor], device: torch.device | str) -> None:
        """Add what :meth:`state` gave."""
        if "rows" in state:
            self.rows += state["rows"].to(device).unbind()
        if "moments" in state:
            self.add(state["moments"].to(device))


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
    """

    def __init__(
        self, width: int, rule: str, device: torch.device | str, *, keep_prompts: bool = False, shared: bool = False
    ) -> None:
        self.width, self.rule, self.device = width, rule, device
        self.keep_prompts, self.shared = keep_prompts, shared
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
        part = self.parts[ERASED]
        assert isinstance(part, PairSums)
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
        # Rows are float32, moments float64.
        if folded or 4 * sum(part.elements for part in parts) > 8 * MATRICES[group] * self.width**2:
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
        preserved, held_out = self.parts[PRESERVED], self.parts[HELD_OUT]
        assert first is not None
        assert whole is not None
        assert isinstance(preserved, RowSums)
        assert isinstance(held_out, RowSums)
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
        preserved, held_out = self.parts[PRESERVED], self.parts[HELD_OUT]
        assert isinstance(preserved, RowSums)
        assert isinstance(held_out, RowSums)
        if not self.prompts:
            raise ConfigurationError("data.concepts: no prompt was encoded; is the data empty?")
        together = self.in_rows
        if not together:
            self._fold(ASKED, 1)
        matrix = preserved.total(self.width, self.device, together=together)
        if self.pairs:  # all rows are here, or so few of them that they stay
            evidence = gather_evidence(self.pairs, matrix, self.rule, self.device, keep_prompts=self.keep_prompts)
        else:
            first, whole = self._erased.first, self._erased.whole
            assert first is not None
            assert whole is not None
            first, whole = (replace(moments, preserved=matrix) for moments in (first, whole))
            evidence = Evidence(first, whole, prompts=self.prompts)
        drift = held_out.total(self.width, self.device, together=together) if held_out.count else None
        evidence = replace(evidence, held_out=drift, joined=self._joined())
        return with_invariants(evidence, self.invariants, self.device)

    def _joined(self) -> Joined | None:
        words, found, near = (self.parts[kind] for kind in JOINED)
        assert isinstance(words, PairSums)
        assert isinstance(found, PairSums)
        assert isinstance(near, RowSums)
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
