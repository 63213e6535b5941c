"""metrics.csv of a run that may be stopped and resumed: whole at every moment, each epoch once."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from rece_lightning.evaluation.results.tables import reading_rows
from rece_lightning.files import write_atomically


class RunCSVLogger(CSVLogger):
    """Lightning's CSVLogger for a run's own folder; its columns and its file are the same.

    Lightning's deletes ``metrics.csv`` when it opens a folder again, and a process that dies while it writes leaves
    half a row.

    Args:
        folder: of the run.
        epochs: rows of so many epochs of an earlier part of the run stay.
    """

    def __init__(self, folder: Path, epochs: int = 0) -> None:
        super().__init__(folder.parent, name="", version=folder.name)
        self.epochs = epochs
        self._writer: RunWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes the file."""
        if self._writer is None:
            self._experiment = self._writer = RunWriter(self.log_dir, self.epochs)
        return self._writer


class RunWriter(ExperimentWriter):
    """Keeps all rows and writes the whole file each time: a run has a row an epoch and a few more."""

    def __init__(self, log_dir: str, epochs: int) -> None:
        super().__init__(log_dir)
        self._rows: list[dict[str, Any]] = former_rows(Path(self.metrics_file_path), epochs)

    def _check_log_dir_exists(self) -> None:
        """Lightning deletes the file here."""

    def save(self) -> None:
        """Write all rows so far, where there are new ones."""
        if not self.metrics:
            return
        self._rows += self.metrics
        self.metrics = []
        text = io.StringIO()
        writer = csv.DictWriter(text, sorted(set().union(*self._rows)))
        writer.writeheader()
        writer.writerows(self._rows)
        content = text.getvalue()
        write_atomically(Path(self.metrics_file_path), lambda path: path.write_text(content, "utf-8", newline=""))


def former_rows(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Rows of the first epochs of an earlier part of the run; what came after them is logged anew."""
    if not epochs or not path.is_file():
        return []
    with reading_rows(path, "run fit anew") as table:
        rows = [{key: value for key, value in row.items() if value} for row in table]
    return [row for row in rows if str(row.get("epoch", "")).isdigit() and int(row["epoch"]) < epochs]
