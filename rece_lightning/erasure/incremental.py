"""Add concepts to a finished erasure, or take some back, without encoding the others again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.data.concept_table import LISTED, read_concepts
from rece_lightning.data.concepts import ConceptsSetting, PromptPair, check_disjoint, prompt_pairs
from rece_lightning.erasure.session import NOTHING_YET, ErasureSession
from rece_lightning.erasure.statistics import ConceptStatistics


class IncrementalErasure:
    """An erasure with concepts added and taken back.

    The session is that of a module that was fitted, or of ``RECE.load_from_checkpoint(path)``. After each call it holds
    the new erasure: ``module.pipeline()``, ``module.erasure()`` and the exports give it, and as many epochs were run.

    Where the run kept its rows (few concepts; a checkpoint holds whichever is smaller), concepts are put to the others'
    rows or left out from among them, and the result is that of a run with the new list from the same embeddings, to
    the last bit where the order is the same. Where it kept moments, those of the concept are added or subtracted.
    Subtracting loses digits: with ``r = Σ‖c‖²`` over everything that was ever added, divided by the same over what is
    left, each moment is off by at most about ``n ε r`` of its size (``n`` rows, ``ε`` = 2.2e-16), and the map by that
    times the condition number of the systems that are solved. Only what is added or taken back is encoded.

    Args:
        session: ``module.session``, with an erasure.

    Raises:
        ConfigurationError: if nothing was edited yet.

    Example:
        >>> from rece_lightning import RECE, ConceptData
        >>> from rece_lightning.erasure.incremental import IncrementalErasure
        >>> module = RECE.load_from_checkpoint("runs/emoji/version_0/checkpoints/last.ckpt")  # doctest: +SKIP
        >>> IncrementalErasure(module.session).add(["hatchet"])  # doctest: +SKIP
    """

    def __init__(self, session: ErasureSession) -> None:
        if not session.history:
            raise ConfigurationError(NOTHING_YET)
        robust = session.method.robust
        if robust is not None and robust.joins:
            raise ConfigurationError(
                "model.method.robust: the words and attacks that joined belong to the concepts that they were chosen "
                "for; run fit with the new list."
            )
        self.session = session

    @property
    def erased(self) -> list[str]:
        """Prompts that are erased now; of a long table those that a checkpoint names."""
        return self.session.erased_prompts

    def add(
        self, concepts: ConceptsSetting, target: str = " ", templates: Sequence[str] = ("{}",)
    ) -> dict[str, AnyMap]:
        """Erase more concepts, given as ``data.concepts`` is.

        Args:
            concepts: what is to be erased too.
            target: what they become.
            templates: that both are filled into.

        Returns:
            The new maps, one a text space.

        Raises:
            ConfigurationError: for a concept that is preserved, or is erased with another target.
        """
        session = self.session
        wanted = read_concepts(concepts, target, templates)
        pairs, summary = prompt_pairs(wanted), session.concepts
        check_disjoint(wanted, summary["preserved"])
        targets = {row["prompt"]: row["target"] for row in summary["erased"]}
        for pair in pairs:
            if targets.get(pair.prompt, pair.target) != pair.target:
                raise ConfigurationError(
                    f"add: {pair.prompt!r} is erased with the target {targets[pair.prompt]!r}; remove it first."
                )
        statistics = session.statistics.copy().update(session.concept_encoder.pairs_in_parts(pairs))
        added = [{"prompt": pair.prompt, "target": pair.target, "weight": pair.weight} for pair in pairs]
        return self._run(statistics, [*summary["erased"], *added], len(pairs))

    def remove(
        self, concepts: ConceptsSetting, target: str = " ", templates: Sequence[str] = ("{}",)
    ) -> dict[str, AnyMap]:
        """Take concepts back.

        Args:
            concepts: as they were given; weight and target are those that they were erased with, where the run names
                them (its first thousand prompts), otherwise those given here.
            target: of prompts that the run does not name.
            templates: as they were given.

        Returns:
            The new maps, one a text space.

        Raises:
            ConfigurationError: for a prompt that is not erased, and for taking back all of them.
        """
        session = self.session
        listed: list[dict[str, Any]] = list(session.concepts["erased"])
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
        statistics = session.statistics.copy()
        if len(gone) + len(unlisted) >= statistics.prompts:
            raise ConfigurationError("remove: nothing would be left to erase; take the base model itself.")
        left = [row for place, row in enumerate(listed) if place not in gone]
        if statistics.has_all_pairs:
            statistics.subtract(places=gone)
        else:
            back = [PromptPair(**listed[place]) for place in gone] + unlisted
            statistics.subtract(session.concept_encoder.pairs_in_parts(back))
        return self._run(statistics, left, -len(gone) - len(unlisted))

    @torch.no_grad()
    def _run(
        self, statistics: ConceptStatistics, erased: Iterable[Mapping[str, Any]], change: int
    ) -> dict[str, AnyMap]:
        """The epochs anew; the session takes them when all of them have been run."""
        session, summary = self.session, dict(self.session.concepts)
        session.run_again(statistics)
        listed = [dict(row) for row in erased]
        summary["erased"] = listed[:LISTED]
        if "erased_prompts" in summary or len(listed) > LISTED:
            summary["erased_prompts"] = summary.get("erased_prompts", len(listed) - change) + change
            summary["erased_digest"] = ""  # of a list that nobody holds
        session.concepts = summary
        return session.maps
