"""Fits that are killed in the middle of epoch 0 and go on, as a program of its own: it imports once and forks.

    python -m tests.helpers.partials MODEL CSV FOLDER

Every fit leaves in its folder what each rank holds (``rank-N.pt``) and which prompts it encoded (``encoded-N.json``).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.core import UCE
from rece_lightning.core.embedding_map import stored
from rece_lightning.distributed import rank_and_world
from rece_lightning.models.text import Encoded, PromptEncoder
from rece_lightning.runs.partial import PartialSums, partials
from tests.helpers.forked import run_ranks

SIZE = 16
"""Prompts of a batch."""
KILLED = (2, 11)
"""Files of what was counted so far after which runs on one process are killed."""
OF_TWO = 4
"""The same of the run on two, on rank 0."""


def fit(model: str, concepts: str, folder: Path, devices: int, **data: Any) -> RECE:
    """Fit; every batch is followed by a file of what was counted so far."""
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=devices,
        strategy="closed_form" if devices > 1 else "auto",
        callbacks=[ErasureCheckpoint(dirpath=str(folder), partial_seconds=0)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = RECE(model, method=Method(editor=UCE(lamb=10.0), accumulate=True))
    given: dict[str, Any] = {"preserve": ["dog", "cat"], "validation": [{"prompt": "a rose", "kind": "preserved"}]}
    trainer.fit(module, ConceptData(concepts, **{**given, "batch_size": SIZE, **data}))
    return module


def one(model: str, concepts: str, folder: Path, devices: int, kill: int) -> None:
    """A rank of a fit.

    Args:
        model: that is edited.
        concepts: a CSV.
        folder: of the checkpoints.
        devices: how many ranks there are.
        kill: files after which rank 0 kills itself; 0: it lives.
    """
    encode, write = PromptEncoder.encode, PartialSums.write
    encoded, files = list[str](), list[Path]()

    def counted(self: PromptEncoder, prompts: list[str]) -> Encoded:
        encoded.extend(prompts)
        return encode(self, prompts)

    def dying(self: PartialSums, sums: Any) -> Path:
        files.append(write(self, sums))
        if len(files) == kill and rank_and_world()[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return files[-1]

    PromptEncoder.encode, PartialSums.write = counted, dying  # type: ignore[method-assign]
    module = fit(model, concepts, folder, devices)
    rank = rank_and_world()[0]
    matrix, evidence = stored(module.maps["text"]), module.session.erasers.first.evidence
    left = {"map": matrix, "moments": [vars(evidence.first), vars(evidence.whole)], "prompts": evidence.prompts}
    torch.save({**left, "held_out": evidence.held_out}, folder / f"rank-{rank}.pt")
    (folder / f"encoded-{rank}.json").write_text(json.dumps(encoded))


def run(model: str, concepts: str, folder: Path, ranks: int = 1, kill: int = 0) -> list[int]:
    """Exit codes of the ranks."""
    return run_ranks(folder, ranks, lambda: one(model, concepts, folder, ranks, kill))


def main(model: str, concepts: str, folder: Path) -> None:
    torch.set_num_threads(1)
    told: dict[str, Any] = {}

    def go_on(name: str, ranks: int) -> None:
        found = partials(folder / name)
        told[name]["found"] = {part.rank: part.batches for part in found}
        told[name]["with_moments"] = [part.rank for part in found if part.has_moments]
        told[name]["codes"] = run(model, concepts, folder / name, ranks)

    for ranks in (1, 2):
        told[f"whole-{ranks}"] = {"codes": run(model, concepts, folder / f"whole-{ranks}", ranks)}
    for files in KILLED:
        told[f"one-{files}"] = {"killed": run(model, concepts, folder / f"one-{files}", 1, files)}
        told[f"one-{files}"]["checkpoints"] = len(list((folder / f"one-{files}").glob("*.ckpt")))
        go_on(f"one-{files}", 1)
    told["two"] = {"killed": run(model, concepts, folder / "two", 2, OF_TWO)}
    shutil.copytree(folder / "two", folder / "two-by-one")
    told["two-by-one"] = {}
    told["one-by-two"] = {"killed": run(model, concepts, folder / "one-by-two", 1, KILLED[1])}
    for name, ranks in (("two", 2), ("two-by-one", 1), ("one-by-two", 2)):
        go_on(name, ranks)
    print("told", json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
