"""Encoded prompts as they come in: rows while they are few, moments from then on, and one sum over the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.eraser import Evidence
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.moments import Moments
from rece_lightning.distributed import summed
from rece_lightning.erasure.encoding import PROMPTS_AN_UPDATE, EncodedPair, gather_evidence, pair_moments, stay_rows
from rece_lightning.models.text import PromptEncoder
from rece_lightning.runs.stored import moments_are_smaller, store_evidence, store_moments

ERASED_PARTS = ("erased", "cross", "target")


class PromptSums:
    """What the prompts of a run say.

    Rows are kept while they take less room than their moments (a checkpoint holds whichever is smaller); from then on
    a batch of rows is added to the moments and let go, so memory does not grow with the number of prompts.

    Args:
        rule: token selection of epoch 0.
        device: of the algebra.
        keep_prompts: keep every prompt whatever their number, as the technique ``tensor`` needs them.
        shared: this rank holds its share of the prompts; the moments are summed over the ranks.
    """

    def __init__(
        self, rule: str, device: torch.device | str, *, keep_prompts: bool = False, shared: bool = False
    ) -> None:
        self.rule, self.device = rule, device
        self.keep_prompts, self.shared = keep_prompts, shared
        self.pairs: list[EncodedPair] = []
        """Of the erased prompts that are not in the moments yet."""
        self.kept: list[Tensor] = []
        self.held_out: list[Tensor] = []
        self.probe: dict[str, Any] | None = None
        """The first prompt with its embedding."""
        self.batches: list[int] = []
        """Numbers of the batches that are in these sums, where somebody keeps count."""
        self.before: frozenset[int] = frozenset()
        """Those that a stopped run had counted, on any rank: they are not encoded again."""
        self._numbers = [0, 0, 0]
        """Erased, kept and held-out prompts so far."""
        self._elements = self._rows = 0
        self._first: Moments | None = None
        self._whole: Moments | None = None
        self._preserved: Tensor | None = None
        self._held_moments: Tensor | None = None

    @property
    def in_rows(self) -> bool:
        """Whether every row is still here."""
        return self._whole is None and not self.shared

    def add_pairs(self, prompts: Sequence[str], pairs: Sequence[EncodedPair]) -> None:
        """Take erased prompts with their embeddings."""
        if self.probe is None and prompts:
            # A copy: the row is a view of its whole batch.
            self.probe = {"prompt": prompts[0], "embedding": pairs[0].concept.detach().cpu().clone()}
        self.pairs += pairs
        self._numbers[0] += len(pairs)
        self._rows += sum(len(pair.concept) for pair in pairs)
        self._grow(sum(2 * pair.concept.numel() for pair in pairs))

    def add_kept(self, rows: Sequence[Tensor]) -> None:
        """Take embeddings ``[positions, d]`` of preserved prompts."""
        self.kept += rows
        self._numbers[1] += len(rows)
        self._grow(sum(row.numel() for row in rows))

    def add_held_out(self, rows: Sequence[Tensor]) -> None:
        """Take embeddings of prompts that are measured alone."""
        self.held_out += rows
        self._numbers[2] += len(rows)
        self._grow(sum(row.numel() for row in rows))

    def _grow(self, elements: int) -> None:
        self._elements += elements
        some = next(iter((*[pair.concept for pair in self.pairs[:1]], *self.kept[:1], *self.held_out[:1])), None)
        if some is None or self.keep_prompts:
            return
        width = some.shape[-1]
        if self._whole is not None or moments_are_smaller(self._elements, width):
            self._fold(width, PROMPTS_AN_UPDATE)

    def _fold(self, width: int, least: int) -> None:
        """Add rows to the moments, as many prompts at a time as :func:`gather_evidence` takes.

        Args:
            width: ``d``.
            least: fewer prompts than these wait for more.
        """
        if self._first is None or self._whole is None:
            self._first = self._whole = Moments.zeros(width, self.device)
        nothing = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        self._preserved = nothing if self._preserved is None else self._preserved
        self._held_moments = nothing if self._held_moments is None else self._held_moments
        # Of sums that several ranks had made some are in the moments, however few they are.
        few = stay_rows(self._rows, width) and not self.shared and self._numbers[0] == len(self.pairs)
        while not few and self.pairs and len(self.pairs) >= least:
            part, self.pairs = self.pairs[:PROMPTS_AN_UPDATE], self.pairs[PROMPTS_AN_UPDATE:]
            first, whole = pair_moments(part, self.rule, self.device)
            self._first, self._whole = self._first.erasing_also(first), self._whole.erasing_also(whole)
        while self.kept and len(self.kept) >= least:
            part_kept, self.kept = self.kept[:PROMPTS_AN_UPDATE], self.kept[PROMPTS_AN_UPDATE:]
            self._preserved = self._preserved + self._scatter(part_kept)
        while self.held_out and len(self.held_out) >= least:
            part_held, self.held_out = self.held_out[:PROMPTS_AN_UPDATE], self.held_out[PROMPTS_AN_UPDATE:]
            self._held_moments = self._held_moments + self._scatter(part_held)

    def _scatter(self, rows: Sequence[Tensor]) -> Tensor:
        return Moments.preserving(torch.cat(list(rows)).to(self.device)).preserved

    def holding(self, evidence: Evidence, held_out_moments: Tensor) -> PromptSums:
        """The same settings with moments that are there already."""
        sums = PromptSums(self.rule, self.device, keep_prompts=self.keep_prompts)
        sums.probe = self.probe
        sums._first, sums._whole = evidence.first, evidence.whole
        sums._preserved, sums._held_moments = evidence.whole.preserved, held_out_moments
        sums._numbers = [evidence.prompts, 1, 1]
        return sums

    # In the middle

    def parts(self) -> dict[str, Tensor]:
        """Everything that was counted so far, on the CPU, but for the probe's text; :meth:`take` takes it back.

        With rows and moments as they are: what is added after :meth:`take` is added to the same bits.
        """
        found = {
            "batches": torch.tensor(self.batches, dtype=torch.int64),
            "numbers": torch.tensor([*self._numbers, self._elements, self._rows], dtype=torch.int64),
        }
        if self.pairs:
            found["pairs.concept"] = torch.stack([pair.concept for pair in self.pairs])
            found["pairs.target"] = torch.stack([pair.target for pair in self.pairs])
            found["pairs.last"] = torch.tensor([pair.last for pair in self.pairs], dtype=torch.int64)
            found["pairs.target_last"] = torch.tensor([pair.target_last for pair in self.pairs], dtype=torch.int64)
            found["pairs.weight"] = torch.tensor([pair.weight for pair in self.pairs], dtype=torch.float64)
        found |= {name: torch.stack(rows) for name, rows in (("kept", self.kept), ("held_out", self.held_out)) if rows}
        if self._first is not None and self._whole is not None:
            for name, moments in (("first", self._first), ("whole", self._whole)):
                # Zeros of nothing are shared between the two, and no file holds a tensor twice.
                found |= {f"{name}.{part}": getattr(moments, part).clone() for part in ERASED_PARTS}
        sums = {"preserved": self._preserved, "held_out_moments": self._held_moments}
        found |= {name: matrix.clone() for name, matrix in sums.items() if matrix is not None}
        if self.probe is not None:
            found["probe"] = self.probe["embedding"]
        return {name: tensor.detach().cpu() for name, tensor in found.items()}

    def take(self, parts: Mapping[str, Tensor], probe: str, device: torch.device | str) -> None:
        """Add what :meth:`parts` gave: into empty sums the very same, into others their sum.

        Args:
            parts: of these sums, or of another rank's share.
            probe: the text of the probe.
            device: of the rows, where those of further prompts will lie.
        """
        if self.probe is None and "probe" in parts:
            self.probe = {"prompt": probe, "embedding": parts["probe"]}
        if "pairs.concept" in parts:
            rows = [parts[f"pairs.{name}"].to(device).unbind() for name in ("concept", "target")]
            plain = (parts[f"pairs.{name}"].tolist() for name in ("last", "target_last", "weight"))
            self.pairs += [EncodedPair(*columns) for columns in zip(*rows, *plain, strict=True)]
        self.kept += parts["kept"].to(device).unbind() if "kept" in parts else ()
        self.held_out += parts["held_out"].to(device).unbind() if "held_out" in parts else ()
        *numbers, elements, count = parts["numbers"].tolist()
        self._numbers = [own + more for own, more in zip(self._numbers, numbers, strict=True)]
        self._elements, self._rows = self._elements + elements, self._rows + count
        self.batches += parts["batches"].tolist()
        if "first.erased" in parts:
            self._add_moments(parts)
        self._grow(0)

    def _add_moments(self, parts: Mapping[str, Tensor]) -> None:
        zero = torch.zeros_like(parts["preserved"], device=self.device)
        first, whole = (
            Moments(**{part: parts[f"{name}.{part}"].to(self.device) for part in ERASED_PARTS}, preserved=zero)
            for name in ("first", "whole")
        )
        preserved, held = (parts[name].to(self.device) for name in ("preserved", "held_out_moments"))
        self._first = first if self._first is None else self._first.erasing_also(first)
        self._whole = whole if self._whole is None else self._whole.erasing_also(whole)
        self._preserved = preserved if self._preserved is None else self._preserved + preserved
        self._held_moments = held if self._held_moments is None else self._held_moments + held

    # What comes out

    def evidence(self, width: int) -> Evidence:
        """Everything that was counted, on every rank the same.

        Args:
            width: ``d``.

        Raises:
            ConfigurationError: if no prompt was erased, on any rank.
        """
        if self.in_rows:
            if not self.pairs:
                raise ConfigurationError("data.concepts: no prompt was encoded; is the data empty?")
            return gather_evidence(self.pairs, self.kept, self.rule, self.device, keep_prompts=self.keep_prompts)
        self._fold(width, 1)
        self._sum_over_ranks()
        assert self._first is not None
        assert self._whole is not None
        assert self._preserved is not None
        if not self._numbers[0]:
            raise ConfigurationError("data.concepts: no prompt was encoded; is the data empty?")
        if self.pairs:  # so few that they stay rows
            return gather_evidence(self.pairs, [], self.rule, self.device, preserved=self._preserved)
        first, whole = (replace(part, preserved=self._preserved) for part in (self._first, self._whole))
        return Evidence(first, whole, prompts=self._numbers[0])

    def _sum_over_ranks(self) -> None:
        if not self.shared:
            return
        first, whole = self._first, self._whole
        assert first is not None
        assert whole is not None
        assert self._preserved is not None
        assert self._held_moments is not None
        numbers = torch.tensor(self._numbers, dtype=torch.float64)
        parts = [first.erased, first.cross, first.target, whole.erased, whole.cross, whole.target]
        parts = summed([*parts, self._preserved, self._held_moments, numbers.to(first.erased.device)])
        self._preserved, self._held_moments, numbers = parts[6:]
        zero = torch.zeros_like(self._preserved)
        self._first = Moments(parts[0], parts[1], parts[2], zero)
        self._whole = Moments(parts[3], parts[4], parts[5], zero)
        self._numbers = [int(number) for number in numbers]
        self.shared = False

    def held_out_moments(self, width: int) -> Tensor:
        """``P_h`` of held-out prompts, of the preserved ones where there are none."""
        if not self.in_rows:
            self.evidence(width)
            found = self._held_moments if self._numbers[2] else self._preserved
            assert found is not None
            return found
        rows = self.held_out or self.kept
        stacked = torch.cat(rows).to(self.device) if rows else torch.zeros(0, width, device=self.device)
        return Moments.preserving(stacked).preserved

    def stored(self, evidence: Evidence, held_out_moments: Tensor) -> dict[str, Any]:
        """For a checkpoint: plain types and tensors on the CPU."""
        if not self.in_rows:
            return store_moments(evidence, held_out_moments)
        return store_evidence(self.pairs, self.kept, self.held_out, evidence, held_out_moments, self.keep_prompts)


def too_long(encoder: PromptEncoder, prompts: Sequence[str]) -> dict[str, str]:
    """Prompts that do not fit the tokenizer's positions, with what is cut off; all are looked at in one call."""
    texts = list(dict.fromkeys(prompts))
    if not texts:
        return {}
    counts = [len(ids) for ids in encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    longest = [text for text, count in zip(texts, counts, strict=True) if count > encoder.positions - 2]
    return {text: lost for text in longest if (lost := encoder.cut(text))}
