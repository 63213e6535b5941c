"""What a run measured on pictures, read from its ``evaluation.csv``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics.intervals import Share

ROLES = {"erased": "erased concepts", "synonym": "their synonyms", "kept": "kept concepts"}
# The columns of the file that count, the last epoch's before UCE's where both are there.
EDITED, ATTACKED = ("rece", "uce"), ("rece_derived", "uce_derived")


@dataclass(frozen=True)
class Measured:
    """Detections over the prompts of one role."""

    role: str
    original: Share
    edited: Share
    attacked: Share
    """The edited model, given the derived embedding."""


def read_measured(run: Path | None) -> list[Measured]:
    """One row a role; empty where the run made no pictures, or counted nothing in them.

    Raises:
        ConfigurationError: if the table is damaged.
    """
    if run is None or not (run / "evaluation.csv").is_file():
        return []
    counts: dict[tuple[str, str], list[tuple[bool, str]]] = {}
    try:
        with (run / "evaluation.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["detected"] in ("0", "1"):
                    counts.setdefault((row["column"], row["role"]), []).append((row["detected"] == "1", row["prompt"]))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise ConfigurationError(
            f"--ckpt_path: {run / 'evaluation.csv'} is damaged ({error}); move it away, or validate the run anew."
        ) from error
    columns = {column for column, _ in counts}

    def share(wanted: Sequence[str], role: str) -> Share:
        column = next((name for name in wanted if name in columns), "")
        found = counts.get((column, role))
        # Pictures of one prompt are alike: the interval is over prompts.
        return Share.of(*zip(*found, strict=True)) if found else Share(0, 0)

    rows = [Measured(t, share(("original",), r), share(EDITED, r), share(ATTACKED, r)) for r, t in ROLES.items()]
    return [row for row in rows if row.original.total or row.edited.total]
