"""The fitter: what the prompts of an erasure say, in every text space, as sums that add up over batches and ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.encoding import EncodedPair, Pairs, Rows
from rece_lightning.erasure.space_statistics import (
    ERASED,
    FOUND,
    HELD_OUT,
    NEIGHBOURS,
    PRESERVED,
    WORDS,
    SpaceStatistics,
)
from rece_lightning.erasure.state import statistics_fault


class ConceptStatistics:
    """Sufficient statistics of what is erased and preserved: all that an :class:`Eraser` needs to know of prompts.

    ``update`` counts encoded prompts, batch by batch; ``reduce`` sums over ranks; ``evidence`` says what was counted.
    The result does not depend on how prompts were put into batches, but for last digits.

    Args:
        widths: text space → ``d``.
        rule: token selection of epoch 0.
        device: of the algebra.
        keep_prompts: keep every prompt whatever their number, for an editor that is ``per_layer``.
        shared: this rank holds its share of the prompts; see :meth:`reduce`.
        factors: text spaces whose moments stay in factors while their rows are fewer than ``d``.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        rule: str = "aligned",
        device: torch.device | str = "cpu",
        *,
        keep_prompts: bool = False,
        shared: bool = False,
        factors: Collection[str] = (),
    ) -> None:
        self.spaces = {
            name: SpaceStatistics(
                width, rule, device, keep_prompts=keep_prompts, shared=shared, in_factors=name in factors
            )
            for name, width in widths.items()
        }
        self.probe: dict[str, Any] | None = None
        """The first erased prompt with its rows: tells whether another model's text encoder is the same one."""
        self.batches: list[int] = []
        """Numbers of the batches that are in these sums, where somebody keeps count."""
        self.before: frozenset[int] = frozenset()
        """Those that a stopped run had counted, on any rank: they are not encoded again."""

    @property
    def first(self) -> SpaceStatistics:
        """Of the first text space."""
        return next(iter(self.spaces.values()))

    @property
    def shared(self) -> bool:
        """Whether this rank holds a share of the prompts."""
        return self.first.shared

    @property
    def prompts(self) -> int:
        """How many prompts are erased."""
        return self.first.prompts

    @property
    def has_all_pairs(self) -> bool:
        """Whether the rows of all erased prompts are here."""
        return all(space.has_all_pairs for space in self.spaces.values())

    @property
    def pairs(self) -> dict[str, list[EncodedPair]]:
        """Text space → the erased prompts whose rows are here."""
        return {name: space.pairs for name, space in self.spaces.items()}

    def update(
        self,
        pairs: Pairs | None = None,
        preserved: Rows | None = None,
        held_out: Rows | None = None,
        *,
        prompts: Sequence[str] = (),
    ) -> ConceptStatistics:
        """Count encoded prompts.

        Args:
            pairs: what is erased, with its targets.
            preserved: what is preserved.
            held_out: what is measured alone.
            prompts: texts of the pairs; the first one ever becomes the probe.
        """
        if self.probe is None and prompts and pairs is not None:
            # A copy: the row is a view of its whole batch.
            concept = next(iter(pairs.values()))[0].concept
            self.probe = {"prompt": prompts[0], "embedding": concept.detach().cpu().clone()}
        for kind, rows in ((ERASED, pairs), (PRESERVED, preserved), (HELD_OUT, held_out)):
            self._count(kind, rows)
        return self

    def join(self, words: Pairs | None = None, found: Pairs | None = None, neighbours: Rows | None = None) -> None:
        """Count what joins the prompts in a robust loop: the same on every rank.

        Args:
            words: other words and prompts for the concepts.
            found: what attacks found, as it was sent.
            neighbours: what lies near and must stay.
        """
        for kind, rows in ((WORDS, words), (FOUND, found), (NEIGHBOURS, neighbours)):
            self._count(kind, rows)

    def _count(self, kind: str, rows: Pairs | Rows | None) -> None:
        for name, of_space in (rows or {}).items():
            self.spaces[name].update(kind, of_space)

    def hold(self, invariants: Mapping[str, Tensor]) -> None:
        """Take the rows that no edit may move, ``[m, d]`` a space."""
        for name, rows in invariants.items():
            self.spaces[name].invariants = rows

    @property
    def holds(self) -> bool:
        """Whether there are such rows."""
        return self.first.invariants is not None

    def subtract(self, pairs: Pairs | None = None, *, places: Sequence[int] = ()) -> ConceptStatistics:
        """Take erased prompts back.

        Where all their rows are here they are left out, exactly; otherwise their moments are subtracted, which loses
        digits (see :class:`IncrementalErasure`).

        Args:
            pairs: encoded, where rows are not here any more.
            places: of the prompts among all erased ones, where they are.
        """
        for name, space in self.spaces.items():
            if space.has_all_pairs:
                space.leave_out(places)
            else:
                space.subtract((pairs or {})[name])
        return self

    def reduce(self, summed: Callable[[Sequence[Tensor]], list[Tensor]]) -> ConceptStatistics:
        """Sum over the ranks; every rank must call it, and then holds the same.

        Args:
            summed: gives the sums of tensors over all ranks.
        """
        for space in self.spaces.values():
            space.reduce(summed)
        return self

    def evidence(self) -> dict[str, Evidence]:
        """Text space → what was counted.

        Raises:
            ConfigurationError: if no prompt was erased, on any rank.
        """
        return {name: space.evidence() for name, space in self.spaces.items()}

    def copy(self) -> ConceptStatistics:
        """The same sums, to be changed apart."""
        other = copy.copy(self)
        other.spaces = {name: copy.copy(space) for name, space in self.spaces.items()}
        for space in other.spaces.values():
            space.parts = {kind: copy.copy(part) for kind, part in space.parts.items()}
            for part in space.parts.values():
                part.rows = list(part.rows)  # type: ignore[assignment]
        other.batches = list(self.batches)
        return other

    # Its state

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain types and tensors on the CPU; rows or moments, whichever is smaller."""
        return {"spaces": {name: space.state_dict() for name, space in self.spaces.items()}, "probe": self.probe}

    def take(self, state: Mapping[str, Any]) -> ConceptStatistics:
        """Add what :meth:`state_dict` gave: into empty statistics the very same, into others their sum.

        Raises:
            ConfigurationError: if it is something else.
        """
        wrong = statistics_fault(state, {name: space.width for name, space in self.spaces.items()})
        if wrong:
            raise ConfigurationError(f"ckpt_path: {wrong}; give a checkpoint that RECE wrote.")
        if self.probe is None:
            self.probe = state["probe"]
        for name, space in self.spaces.items():
            space.take(state["spaces"][name])
        return self
