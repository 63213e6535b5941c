"""Adversarial prompts on disk: a CSV that the prompt reader reads, and embeddings beside it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Goal, key_of
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import discard, save_tensors, write_atomically

PROMPTS = "adversarial_prompts.csv"
EMBEDDINGS = "adversarial_embeddings.safetensors"
COLUMNS = (
    "prompt", "concept", "kind", "attack", "restart", "variant", "loss_before", "loss", "queries", "seconds",
    "attack_seed", "key",
)  # fmt: skip
"""The first three are what ``data.validation`` and ``data.predict`` read; a row has no seed of a picture."""


Row = tuple[str, AdversarialPrompt]
"""What was found, with the key of its piece of work."""


class AttackStore:
    """What attacks found so far, in a folder; a finished restart is not searched again.

    Of several processes the first has the two files, and each of the others files of its own beside them until
    :meth:`put_together`. Where they were stopped before that, the next store of the folder does it.

    Args:
        folder: of the two files; made with the first result.
        rank: of this process.
        known: what the first process read; required of the others.
    """

    def __init__(self, folder: Path, rank: int = 0, known: Sequence[Row] | None = None) -> None:
        self.folder = folder
        self.fresh: list[Row] = []
        """What this process has found itself."""
        self._names = tuple(_of_rank(name, rank) for name in (PROMPTS, EMBEDDINGS))
        self._own = known is None
        if known is not None:
            self.known = list(known)
            return
        self.known = _read(folder / PROMPTS, folder / EMBEDDINGS)
        parts = [self._part(PROMPTS), self._part(EMBEDDINGS)]
        if any(parts):
            for row in [row for files in parts for file in files for row in _read(file)]:
                self.fresh += [] if self._has(*row) else [row]
            self.put_together(self.fresh)

    def _has(self, key: str, row: AdversarialPrompt) -> bool:
        """Whether the first process's files hold a restart: it died before the others' went."""
        return any(key == own and row.restart == one.restart for own, one in self.known)

    def _part(self, name: str) -> list[Path]:
        return sorted(self.folder.glob(_of_rank(name, "*")))

    def found(self, key: str) -> list[AdversarialPrompt]:
        """What is there of a piece of work, see :func:`rece_lightning.attacks.base.key_of`."""
        rows = [*self.known, *self.fresh]
        return sorted((row for own, row in rows if own == key), key=lambda row: row.restart)

    def add(self, key: str, found: Iterable[AdversarialPrompt]) -> None:
        """Keep results and write both files anew."""
        self.fresh += [(key, on_cpu(row)) for row in found]
        self._write()

    def put_together(self, fresh: Iterable[Row]) -> None:
        """Write what all processes found, in the order in which it is given, and remove the others' files."""
        self.known, self.fresh = [*self.known, *fresh], []
        self._write()
        for name in (PROMPTS, EMBEDDINGS):
            for file in self._part(name):
                discard(file)

    def _write(self) -> None:
        rows = [*self.known, *self.fresh] if self._own else self.fresh
        texts = [(own, row) for own, row in rows if row.embedding is None]
        others = [(own, row) for own, row in rows if row.embedding is not None]
        if texts:
            write_atomically(self.folder / self._names[0], lambda path: _write_prompts(path, texts))
        if others:
            _write_embeddings(self.folder / self._names[1], others)

    def run(self, attack: Attack, victim: Victim, goal: Goal) -> list[AdversarialPrompt]:
        """Run an attack's missing restarts, keep what they found, and return that of all."""
        key = key_of(attack, victim, goal)
        wanted = range(attack.restarts(goal))
        there = [row for row in self.found(key) if row.restart in wanted]
        fresh = attack.run(victim, goal, done=[row.restart for row in there])
        if fresh:
            self.add(key, fresh)
        return sorted([*there, *fresh], key=lambda row: row.restart)


def _of_rank(name: str, rank: int | str) -> str:
    stem, ending = name.rsplit(".", 1)
    return name if rank == 0 else f"{stem}.rank-{rank}.{ending}"


def on_cpu(row: AdversarialPrompt) -> AdversarialPrompt:
    """As it is read back: from the device of another process nobody could read it."""
    embedding, pooled = (None if one is None else one.detach().cpu() for one in (row.embedding, row.pooled))
    return replace(row, embedding=embedding, pooled=pooled)


def _read(*files: Path) -> list[Row]:
    """The rows of those files that are there."""
    readers = {".csv": _read_prompts, ".safetensors": _read_embeddings}
    return [row for file in files if file.exists() for row in readers[file.suffix](file)]


def _cells(key: str, row: AdversarialPrompt) -> dict[str, Any]:
    return {
        "prompt": row.prompt,
        "concept": row.concept,
        "kind": "erased",
        "attack": row.attack,
        "restart": row.restart,
        "variant": row.variant,
        "loss_before": _or_blank(row.loss_before),
        "loss": _or_blank(row.loss),
        "queries": row.queries,
        "seconds": round(row.seconds, 3),
        "attack_seed": row.seed,
        "key": key,
    }


def _row(cells: dict[str, Any], embedding: Tensor | None = None, pooled: Tensor | None = None) -> AdversarialPrompt:
    return AdversarialPrompt(
        attack=str(cells["attack"]),
        concept=str(cells["concept"]),
        restart=int(cells["restart"]),
        prompt=str(cells["prompt"]),
        variant=str(cells["variant"]),
        embedding=embedding,
        pooled=pooled,
        loss_before=_number(cells["loss_before"]),
        loss=_number(cells["loss"]),
        queries=int(cells["queries"]),
        seconds=float(cells["seconds"]),
        seed=int(cells["attack_seed"]),
    )


def _or_blank(loss: float) -> float | str:
    return loss if math.isfinite(loss) else ""


def _number(cell: float | str) -> float:
    return float(cell) if cell != "" else math.nan


def _write_prompts(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_cells(key, row) for key, row in rows)


def _read_prompts(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [(cells["key"], _row(dict(cells))) for cells in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"attacks: {path} cannot be read ({error}); move it away.") from error


def _write_embeddings(path: Path, rows: Sequence[Row]) -> None:
    tensors: dict[str, Tensor] = {}
    for index, (_, row) in enumerate(rows):
        assert row.embedding is not None
        tensors[f"{index:05d}.embedding"] = row.embedding.detach().cpu()
        if row.pooled is not None:
            tensors[f"{index:05d}.pooled"] = row.pooled.detach().cpu()
    save_tensors(tensors, path, {"rows": [_cells(key, row) for key, row in rows]})


def read_embeddings(path: Path) -> list[AdversarialPrompt]:
    """Adversarial embeddings of a file that :class:`AttackStore` wrote.

    Raises:
        ConfigurationError: if it is none.
    """
    return [row for _, row in _read_embeddings(path)]


def _read_embeddings(path: Path) -> list[Row]:
    try:
        with safe_open(path, framework="pt") as file:
            cells = json.loads(file.metadata()["rows"])
            names = set(file.keys())
            rows = []
            for index, one in enumerate(cells):
                pooled = f"{index:05d}.pooled"
                embedding = file.get_tensor(f"{index:05d}.embedding")
                rows.append((one["key"], _row(one, embedding, file.get_tensor(pooled) if pooled in names else None)))
            return rows
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"attacks: {path} cannot be read ({error}); move it away.") from error
