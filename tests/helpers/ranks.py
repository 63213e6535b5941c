"""Fits on one process or on several, as a program: every rank leaves what it holds.

    python -m tests.helpers.ranks MODEL FOLDER

Lightning starts the second process; under torchrun it is there already.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.core import Derivation, Robust, TensorUCE
from rece_lightning.core.embedding_map import stored
from rece_lightning.core.eraser import Evidence
from rece_lightning.distributed import rank_and_world
from rece_lightning.emoji.catalog import load_catalog

NAMES = list(load_catalog().names)
EPOCHS = 3
CASES: dict[str, tuple[Method, dict[str, Any]]] = {
    "robust": (
        Method(robust=Robust(norms=(1.0,), synonyms=2, neighbours=3, within=0.9)),
        {"concepts": NAMES[:3], "preserve": [" ", *NAMES[5:9]], "batch_size": 1},
    ),
    "few": (Method(), {"concepts": NAMES[:3], "preserve": [" ", *NAMES[3:8]], "batch_size": 1}),
    # More than their moments take: rows are let go as they come.
    "many": (
        Method(accumulate=True),
        {
            "concepts": [{"prompt": name, "weight": 1 + number % 3} for number, name in enumerate(NAMES[:150])],
            "preserve": [" ", *NAMES[150:300]],
            "validation": [{"prompt": name, "kind": "preserved"} for name in NAMES[300:310]],
            "batch_size": 7,
        },
    ),
    # One batch is erased: the second of two ranks has none.
    "alone": (Method(derivation=Derivation(regularizer="standard")), {"concepts": ["bomb"], "preserve": NAMES[1:5]}),
    # Takes every prompt apart: no moments to sum.
    "tensor": (Method(editor=TensorUCE()), {"concepts": NAMES[:3], "preserve": NAMES[5:9], "batch_size": 1}),
}


def fit(model: str, case: str, place: Path, devices: int, *, epochs: int = EPOCHS, resume: Path | None = None) -> RECE:
    """Fit a case; checkpoints go into ``place``."""
    method, data = CASES[case]
    module = RECE(model, method=method)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=devices,
        strategy="closed_form" if devices > 1 else "auto",
        callbacks=[ErasureCheckpoint(dirpath=str(place))],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ConceptData(**data), ckpt_path=resume, weights_only=True)
    return module


def matrix_of(module: RECE) -> torch.Tensor:
    return stored(module.maps["text"])


def evidence_of(module: RECE) -> Evidence:
    return module.session.erasers.first.evidence


def held_out_of(evidence: Evidence) -> torch.Tensor:
    """Moments of what drift is measured on."""
    return evidence.whole.preserved if evidence.held_out is None else evidence.held_out


def main(model: str, folder: Path) -> None:
    torch.set_num_threads(1)
    left: dict[str, Any] = {}
    for case in CASES:
        module = fit(model, case, folder / case, 2)
        evidence = evidence_of(module)
        left[case] = {
            "map": matrix_of(module),
            "moments": [vars(evidence.first), vars(evidence.whole)],
            "held_out": held_out_of(evidence),
            "prompts": evidence.prompts,
            "history": [
                {key: value for key, value in row.items() if not key.endswith("_seconds")} for row in module.history
            ],
        }
    # A run of one process, gone on with by two.
    stored = folder.parent / "alone" / "many" / "epoch=0.ckpt"
    if stored.exists():
        left["resumed"] = {"map": matrix_of(fit(model, "many", folder / "resumed", 2, resume=stored))}
    rank, world = rank_and_world()
    assert world == 2
    torch.save(left, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
