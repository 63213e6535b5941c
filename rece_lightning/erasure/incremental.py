"""Add concepts to a finished erasure, or take some back, without encoding the others again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.eraser import RECELoop
from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.data.concept_table import LISTED
from rece_lightning.data.concepts import ConceptsSetting, PromptPair, check_disjoint, prompt_pairs, read_concepts
from rece_lightning.erasure.encoding import EncodedPair, encode_pairs, pair_moments
from rece_lightning.erasure.statistics import PromptSums
from rece_lightning.module import RECE

TOGETHER = 64


class IncrementalErasure:
    """The erasure of a module, with concepts added and taken back.

    The module is one that was fitted, or ``RECE.load_from_checkpoint(path)``. After each call it holds the new
    erasure: ``module.pipeline()``, ``module.erasure()`` and the exports give it, and as many epochs were run.

    Where the run kept its rows (few concepts; a checkpoint holds whichever is smaller), concepts are put to the others'
    rows or left out from among them, and the result is that of a run with the new list from the same embeddings, to
    the last bit where the order is the same. Where it kept moments, those of the concept are added or subtracted.
    Subtracting loses digits: with ``r = Σ‖c‖²`` over everything that was ever added, divided by the same over what is
    left, each moment is off by at most about ``n ε r`` of its size (``n`` rows, ``ε`` = 2.2e-16), and the map by that
    times the condition number of the systems that are solved. Only what is added or taken back is encoded.

    Args:
        module: with an erasure.

    Raises:
        ConfigurationError: if nothing was edited yet.

    Example:
        >>> from rece_lightning import RECE, ConceptData
        >>> from rece_lightning.erasure.incremental import IncrementalErasure
        >>> module = RECE.load_from_checkpoint("runs/emoji/version_0/checkpoints/last.ckpt")  # doctest: +SKIP
        >>> IncrementalErasure(module).add(["hatchet"])  # doctest: +SKIP
    """

    def __init__(self, module: RECE) -> None:
        _ = module.maps
        if not module.history:
            raise ConfigurationError("Nothing was edited yet: fit the module, or load it from a checkpoint.")
        if module.robust is not None and module.robust.joins:
            raise ConfigurationError(
                "model.robust: the words and attacks that joined belong to the concepts that they were chosen for; run "
                "fit with the new list."
            )
        self.module = module

    @property
    def erased(self) -> list[str]:
        """Prompts that are erased now; of a long table those that a checkpoint names."""
        return [pair["prompt"] for pair in self.module.description()["concepts"]["erased"]]

    def add(self, concepts: ConceptsSetting, target: str = " ", templates: Sequence[str] = ("{}",)) -> AnyMap:
        """Erase more concepts, given as ``data.concepts`` is.

        Args:
            concepts: what is to be erased too.
            target: what they become.
            templates: that both are filled into.

        Returns:
            The new map.

        Raises:
            ConfigurationError: for a concept that is kept, or is erased with another target.
        """
        wanted = read_concepts(concepts, target, templates)
        pairs, summary = prompt_pairs(wanted), self.module.description()["concepts"]
        check_disjoint(pairs, wanted, summary["preserved"])
        targets = {row["prompt"]: row["target"] for row in summary["erased"]}
        for pair in pairs:
            if targets.get(pair.prompt, pair.target) != pair.target:
                raise ConfigurationError(
                    f"add: {pair.prompt!r} is erased with the target {targets[pair.prompt]!r}; remove it first."
                )
        sums, rows = self._open(), self._encoded(pairs)
        whole = sums.in_rows
        sums = self._from_rows(sums, [*sums.pairs, *rows]) if whole else self._from_moments(sums, rows, 1.0)
        added = [{"prompt": pair.prompt, "target": pair.target, "weight": pair.weight} for pair in pairs]
        return self._run(sums, [*summary["erased"], *added], len(pairs))

    def remove(self, concepts: ConceptsSetting, target: str = " ", templates: Sequence[str] = ("{}",)) -> AnyMap:
        """Take concepts back.

        Args:
            concepts: as they were given; weight and target are those that they were erased with, where the run names
                them (its first thousand prompts), otherwise those given here.
            target: of prompts that the run does not name.
            templates: as they were given.

        Returns:
            The new map.

        Raises:
            ConfigurationError: for a prompt that is not erased, and for taking back all of them.
        """
        summary = self.module.description()["concepts"]
        listed: list[dict[str, Any]] = list(summary["erased"])
        gone: list[int] = []
        unlisted: list[PromptPair] = []
        for pair in prompt_pairs(read_concepts(concepts, target, templates)):
            places = [place for place, row in enumerate(listed) if row["prompt"] == pair.prompt]
            if not places and len(listed) < LISTED:
                raise ConfigurationError(
                    f"remove: {pair.prompt!r} is not erased; {nearest(pair.prompt, {row['prompt'] for row in listed})}."
                )
            gone += places
            unlisted += [] if places else [pair]
        sums = self._open()
        total = self.module.loop.evidence.prompts
        if len(gone) + len(unlisted) >= total:
            raise ConfigurationError("remove: nothing would be left to erase; take the base model itself.")
        left = [row for place, row in enumerate(listed) if place not in gone]
        if sums.in_rows:
            sums = self._from_rows(sums, [row for place, row in enumerate(sums.pairs) if place not in gone])
        else:
            back = [PromptPair(**listed[place]) for place in gone] + unlisted
            sums = self._from_moments(sums, self._encoded(back), -1.0)
        return self._run(sums, left, -len(gone) - len(unlisted))

    # The parts

    def _open(self) -> PromptSums:
        """The prompts as the run left them."""
        module = self.module
        if module._sums is not None and module._sums.in_rows:
            return module._sums
        evidence = module.loop.evidence
        return module._no_prompts().holding(evidence, module._held_out_moments())

    def _encoded(self, pairs: Sequence[PromptPair]) -> list[EncodedPair]:
        """Only what is new."""
        rows: list[EncodedPair] = []
        for first in range(0, len(pairs), TOGETHER):
            part = pairs[first : first + TOGETHER]
            prompts, targets = [pair.prompt for pair in part], [pair.target for pair in part]
            rows += encode_pairs(self.module.encoder, prompts, targets, [pair.weight for pair in part])
        return rows

    def _from_rows(self, former: PromptSums, pairs: Sequence[EncodedPair]) -> PromptSums:
        sums = self.module._no_prompts()
        sums.probe = former.probe
        sums.add_pairs([], pairs)
        sums.add_kept(former.kept)
        sums.add_held_out(former.held_out)
        return sums

    def _from_moments(self, sums: PromptSums, rows: Sequence[EncodedPair], sign: float) -> PromptSums:
        evidence = self.module.loop.evidence
        first, whole = evidence.first, evidence.whole
        for start in range(0, len(rows), TOGETHER):
            of_rows = pair_moments(list(rows[start : start + TOGETHER]), sums.rule, sums.device)
            first, whole = (
                total.erasing_also(part.times(sign)) for total, part in zip((first, whole), of_rows, strict=True)
            )
        changed = type(evidence)(first, whole, prompts=evidence.prompts + int(sign) * len(rows))
        return sums.holding(changed, self.module._held_out_moments())

    @torch.no_grad()
    def _run(self, sums: PromptSums, erased: Iterable[Mapping[str, Any]], change: int) -> AnyMap:
        """The epochs anew; the module takes them when all of them have been run."""
        module = self.module
        epochs, summary = len(module.history), dict(module.description()["concepts"])
        loop = RECELoop(module.gram, module.holding(sums.evidence(module.gram.width)), module.settings)
        records = [(loop.run_epoch(), loop.maps) for _ in range(epochs)]
        listed = [dict(row) for row in erased]
        summary["erased"] = listed[:LISTED]
        if "erased_prompts" in summary or len(listed) > LISTED:
            summary["erased_prompts"] = summary.get("erased_prompts", len(listed) - change) + change
            summary["erased_digest"] = ""  # of a list that nobody holds
        module._sums, module._loop, module._summary = sums, loop, summary
        for part in ("held_out_moments", "residual_unedited"):
            module.release(part)
        module._tools["held_out_moments"] = sums.held_out_moments(module.gram.width)
        module.first_maps, module.history = records[0][1], []
        final = loop.maps
        for record, maps in records:
            loop.maps = maps
            module.history.append(module.measure(record))
        loop.maps = final
        return final
