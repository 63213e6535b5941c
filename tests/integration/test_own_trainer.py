"""A script with a Trainer of its own, in a process of its own: nothing is said that nobody can act on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPT = """
import logging

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from rece_lightning import RECE, ConceptData, load_pipeline
from rece_lightning.callbacks import Export

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # which device, and Lightning's tips
module = RECE(pretrained="emoji", tune="off")
data = ConceptData(concepts=["bomb", "axe"], validation=["bomb"], predict=["bomb"])
trainer = Trainer(
    max_epochs=2, accelerator="cpu", callbacks=[Export()], logger=CSVLogger("logs"), enable_progress_bar=False
)
trainer.fit(module, data)
module.sampling = module.sampling.__class__(steps=1)
trainer.validate(module, data)
trainer.predict(module, data.predict_dataloader())
module.pipeline()
load_pipeline("emoji")
"""


def test_the_happy_path_leaves_a_clean_terminal(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "logs" / "lightning_logs" / "version_0" / "edited.safetensors").is_file()
