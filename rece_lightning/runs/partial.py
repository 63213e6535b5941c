"""Resume the encoding epoch after an interruption: what a run has counted so far lies beside its checkpoints."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.distributed import gathered, rank_and_world
from rece_lightning.erasure.same import differences
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.files import discard, write_atomically

NAME = re.compile(r"partial-(\d{1,6})-of-(\d{1,6})\.safetensors")
COST = 20
"""Writing takes at most one part in so many of the time."""
BATCHES, PROBE = "batches", "probe"


@dataclass(frozen=True)
class Partial:
    """A file with the sums of one process over some of the batches of epoch 0."""

    file: Path
    rank: int
    world: int
    """Of how many processes; 1 also where every process holds all prompts."""
    batches: tuple[int, ...]
    """Numbers of what is counted."""
    has_moments: bool
    run: Mapping[str, Any]
    """What the run is: see :func:`identity`."""


class PartialSums:
    """Writes how far epoch 0 has come every so often, and takes it up.

    Each process writes the sums of its own share, with the numbers of the batches that are in them. So a file that is
    missing or damaged costs the encoding of its batches and nothing else, and sums of another number of processes are
    added up.

    Args:
        place: folder of the checkpoints.
        seconds: between two files; 0: after every batch.
        session: whose prompts are encoded.
        data: that they come from.
    """

    def __init__(self, place: Path, seconds: float, session: ErasureSession, data: ConceptData) -> None:
        self.place, self.seconds, self.session, self.data = place, seconds, session, data
        self._found: list[Partial] = []
        self._written = 0
        self._due = time.monotonic() + seconds
        self._run: dict[str, Any] | None = None

    # Going on

    def find(self, *, overwrite: bool = False) -> bool:
        """Look for what a stopped run left, before anything is chosen for the run.

        Args:
            overwrite: remove what another run left.

        Returns:
            Whether there is something; the data then asks for what that run had chosen.

        Raises:
            ConfigurationError: on every rank, if it is of another run.
        """
        found, refused = list[Partial](), ""
        if rank_and_world()[0] == 0:
            found = partials(self.place)
            refused = differing(found, self.session, self.data)
            if refused and overwrite:
                self.discard()
                found, refused = [], ""
        # Rank 0's list counts: the others cannot tell which files belong together.
        self._found, refused = gathered((apart(found, self._share()[1]), refused))[0]
        if refused:
            raise ConfigurationError(refused)
        if self._found:
            self.data.take_chosen(self._found[0].run["concepts"])
        return bool(self._found)

    def take_up(self) -> None:
        """Put the sums that were found into the session's, and say which batches need no encoding."""
        if not self._found:
            return
        sums, (rank, world) = self.session.statistics, self._share()
        kept = {part.file for part in self._found}
        if all(part.world == world for part in self._found):
            for part in self._found:
                if part.rank == rank:
                    self._load(part, sums)
        elif rank == 0:
            for part in self._found:
                # Rows alone are few, and would come in another order.
                if part.has_moments:
                    self._load(part, sums)
            kept = {self.write(sums)}  # before its parts go
        first = rank_and_world()[0] == 0
        if first:
            self.discard(but=kept)
        everywhere = [number for numbers in gathered(list(sums.batches)) for number in numbers]
        sums.before = frozenset(everywhere if sums.shared else sums.batches)
        if first:
            print(f"{self.place.parent}: epoch 0 goes on after {len(sums.before)} batches of prompts")
        self._written = len(sums.batches)

    def _load(self, part: Partial, sums: ConceptStatistics) -> None:
        try:
            with safe_open(part.file, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
                probe = str(file.metadata()["probe"])
            batches = tensors.pop(BATCHES)
            sums.take(nested(tensors, list(sums.spaces), probe))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            reason = str(error).removeprefix("ckpt_path: ").split(";")[0]
            print(f"{part.file} is damaged ({reason}); its prompts are encoded again.", file=sys.stderr)
            return
        sums.batches += batches.tolist()

    # Writing

    def write_when_due(self, *, now: bool = False) -> None:
        """Write what was counted since, where it is time; ``now``: it is, for the run ends."""
        sums = self.session.statistics
        if len(sums.batches) == self._written or (time.monotonic() < self._due and not now):
            return
        if not sums.shared and rank_and_world()[0] > 0:
            return  # every rank holds the same
        self.write(sums)

    def write(self, sums: ConceptStatistics) -> Path:
        """Write this process's sums, whole or not at all."""
        started = time.monotonic()
        if self._run is None:
            self._run = identity(self.session, self.data)
        rank, world = self._share()
        probe = sums.probe["prompt"] if sums.probe is not None else ""
        file = self.place / f"partial-{rank}-of-{world}.safetensors"
        told = {"run": json.dumps(self._run), "probe": probe}
        write_atomically(file, lambda path: save_file(flat(sums), path, told))
        self._written, ended = len(sums.batches), time.monotonic()
        self._due = ended + (max(self.seconds, COST * (ended - started)) if self.seconds else 0)
        return file

    def discard(self, *, but: Collection[Path] = ()) -> None:
        """Remove the files."""
        for file in self.place.glob("partial-*-of-*.safetensors"):
            if NAME.fullmatch(file.name) and file not in but:
                discard(file)

    def _share(self) -> tuple[int, int]:
        """Whose sums a process's are, and of how many."""
        return (0, 1) if self.session.method.editor.per_layer else rank_and_world()


def partials(place: Path) -> list[Partial]:
    """The readable files of a folder; what they hold is looked at when it is needed."""
    found = []
    for file in sorted(place.glob("partial-*-of-*.safetensors")):
        named = NAME.fullmatch(file.name)
        if named is None:
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                run, names = json.loads(opened.metadata()["run"]), set(opened.keys())
                batches = opened.get_tensor(BATCHES)
            if not isinstance(run, dict) or not isinstance(run["concepts"], dict):
                raise ValueError("it does not say of which run it is")
            if batches.dtype != torch.int64 or batches.ndim != 1 or bool((batches < 0).any()):
                raise ValueError("its batches are no numbers")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            print(f"{file} is damaged ({error}); its prompts are encoded again.", file=sys.stderr)
            continue
        found.append(
            Partial(
                file,
                int(named[1]),
                int(named[2]),
                tuple(batches.tolist()),
                any(name.endswith("/erased.whole.erased") for name in names),
                run,
            )
        )
    return found


def apart(found: Sequence[Partial], world: int) -> list[Partial]:
    """Files no two of which count the same batch.

    A process that died while it put several files together leaves the sum beside its parts: what counts more goes
    before, and of the same that of ``world`` processes.
    """
    chosen: list[Partial] = []
    counted: set[int] = set()
    for part in sorted(found, key=lambda part: (-len(part.batches), part.world != world, part.rank)):
        if len(set(part.batches)) == len(part.batches) and counted.isdisjoint(part.batches):
            chosen.append(part)
            counted.update(part.batches)
    return chosen


def identity(session: ErasureSession, data: ConceptData) -> dict[str, Any]:
    """What decides the sums: base, prompts and how they are put into batches, and the method."""
    held_out = "\0".join(data.held_out).encode("utf-8", "surrogatepass")
    told = {
        "method": session.method.plain(),
        "base": session.loaded.fingerprint,
        "concepts": data.summary(),
        "held out": hashlib.sha256(held_out).hexdigest(),
        "batch size": data.batch_size,
    }
    return dict(json.loads(json.dumps(told)))


NAMES = {
    "method": "model.method",
    "base": "model.pretrained",
    "concepts": "data.concepts or data.preserve",
    "held out": "data.validation",
    "batch size": "data.batch_size",
}


def differing(found: Sequence[Partial], session: ErasureSession, data: ConceptData) -> str:
    """Why files cannot be taken up: what of their run differs, in words; empty where nothing does."""
    if not found:
        return ""
    data.take_chosen(found[0].run["concepts"])
    now = identity(session, data)
    for part in found:
        wrong = [name for key, name in NAMES.items() if now[key] != part.run.get(key)]
        method = part.run.get("method")
        if now["method"] != method and isinstance(method, dict):
            wrong[0] = ", ".join(differences("model.method", method, now["method"])) or wrong[0]
        if wrong:
            return (
                f"{part.file} is of a run that was stopped in epoch 0 and differs in {'; '.join(wrong)}; take the "
                "config.yaml of that run, choose another folder, or give --overwrite to begin anew."
            )
    return ""


def flat(sums: ConceptStatistics) -> dict[str, Tensor]:
    """Everything that was counted, under one name each: ``text/erased.concept``."""
    state = sums.state_dict()
    tensors: dict[str, Tensor] = {}
    for space, of_space in state["spaces"].items():
        tensors |= {f"{space}/{name}": tensor for name, tensor in of_space.items()}
    if state["probe"] is not None:
        tensors[PROBE] = state["probe"]["embedding"]
    return {**tensors, BATCHES: torch.tensor(sums.batches, dtype=torch.int64)}


def nested(tensors: Mapping[str, Tensor], spaces: Sequence[str], probe: str) -> dict[str, Any]:
    """The state that :func:`flat` wrote down."""
    state: dict[str, Any] = {"spaces": {space: {} for space in spaces}, "probe": None}
    for name, tensor in tensors.items():
        if name == PROBE:
            state["probe"] = {"prompt": probe, "embedding": tensor}
            continue
        space, _, inner = name.partition("/")
        state["spaces"].setdefault(space, {})[inner] = tensor
    return state
