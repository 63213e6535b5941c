"""``rece compare``: finished runs side by side on one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rece_lightning.cli.parser import Parser
from rece_lightning.cli.verbs import TOOLS
from rece_lightning.core.errors import ConfigurationError


def compare_command(argv: Sequence[str]) -> None:
    """Read the runs, refuse what cannot be compared, write the page."""
    from rece_lightning.files import refuse_existing, write_text
    from rece_lightning.reporting.side_by_side import findings, shots_to_show
    from rece_lightning.reporting.states_page import compare_page
    from rece_lightning.reporting.terminal import PlainConsole
    from rece_lightning.runs.attacked import attacked_runs, is_attacked_alone, measured_again
    from rece_lightning.runs.comparing import (
        check_protocols,
        common_shots,
        compared_states,
        devices_noted,
        protocol_text,
    )
    from rece_lightning.runs.results import Results

    parser = Parser(prog="rece compare", description=TOOLS["compare"], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs that were measured")
    parser.add_argument("--output", required=True, help="the page to write, such as compare.html")
    parser.add_argument("--shared", action="store_true", help="compare the prompts and seeds that all runs share")
    parser.add_argument("--overwrite", action="store_true", help="replace a page that is there")
    asked = parser.parse_args(argv)
    output = Path(asked.output).expanduser()
    if output.is_dir():
        raise ConfigurationError(f"--output: {output} is a folder; give a file such as {output / 'compare.html'}.")
    refuse_existing(output, asked.overwrite)
    folders = list(dict.fromkeys(Path(run).expanduser() for run in asked.runs))
    attacked = attacked_runs(folders)
    again = {folder: of for folder in folders if (of := measured_again(folder, folders)) is not None}
    measured = [folder for folder in folders if not is_attacked_alone(folder) and folder not in again]
    if not measured:
        raise ConfigurationError(
            f"RUN: {asked.runs[0]} holds attacks alone; give the folder of a run that was measured too (of fit, or "
            "rece validate)."
        )
    runs = [Results.read(folder) for folder in measured]
    check_protocols(runs)
    shots = common_shots(runs, shared=asked.shared)
    states = compared_states(runs, shots, shots_to_show(shots))
    notes = [
        f"{len(run.shots) - len(shots)} of the pictures of {run.folder} left out: another run has not drawn them."
        for run in runs
        if len(run.shots) > len(shots)
    ]
    if any(run.quality and len(run.shots) > len(shots) for run in runs):
        notes.append("What quality.csv says is of all pictures of a run: it is left out where some of them are.")
    notes += [
        f"{run.folder} has no config.yaml: its protocol and settings are not known." for run in runs if not run.config
    ]
    notes += [f"Of {folder} the attacks alone: it measured {of} again." for folder, of in again.items()]
    command = shlex.join(["rece", "compare", *argv])
    page = compare_page(
        states,
        protocol=protocol_text(runs[0]),
        notes=notes,
        command=command,
        attacked=attacked,
        seconds=devices_noted(runs),
    )
    write_text(output, page)
    console = PlainConsole()
    for sentence in findings(states):
        console.print(f"• {sentence}")
    console.print(f"page: {output}", soft_wrap=True)
