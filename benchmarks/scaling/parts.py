"""What :mod:`benchmarks.scaling` times, in a process that is one of several: each does its share, and all wait."""

from __future__ import annotations

import copy
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.harness import World, be_quiet
from benchmarks.many_rows import write_rows
from rece_lightning import ConceptData, Method
from rece_lightning.attacks import Mma, Victim, make_goal
from rece_lightning.attacks.outcome import measure
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.eraser import Eraser
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.data.batches import EvaluationBatches, PromptBatch
from rece_lightning.data.concepts import PromptPair
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.distributed import rank_and_world, share_of, summed
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.encoding import ConceptEncoder, EncodedPair, pair_moments
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text_space import TEXT

BATCH = 64
"""Prompts that are encoded together."""
MATRICES = 8
"""Of ``d × d``: what the ranks sum up."""
SHARED = ("encoding", "moments", "generation", "attacks")
"""Parts of which each process does its share; of the others each does all."""
PARTS = ("reading", *SHARED, "sum", "call", "algebra")


@dataclass(frozen=True)
class Sizes:
    """How much work each part is."""

    prompts: int = 2048
    """Read, encoded and counted."""
    pictures: int = 64
    steps: int = 10
    """Of the sampler."""
    picture_batch: int = 8
    pieces: int = 8
    """Attacks on one concept each."""
    attack_steps: int = 2
    sums: int = 20
    """Sums over the processes that are timed together."""

    def units(self, part: str) -> int:
        """What the seconds of a part are divided by."""
        own = {"generation": self.pictures, "attacks": self.pieces, "sum": self.sums, "call": self.sums, "algebra": 1}
        return own.get(part, self.prompts)


class Work:
    """The parts, on the embedded world.

    Args:
        sizes: of the parts.
        folder: for the CSV of the prompts.
    """

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes, self.world = sizes, World()
        self.csv = folder / f"{rank_and_world()[0]}.csv"
        write_rows(self.csv, sizes.prompts)
        self.encoder = ConceptEncoder(self.world.loaded.encoder, [TEXT])
        self.width = self.world.gram.width
        self.batches = [batch for batch in ConceptData(str(self.csv), batch_size=BATCH).batches() if batch.prompts]
        _ = self.world.maker  # loading is no part of anything
        self.pairs = self._encode(next(batch for batch in self.batches if batch.kind == "erased"))

    def of(self, sizes: Sizes) -> Work:
        """The same work in other sizes, of at most as many prompts."""
        other = copy.copy(self)
        other.sizes, other.batches = sizes, self.batches[: -(-sizes.prompts // BATCH)]
        return other

    def _encode(self, batch: PromptBatch) -> list[EncodedPair]:
        rows = zip(batch.prompts, batch.targets, batch.weights, strict=True)
        return self.encoder.pairs([PromptPair(*row) for row in rows])[TEXT]

    def _mine(self) -> Iterator[PromptBatch]:
        yield from share_of([batch for batch in self.batches if batch.kind == "erased"])

    def reading(self) -> None:
        """What every process does with a CSV: look through it, sum it up, go through it."""
        data = ConceptData(str(self.csv), batch_size=BATCH)
        data.summary()
        for _ in data.batches():
            pass

    def encoding(self) -> None:
        """Rows of this process's batches."""
        for batch in self._mine():
            self._encode(batch)

    def moments(self) -> None:
        """Rows into moments, of as many prompts; the sum over the processes is a part of its own."""
        first = whole = Moments.zeros(self.width)
        for _ in self._mine():
            of_first, of_whole = pair_moments(self.pairs, "aligned", "cpu")
            first, whole = first.erasing_also(of_first), whole.erasing_also(of_whole)

    def sum(self) -> None:
        """The moments' sum over the processes."""
        matrices = [torch.ones(self.width, self.width, dtype=torch.float64)] * MATRICES
        for _ in range(self.sizes.sums):
            summed(matrices)

    def call(self) -> None:
        """The same of one number: what it costs to speak to each other."""
        for _ in range(self.sizes.sums):
            summed([torch.ones(1, dtype=torch.float64)])

    def algebra(self) -> AnyMap:
        """What every process does once: the Gram matrix, and two epochs."""
        gram = Gram.of(self.world.loaded.base.read_projections())
        evidence = ConceptStatistics({TEXT: self.width}).update({TEXT: self.pairs}).evidence()[TEXT]
        return Eraser(Method(), evidence, gram).run(2).maps

    def generation(self) -> None:
        """Pictures of this process's batches of prompts."""
        names = itertools.cycle(load_catalog().names)
        prompts = [EvaluationPrompt(next(names), "", "erased") for _ in range(self.sizes.pictures)]
        sampling = Sampling(self.sizes.steps, 4.0, self.sizes.picture_batch)
        for rows in EvaluationBatches(prompts, self.sizes.picture_batch):
            if rows:
                self.world.maker.make(rows, range(len(rows)), sampling)

    def attacks(self) -> None:
        """Attacks on one concept each, and the pictures that measure them."""
        sampling = Sampling(self.sizes.steps, 4.0, self.sizes.picture_batch)
        world = self.world
        victim = Victim(world.maker, gram=world.gram, detector=world.detector, sampling=sampling)
        attack = Mma(steps=self.sizes.attack_steps, restarts=2)
        for name in share_of([item.name for item in load_catalog().objects[: self.sizes.pieces]]):
            measure(victim, attack.run(victim, make_goal(name)), range(2), has=attack.has)


def timed(work: Callable[[], object]) -> float:
    """Seconds until the last process is done."""
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Until all processes are here."""
    if rank_and_world()[1] > 1:
        dist.barrier()


def measure_all(sizes: Sizes, todo: list[tuple[str, int]]) -> None:
    """Time parts; the first process prints a line of JSON for each.

    Args:
        sizes: of the parts.
        todo: parts with the number of the repeat.
    """
    torch.set_num_threads(1)
    be_quiet()
    if int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
    rank, world = rank_and_world()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(sizes, Path(folder))
        few = work.of(Sizes(world * BATCH, 2 * world, 1, 2, world, 1, 2))
        for part in dict.fromkeys(part for part, _ in todo):
            getattr(few, part)()  # what is set up at first use
        for part, repeat in todo:
            seconds = timed(getattr(work, part))
            if rank == 0:
                row = {"part": part, "processes": world, "repeat": repeat, "units": sizes.units(part)}
                print("measured", json.dumps({**row, "seconds": seconds}), flush=True)
    if world > 1:
        dist.destroy_process_group()
