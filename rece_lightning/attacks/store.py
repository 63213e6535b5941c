"""Adversarial prompts on disk: a CSV that the prompt reader reads, and embeddings beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Goal, key_of
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.csv_rows import rows_of
from rece_lightning.evaluation.results.tables import write_rows
from rece_lightning.files import discard, save_tensors

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
        self.known = _read(*(file for file in (folder / PROMPTS, folder / EMBEDDINGS) if file.exists()))
        others = self._files_of_others()
        if others:
            # Where the first process died before it removed them, its own files hold their restarts already.
            there = {(key, row.restart) for key, row in self.known}
            self.put_together([(key, row) for key, row in _read(*others) if (key, row.restart) not in there])

    def _files_of_others(self) -> list[Path]:
        return [file for name in (PROMPTS, EMBEDDINGS) for file in sorted(self.folder.glob(_of_rank(name, "*")))]

    def found(self, key: str) -> list[AdversarialPrompt]:
        """What is there of a piece of work, see :func:`rece_lightning.attacks.base.key_of`."""
        rows = [*self.known, *self.fresh]
        return sorted((row for own, row in rows if own == key), key=lambda row: row.restart)

    def add(self, key: str, found: Iterable[AdversarialPrompt]) -> None:
        """Store results and write both files anew."""
        self.fresh += [(key, row) for row in found]
        self._write()

    def put_together(self, fresh: Iterable[Row]) -> None:
        """Write what all processes found, in the order in which it is given, and remove the others' files."""
        self.known, self.fresh = [*self.known, *fresh], []
        self._write()
        for file in self._files_of_others():
            discard(file)

    def _write(self) -> None:
        rows = [*self.known, *self.fresh] if self._own else self.fresh
        texts = [(key, row) for key, row in rows if not _tensors(row)]
        others = [(key, row) for key, row in rows if _tensors(row)]
        if texts:
            write_table(self.folder / self._names[0], COLUMNS, [_cells(key, row) for key, row in texts])
        if others:
            _write_embeddings(self.folder / self._names[1], others)

    def run(self, attack: Attack, victim: Victim, goal: Goal) -> list[AdversarialPrompt]:
        """Run an attack's missing restarts, store what they found, and return that of all.

        All of it lies on the CPU: from the device of another process nobody could read it.
        """
        key = key_of(attack, victim, goal)
        wanted = range(attack.restarts(goal))
        there = [row for row in self.found(key) if row.restart in wanted]
        fresh = [_on_cpu(row) for row in attack.run(victim, goal, done=[row.restart for row in there])]
        if fresh:
            self.add(key, fresh)
        return sorted([*there, *fresh], key=lambda row: row.restart)


def _of_rank(name: str, rank: int | str) -> str:
    stem, ending = name.rsplit(".", 1)
    return name if rank == 0 else f"{stem}.rank-{rank}.{ending}"


TENSORS = ("embedding", "pooled", "latents")


def _tensors(row: AdversarialPrompt) -> dict[str, Tensor]:
    """What of a row is no text."""
    return {name: tensor for name in TENSORS if (tensor := getattr(row, name)) is not None}


def _on_cpu(row: AdversarialPrompt) -> AdversarialPrompt:
    moved: dict[str, Any] = {name: tensor.detach().cpu() for name, tensor in _tensors(row).items()}
    return replace(row, **moved)


def _cells(key: str, row: AdversarialPrompt) -> dict[str, Any]:
    cells = {**vars(row), "kind": "erased", "seconds": round(row.seconds, 3), "attack_seed": row.seed, "key": key}
    for loss in ("loss_before", "loss"):
        cells[loss] = cells[loss] if math.isfinite(cells[loss]) else ""
    return {name: cells[name] for name in COLUMNS}


def _row(cells: dict[str, Any], tensors: Mapping[str, Tensor] = {}) -> AdversarialPrompt:
    loss_before, loss = (math.nan if cells[name] == "" else float(cells[name]) for name in ("loss_before", "loss"))
    return AdversarialPrompt(
        attack=str(cells["attack"]),
        concept=str(cells["concept"]),
        restart=int(cells["restart"]),
        prompt=str(cells["prompt"]),
        variant=str(cells["variant"]),
        embedding=tensors.get("embedding"),
        pooled=tensors.get("pooled"),
        latents=tensors.get("latents"),
        loss_before=loss_before,
        loss=loss,
        queries=int(cells["queries"]),
        seconds=float(cells["seconds"]),
        seed=int(cells["attack_seed"]),
    )


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a CSV of mappings from columns to cells, atomically."""
    return write_rows(path, columns, ([row[name] for name in columns] for row in rows))


def _write_embeddings(path: Path, rows: Sequence[Row]) -> None:
    tensors: dict[str, Tensor] = {}
    for index, (_, row) in enumerate(rows):
        tensors |= {f"{index:05d}.{name}": tensor for name, tensor in _tensors(row).items()}
    save_tensors(tensors, path, {"rows": [_cells(key, row) for key, row in rows]})


def read_embeddings(path: Path) -> list[AdversarialPrompt]:
    """Adversarial embeddings of a file that :class:`AttackStore` wrote.

    Raises:
        ConfigurationError: if it is none.
    """
    return [row for _, row in _read(path)]


def _read(*files: Path) -> list[Row]:
    """The rows of files.

    Raises:
        ConfigurationError: for a file that is not what the store writes.
    """
    rows: list[Row] = []
    for file in files:
        try:
            rows += _read_prompts(file) if file.suffix == ".csv" else _read_embeddings(file)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"attacks: {file} cannot be read ({error}); move it away.") from error
    return rows


def _read_prompts(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(cells["key"], _row(dict(cells))) for _, cells in rows_of(stream)]


def _read_embeddings(path: Path) -> list[Row]:
    with safe_open(path, framework="pt") as file:
        names, rows = set(file.keys()), []
        for index, cells in enumerate(json.loads(file.metadata()["rows"])):
            own = {name: f"{index:05d}.{name}" for name in TENSORS if f"{index:05d}.{name}" in names}
            if not own:
                raise KeyError(f"row {index} has no tensor")
            rows.append((cells["key"], _row(cells, {name: file.get_tensor(key) for name, key in own.items()})))
        return rows
