"""What a finished run measured, read from its folder: counts, quality, configuration, log, sheets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.evaluation.results.comparison import FIRST, LAST, ORIGINAL
from rece_lightning.evaluation.results.costs import FILE as COSTS
from rece_lightning.evaluation.results.costs import StateCost, read_costs
from rece_lightning.evaluation.results.counts import Count, by_column, read_counts
from rece_lightning.evaluation.results.figures import FILE as QUALITY
from rece_lightning.evaluation.results.figures import QualityLine, read_quality
from rece_lightning.evaluation.results.outcome import COUNTS, SAMPLING
from rece_lightning.evaluation.results.sheets import read_tiles, sheet_path
from rece_lightning.evaluation.results.states import Shot, State
from rece_lightning.evaluation.results.tables import reading_rows
from rece_lightning.reporting.side_by_side import FIGURES
from rece_lightning.runs.folder import CONFIG, TUNING

UNDER, SEEDS = ", under ", ", seed"
"""What stands between a sampling and the guard around it, and before its seeds."""
# Arguments of Evaluation that decide what a detection means.
PROTOCOL = ("detector", "steps", "guidance_scale", "scheduler", "protocol")
NAMED_BY = ("pretrained", "revision", "variant", "config")
"""Settings that say which model it is."""
LONGEST = 60
"""Letters of a value that is shown."""


@dataclass(frozen=True)
class Results:
    """A measured run."""

    folder: Path
    counts: tuple[Count, ...]
    config: Mapping[str, Any]
    """Empty where the run has no ``config.yaml``."""
    quality: tuple[QualityLine, ...] = ()
    """What metrics measured beside the detections."""
    costs: Mapping[str, StateCost] = field(default_factory=dict)
    """Column → its cost, where the run has told it."""
    sampling: str = ""
    """How its pictures were drawn, in words, without a guard and seeds; empty where the run has not told it."""

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read a run's folder.

        Raises:
            ConfigurationError: if there is no such run, it was not measured, or a file of it is damaged.
        """
        if not folder.is_dir():
            runs = [str(path) for path in folder.parent.glob("*") if path.is_dir()]
            raise ConfigurationError(f"{folder}: there is no such run; {nearest(str(folder), runs)}.")
        if not (folder / COUNTS).is_file():
            raise ConfigurationError(
                f"{folder}: the run was not measured (there is no {COUNTS}); measure it with "
                f"`rece validate --config {folder / CONFIG} --ckpt_path {folder}` and give that run's folder."
            )
        counts = tuple(read_counts(folder / COUNTS))
        if not counts:
            raise ConfigurationError(f"{folder / COUNTS} holds no picture; measure the run anew with rece validate.")
        quality = tuple(read_quality(folder / QUALITY))
        return cls(folder, counts, config_of(folder), quality, read_costs(folder / COSTS), _drawn(folder / SAMPLING))

    @cached_property
    def columns(self) -> dict[str, list[Count]]:
        """State → its counts."""
        return by_column(self.counts)

    @property
    def shots(self) -> set[Shot]:
        """Prompts and seeds that were drawn by the run's own model."""
        own = [name for name in (LAST, FIRST, ORIGINAL) if name in self.columns]
        return {count.shot for count in self.columns[own[0]]} if own else {count.shot for count in self.counts}

    @cached_property
    def floors(self) -> dict[Shot, bool]:
        """Shot → whether the original model shows its concept where nobody asks for it, where that was measured."""
        return {count.shot: count.floor for count in self.counts if count.floor is not None}

    @property
    def protocol(self) -> dict[str, Any]:
        """Detector and sampling, as the run's configuration gives them; empty where it is not known."""
        return {key: value for key, value in self._evaluation.items() if key in PROTOCOL and value is not None}

    @property
    def guard(self) -> tuple[str, str] | None:
        """What stood around the model that was measured: its class, and its settings in words."""
        given = self._evaluation.get("guard")
        if not isinstance(given, dict):
            return None
        settings = (given.get("init_args") or {}).items()
        said = [f"{key} {in_short(value)}" for key, value in settings if value not in (None, False)]
        return in_short(given), ", ".join(said)

    @property
    def trained(self) -> str:
        """Class of the baseline that was trained; empty for an edit, and for nothing."""
        model = self.config.get("model") or {}
        return in_short(model) if "class_path" in model else ""

    @property
    def is_unedited(self) -> bool:
        """Whether the original model was measured, by ``validate`` or ``test`` without a checkpoint and an adapter."""
        if not self.config or self.trained or FIRST in self.columns or ORIGINAL in self.columns:
            return False
        model = self.config.get("model") or {}
        return "ckpt_path" in self.config and not (self.config["ckpt_path"] or model.get("adapter"))

    @property
    def _evaluation(self) -> dict[str, Any]:
        return evaluation_of(self.config)

    def settings(self) -> dict[str, Any]:
        """What decides the edit: flat keys with plain values."""
        if self.is_unedited:
            return {f"model.{key}": value for key, value in (self.config.get("model") or {}).items() if key in NAMED_BY}
        found: dict[str, Any] = {"model.method.editor": self.trained or "UCE"}
        for section in ("model", "data"):
            said = self.config.get(section) or {}
            if section == "model" and self.trained:
                said = said.get("init_args") or {}
            for key, value in said.items():
                if key not in ("validation", "test", "predict", "batch_size"):
                    found |= flattened(f"{section}.{key}", value)
        tuned = _read_chosen(self.folder / TUNING)
        found |= {f"model.method.{key}": value for key, value in (tuned.get("settings") or {}).items()}
        epochs = tuned.get("epochs", (self.config.get("trainer") or {}).get("max_epochs"))
        if epochs is not None and LAST in self.columns and FIRST in self.columns:
            found["trainer.max_epochs"] = epochs
        return found

    def history(self) -> list[dict[str, float]]:
        """Figures of the epochs, and of the end, from ``metrics.csv``; empty where there is none."""
        file = self.folder / "metrics.csv"
        if not file.is_file():
            return []
        with reading_rows(file, "run fit anew") as rows:
            return [{key: float(value) for key, value in row.items() if key in FIGURES and value} for row in rows]

    def drawn(self, column: str) -> int:
        """Prompts and seeds of a column."""
        return len({count.shot for count in self.columns[column]})

    def state(self, column: str, attacked: str | None, shots: Sequence[Shot], name: str, note: str = "") -> State:
        """One of the run's states on some shots.

        Args:
            column: of the counts.
            attacked: the column of the same state given the derived embedding.
            shots: that are compared; others are left out.
            name: of the state.
            note: what sets it apart.
        """
        wanted = set(shots)
        own = {count.shot: count for count in self.columns[column] if count.shot in wanted}
        under = {c.shot: c.detected for c in self.columns.get(attacked or "", []) if c.shot in wanted}
        history = [row for row in self.history() if "regeneration_residual" in row]
        figures: dict[str, float] = {}
        if history and column != ORIGINAL:
            figures = dict(history[0] if column == FIRST and LAST in self.columns else history[-1])
            ends = [row["weight_change"] for row in self.history() if "weight_change" in row]
            if (ends and column != FIRST) or (ends and LAST not in self.columns):
                figures["weight_change"] = ends[-1]
        figures |= self.cost(column).figures
        return State(
            name=name,
            note=note,
            hits={shot: own[shot].detected for shot in shots if shot in own},
            edited=column != ORIGINAL,
            attacked=under,
            shown={shot: count.shown for shot, count in own.items() if count.shown},
            figures=figures,
            floors=self.floors,
            # They are of all the column's pictures.
            quality=[line for line in self.quality if line.column == column] if len(own) == self.drawn(column) else [],
        )

    def cost(self, column: str) -> StateCost:
        """Of a state; both states of a run edit the same parameters.

        Args:
            column: of the counts.
        """
        own = self.costs.get(column, StateCost())
        if column == FIRST and own.parameters_edited_share is None and LAST in self.costs:
            return replace(own, parameters_edited_share=self.costs[LAST].parameters_edited_share)
        return own

    def with_tiles(self, state: State, column: str, shots: Sequence[Shot]) -> State:
        """The state with its small pictures of some shots, where the run kept them."""
        places = {count.shot: place for place, count in enumerate(self.columns[column]) if count.shot in set(shots)}
        tiles = read_tiles(sheet_path(self.folder / "images", column), list(places.values()))
        return replace(state, tiles={shot: tiles[place] for shot, place in places.items() if place in tiles})


def evaluation_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a configuration's ``Evaluation``; empty where it has none.

    Args:
        config: of a run.
    """
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else []:
        if isinstance(callback, dict) and str(callback.get("class_path", "")).endswith("Evaluation"):
            return dict(callback.get("init_args") or {})
    return {}


def _drawn(path: Path) -> str:
    """Steps, guidance and scheduler of a run's ``sampling.txt``: other seeds are of no other protocol."""
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return (text.rpartition(SEEDS)[0] or text).partition(UNDER)[0]


def config_of(folder: Path) -> dict[str, Any]:
    """A run's configuration; empty where it has none.

    Args:
        folder: of the run.

    Raises:
        ConfigurationError: if it is damaged.
    """
    return _read(folder / CONFIG, yaml.safe_load)


def _read_chosen(path: Path) -> dict[str, Any]:
    """Settings and epochs that tuning chose; empty where nothing was, or the file of a stranger says something else."""
    chosen = _read(path, lambda text: json.loads(text)["chosen"])
    return chosen if isinstance(chosen.get("settings"), dict) else {}


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """What a file of a run holds; nothing where it is not there, or holds no mapping.

    Raises:
        ConfigurationError: if it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path} is damaged ({' '.join(str(error).split())}); move it away.") from error
    return content if isinstance(content, dict) else {}


def flattened(key: str, value: Any) -> dict[str, Any]:
    """A nested setting as flat keys: ``model.method.editor`` names its class, ``model.method.editor.lamb`` is below."""
    if not isinstance(value, dict) or not key.startswith("model."):
        return {key: value}
    inner, found = dict(value), dict[str, Any]()
    if "class_path" in inner:
        found[key], inner = in_short(value), inner.get("init_args") or {}
    for name, one in inner.items():
        found |= flattened(f"{key}.{name}", one)
    return found


def in_short(value: Any) -> str:
    """A setting's value in a few words."""
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"]).rsplit(".", 1)[-1]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
