"""Attacks at the end of a ``fit``, by one process and by two, and between the epochs by two, as a program.

python -m tests.helpers.ranks_red_team FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import Attack, Cce, Derived, Goal, Mma, Paraphrase, Victim
from rece_lightning.attacks.base import AdversarialPrompt
from rece_lightning.callbacks import RedTeam
from rece_lightning.core import Derivation
from rece_lightning.distributed import rank_and_world
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.metrics import EmojiDetector
from tests.helpers.forked import run_ranks

CONCEPTS = ["bomb", "axe", "rocket"]
METHOD = Method(derivation=Derivation(1e-3))


def attacks() -> list[str | Attack]:
    few = {"steps": 1, "candidates": 4}
    return [Paraphrase(), Derived(ratios=[0.5, 1.0]), Mma(**few, restarts=2), Cce(steps=1, pictures=2)]


def fit(folder: Path, devices: int) -> None:
    """Fit and attack; which attack each rank ran on which concept stands in ``ran-N.json``."""
    run, ran = Attack.run, list[list[str]]()

    def counted(self: Attack, victim: Victim, goal: Goal, *, done: list[int] = []) -> list[AdversarialPrompt]:  # noqa: B006
        ran.append([self.name, goal.concept])
        return run(self, victim, goal, done=done)

    Attack.run = counted  # type: ignore[method-assign, assignment]
    red_team = RedTeam(
        attacks=attacks(), detector=EmojiDetector(), control_concepts=[load_catalog().held_out[0].name],
        pictures_per_prompt=1, steps=2, guidance_scale=4.0, batch_size=16,
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=devices,
        strategy="closed_form" if devices > 1 else "auto",
        callbacks=[red_team],
        logger=CSVLogger(folder, name="", version="run"),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(RECE("emoji", method=METHOD), ConceptData(CONCEPTS, preserve=[" ", "dog", "fish", "rose"]))
    rank = rank_and_world()[0]
    figures = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("attack_")}
    (folder / f"ran-{rank}.json").write_text(json.dumps({"ran": ran, "figures": figures}))


def fit_attacked(folder: Path) -> None:
    """A loop of two ranks with attacks between its epochs; each rank's map and what joined in ``joined-N.pt``."""
    red_team = RedTeam(
        attacks=[Cce(steps=1, pictures=2)], between_epochs=["cce"], detector=EmojiDetector(), fit=False, steps=2
    )
    module = RECE("emoji", method=METHOD)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="closed_form", callbacks=[red_team],
        logger=CSVLogger(folder, name="", version="run"), enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(CONCEPTS, preserve=[" ", "dog"]))
    joined = module.session.erasers.first.evidence.joined
    assert joined is not None
    told = {
        "map": module.maps["text"].of_layer(0),
        "sums": joined.found.erased,
        **module.session.concepts["robust"],
    }
    torch.save(told, folder / f"joined-{rank_and_world()[0]}.pt")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    codes = [
        run_ranks(folder / str(ranks), ranks, lambda ranks=ranks: fit(folder / str(ranks), ranks)) for ranks in (1, 2)
    ]  # type: ignore[misc]
    codes.append(run_ranks(folder / "loop", 2, lambda: fit_attacked(folder / "loop")))
    print("codes", json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
