"""Runs whose models were attacked, for a page that sets them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.reporting.beside import Attacked
from rece_lightning.reporting.ladder import read_ladder
from rece_lightning.runs.results import COUNTS, UNDER, config_of, evaluation_of, in_short

TABLE = "red_team.csv"


def is_attacked_alone(folder: Path) -> bool:
    """Whether a run holds attacks and nothing else that was measured.

    Args:
        folder: of the run.
    """
    return (folder / TABLE).is_file() and not (folder / COUNTS).is_file()


def measured_again(folder: Path, folders: Sequence[Path]) -> Path | None:
    """The run among others whose model an attacked run measured again, without a guard; ``None`` for any other.

    Args:
        folder: of the run.
        folders: of all runs.
    """
    config = config_of(folder) if (folder / TABLE).is_file() else {}
    of = _of(config)
    if not of or evaluation_of(config).get("guard"):
        return None
    places = [Path(of).expanduser().resolve(), *Path(of).expanduser().resolve().parents]
    return next((other for other in folders if other != folder and other.resolve() in places), None)


def _of(config: Mapping[str, Any]) -> str:
    """What a run was given to measure: a checkpoint, a run's folder, or an adapter."""
    return str(config.get("ckpt_path") or (config.get("model") or {}).get("adapter") or "")


def attacked_runs(folders: Sequence[Path]) -> list[Attacked]:
    """The models that were attacked, in the order of their runs.

    Args:
        folders: of runs.

    Raises:
        ConfigurationError: if a file is damaged, or they were attacked under other detectors or samplings.
    """
    found: list[Attacked] = []
    protocols: list[tuple[Path, str, str]] = []
    for folder in folders:
        ladder = read_ladder(folder / TABLE)
        if ladder is None:
            continue
        sampling, _, guard = ladder.sampling.partition(UNDER)
        protocols.append((folder, ladder.detector, sampling))
        first, last = protocols[0], protocols[-1]
        if last[1:] != first[1:]:
            raise ConfigurationError(
                f"{folder}: attacked under another protocol than {first[0]}: {last[1]}, {last[2]}, not {first[1]}, "
                f"{first[2]}. Attack both alike with rece test; figures of different protocols say nothing of each "
                "other."
            )
        of, own = measured_again(folder, folders), _of(config_of(folder))
        said = f"attacked in {folder}" if of is not None else f"of {in_short(own)}" if own else ""
        note = ", ".join(part for part in (said, f"under {guard}" if guard else "") if part)
        named = of or folder
        found.append(Attacked(f"{named.parent.name}/{named.name}", ladder, note))
    return found
