"""One world's pictures under every method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import rece_lightning
from benchmarks.article.plan import (
    DERIVED,
    FLOOR,
    SAMPLING,
    Contender,
    Edit,
    Guarded,
    Trained,
    asked,
    names_of,
    seeds,
)
from benchmarks.article.table import Row
from benchmarks.harness import Piece, World, quiet_trainer, unet_digest
from benchmarks.results.derived import answer, with_derived
from benchmarks.results.draws import Draws, Shot
from benchmarks.results.groups import RIDGES
from benchmarks.results.plan import ERASED, HELD, REFERENCE, Erasure
from rece_lightning import ConceptData
from rece_lightning.core.derivation import DerivationMap
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.metrics import Clip, ClipScore, EmojiFeatures, FeatureDistance, FrechetDistance, PerceptualDistance
from rece_lightning.models.denoisers import denoisers_of, together
from rece_lightning.models.pipelines import put_into
from rece_lightning.models.sampling import Request, Sampling


@dataclass
class Done:
    """What a method did, while its model is in the pipeline."""

    sampling: Sampling = SAMPLING
    settings: str = ""
    changed: float = 0.0
    erasing: float = 0.0


class Bench:
    """A world, and the original model's pictures, each made once."""

    def __init__(self, world: str) -> None:
        self.world, self.features, self.clip = World(world), EmojiFeatures(), Clip()
        self.draws = Draws(self.world, SAMPLING)
        self.originals = self.world.readers()

    def piece(self, thing: Erasure, contender: Contender) -> Piece[Row]:
        """The rows of a method: one a group of prompts."""
        name = self.world.pretrained
        groups = [group for group in asked(thing) if contender.how is None or group != FLOOR]
        made = {(name, thing.name, contender.name, group): contender.recipe(thing, group) for group in groups}
        return Piece(f"{name}: {thing.name}: {contender.name}", made, lambda _: [self.measure(thing, contender)])

    @contextmanager
    def applied(self, thing: Erasure, contender: Contender) -> Iterator[Done]:
        """Within the block the pipeline draws as this method has it."""
        how, pipeline, began = contender.how, self.world.maker.pipeline, time.process_time()
        if isinstance(how, Guarded):
            yield Done(replace(SAMPLING, guard=how.make(names_of(thing))))
        elif isinstance(how, Edit):
            data = {**thing.data, **how.data}
            erasure = rece_lightning.erase(pipeline, method=how.method, epochs=how.epochs, tune=how.tune, **data)
            took = time.process_time() - began
            settings = "" if erasure.tuning is None else _plain(erasure.tuning["chosen"])
            try:
                yield Done(settings=settings, changed=self._share(erasure.names), erasing=took)
            finally:
                erasure.undo()
        elif isinstance(how, Trained):
            with torch.inference_mode(False), torch.enable_grad():
                module = how.kind(**how.arguments)
                quiet_trainer(1).fit(module, ConceptData(**_for_training(thing, module)))
            took = time.process_time() - began
            try:
                put_into(pipeline, module.weights().items())
                yield Done(changed=module.change()["parameters_edited_share"], erasing=took)
            finally:
                put_into(pipeline, module.original.items())
        else:
            yield Done()

    def measure(self, thing: Erasure, contender: Contender) -> list[Row]:
        """Draw a method's pictures, and measure them a group of prompts."""
        groups = asked(thing)
        plain = {name: rows for name, rows in groups.items() if name not in (DERIVED, FLOOR)}
        if contender.how is None:
            plain[FLOOR] = groups[FLOOR]
        shots = [(row, seed) for name, rows in plain.items() for row in rows for seed in seeds(name)]
        before = self.draws.originals(shots)
        self._reference(thing)
        with self.applied(thing, contender) as done:
            began = time.process_time()
            after = before if contender.how is None else self._make(shots, done.sampling)
            each = (time.process_time() - began) / len(shots)
            found, first = [], 0
            for name, rows in plain.items():
                part = slice(first, first := first + len(rows) * len(seeds(name)))
                found.append(self._row(thing, contender, name, rows, before[part], after[part], done))
            found.append(self._derived(thing, contender, groups[DERIVED], done))
        costs = {} if contender.how is None else {"changed": done.changed, "erasing": done.erasing, "drawing": each}
        return [replace(row, **costs) if row.group == ERASED else row for row in found]

    def _make(self, shots: Sequence[Shot], sampling: Sampling, derive: Any = None) -> Tensor:
        rows, each = [row for row, _ in shots], [seed for _, seed in shots]
        return self.world.maker.make(rows, each, sampling, derive=derive)

    # The attacker with embeddings

    def _derived(self, thing: Erasure, contender: Contender, rows: Sequence[EvaluationPrompt], done: Done) -> Row:
        """The embeddings that the weights as they are answer most like the original: the strongest of the ridges.

        In every text space ``(Σ W'ᵀW' + λ)⁻¹ Σ W'ᵀW c`` over what reads it, whoever changed ``W``.
        """
        shots = [(row, seed) for row in rows for seed in seeds(DERIVED)]
        best: tuple[float, Tensor] | None = None
        now = self.world.readers()
        changed = any(
            not torch.equal(one, other)
            for space, own in now.items()
            for one, other in zip(own, self.originals[space], strict=True)
        )
        # What nobody changed answers its own embedding best.
        for ridge in RIDGES if changed else RIDGES[:1]:
            maps = {space: answer(own, self.originals[space], ridge) for space, own in now.items()} if changed else {}

            def derive(request: Request, maps: Mapping[str, DerivationMap] = maps) -> Request:
                return with_derived(request, maps)

            made = self._make(shots, done.sampling, derive)
            hits = self.world.detector.detect(made, [row.concept for row, _ in shots])
            if best is None or float(hits.double().mean()) > best[0]:
                best = float(hits.double().mean()), made
        assert best is not None
        return self._row(thing, contender, DERIVED, rows, best[1], best[1], done)

    # Rows

    def _share(self, names: Sequence[str]) -> float:
        parameters = dict(together(denoisers_of(self.world.maker.pipeline)).named_parameters())
        return sum(parameters[name].numel() for name in names) / sum(one.numel() for one in parameters.values())

    def _row(
        self, thing: Erasure, contender: Contender, name: str, rows: Sequence[EvaluationPrompt], before: Tensor,
        after: Tensor, done: Done,
    ) -> Row:  # fmt: skip
        count = len(after) // len(rows)
        places = [place for place in range(len(rows)) for _ in range(count)]
        hits = self.world.detector.detect(after, [rows[place].concept for place in places]).view(-1, count)
        clip = ClipScore(self.clip, prompts=len(rows))
        distance = PerceptualDistance(FeatureDistance(self.features), prompts=len(rows))
        clip.update(after, [rows[place].prompt for place in places], places)
        distance.update(before, after, places)
        fid = None
        if name == HELD:
            metric = FrechetDistance(self.features)
            metric.update(after, reference=False)
            metric.update(self._reference(thing), reference=True)
            fid = float(metric.compute())
        return Row(
            weights=unet_digest(self.world.pretrained), world=self.world.pretrained, kind=thing.kind,
            erasure=thing.name, state=contender.name, group=name, recipe=contender.recipe(thing, name),
            settings=done.settings, prompts=tuple(row.prompt for row in rows),
            hits=tuple("".join(str(int(hit)) for hit in line) for line in hits.tolist()),
            clip=tuple((clip.sums / clip.counts).tolist()), distance=tuple((distance.sums / distance.counts).tolist()),
            fid=fid,
        )  # fmt: skip

    def _reference(self, thing: Erasure) -> Tensor:
        """What FID compares with: the original's pictures of other seeds, drawn before a method is applied."""
        return self.draws.originals([(row, seed + REFERENCE) for row in thing.groups[HELD] for seed in seeds(HELD)])


def _for_training(thing: Erasure, module: Any) -> dict[str, Any]:
    """A thing's data, less what a trained method refuses: ESD has no target, CA and ESD preserve nothing."""
    data = dict(thing.data)
    if module.name != "SA":
        data.pop("preserve", None)
    if module.name == "ESD":
        data.pop("target", None)
        data["concepts"] = [one["prompt"] for one in data["concepts"]]
    return data


def _plain(chosen: Mapping[str, Any]) -> str:
    said = {**chosen["settings"], "epochs": chosen["epochs"]}
    return ", ".join(f"{key} {value}" for key, value in said.items())
