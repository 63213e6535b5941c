"""A sweep from its settings to its page: what was done before is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.evaluation.results.comparison import ORIGINAL
from rece_lightning.reporting.terminal import PlainConsole, progress
from rece_lightning.sweep.choice import Choice
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.measuring import Measuring, column_of
from rece_lightning.sweep.outcome import Outcome
from rece_lightning.sweep.parts import Parts
from rece_lightning.sweep.ranking import Figures, Ranking
from rece_lightning.sweep.table import TABLE, SweepTable, open_folder


def run_sweep(
    parts: Parts, settings: Sequence[Setting], folder: Path, *, measure: int, erased_by: str, command: str
) -> Outcome:
    """Rank what is missing, measure what is worth it, write page and configuration.

    Args:
        parts: of a ``fit``.
        settings: to rank, the configuration as it is first.
        folder: of the sweep; one that is there goes on.
        measure: settings of the front to measure with pictures.
        erased_by: the front's erased-side figure; see :data:`rece_lightning.sweep.choice.ERASED_BY`.
        command: that was typed, for the page.

    Raises:
        ConfigurationError: for a folder of another sweep, or settings of which none has figures.
        BaseModelError: if the base model cannot be read.
    """
    console = PlainConsole(stderr=True)
    _ = parts.held_out
    if measure and parts.measure is None:
        console.print("There is no Evaluation with a detector, or no data.validation: nothing is measured.")
        measure = 0
    goes_on = open_folder(folder, parts.description())
    table = SweepTable(folder / TABLE)
    if goes_on:
        console.print(f"going on with {folder}: {len(table.found)} settings are there")
    targets = {target: parts.pairs(target) for target in {setting.target for setting in settings}}
    ranking = Ranking(parts.loaded, targets, parts.data.preserved, parts.held_out, parts.attacker_scale)
    missing = [setting for setting in settings if setting.identity not in table.found]
    with progress(console, "settings") as bar:
        task = bar.add_task("ranking", total=len(missing))
        for setting, result in ranking.rank(missing):
            table.add(setting, result)
            bar.advance(task)
    choice = Choice.of(table.ranked(), erased_by)
    if not choice.ranked:
        raise ConfigurationError(f"--grid: no setting has figures: {next(iter(table.found.values()))}")
    measuring = None
    if measure and parts.measure is not None:
        measuring = Measuring(folder, ranking, parts.measure)
        chosen = [choice.ranked[place][0] for place in choice.worth_measuring(measure)]
        _measure(measuring, table, [settings[0], *chosen], console)
    outcome = Outcome(parts, settings[0], folder, choice, table, measuring)
    outcome.write(command)
    return outcome


def _measure(measuring: Measuring, table: SweepTable, settings: Sequence[Setting], console: Console) -> None:
    """The unedited model, the configuration as it is, and the front's chosen settings."""
    jobs: dict[str, Setting | None] = {ORIGINAL: None}
    for setting in settings:
        if isinstance(table.found[setting.identity], Figures):
            jobs[column_of(table.numbers[setting.identity])] = setting
    there = set(measuring.columns)
    jobs = {column: setting for column, setting in jobs.items() if column not in there}
    with progress(console, "pictures") as bar:
        task = bar.add_task("measuring", total=len(jobs) * len(measuring))
        for column, job in jobs.items():
            bar.update(task, description=f"measuring {column.replace('-', ' ')}")
            measuring.measure(column, job, lambda made: bar.advance(task, made))
