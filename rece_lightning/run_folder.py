"""Where a run writes: the logger's folder, or the trainer's where there is no logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_folder(trainer: Any) -> Path:
    """The folder of the run; a run writes nowhere else."""
    for logger in trainer.loggers:
        if logger.log_dir:
            return Path(logger.log_dir)
    return Path(trainer.log_dir or trainer.default_root_dir)
