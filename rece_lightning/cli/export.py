"""``rece export``: a finished erasure in another format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rece_lightning.cli.checkpoint import command_parser, load_session

if TYPE_CHECKING:
    from rece_lightning.exports import ExportRecord

LARGE_ERROR = 0.05
"""Of the change, above which a LoRA's rank is called too small."""


def export_command(argv: Sequence[str]) -> None:
    """``rece export``: write a finished erasure in another format."""
    from rece_lightning.exports import FORMATS, check_export, export

    parser = command_parser("export")
    formats = "; ".join(f"{name}: {kind.description}" for name, kind in FORMATS.items())
    parser.add_argument("--format", required=True, help=formats)
    parser.add_argument("--rank", type=int, help="of a LoRA, at most; without it the LoRA is exact")
    asked = parser.parse_args(argv)
    # Before the checkpoint is opened and the base model read.
    check_export(asked.format, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    _, erasure = load_session(asked.ckpt_path, asked.pretrained)
    record = export(erasure, asked.format, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    print_records({asked.format: record})


def print_records(records: Mapping[str, ExportRecord]) -> None:
    """What was written, as a table."""
    from rich.table import Table

    from rece_lightning.reporting.terminal import PlainConsole

    table = Table(title="Written")
    for heading in ("format", "bytes", "error of the change", "error of the weights"):
        table.add_column(heading, justify="right" if heading != "format" else "left")
    for name, record in records.items():
        what = name if record.rank is None else f"{name}, rank {record.rank}"
        table.add_row(what, f"{record.bytes:,}", _error(record.error), _error(record.weight_error))
    console = PlainConsole()
    console.print(table)
    for record in records.values():
        if record.rank is not None and record.error > LARGE_ERROR:
            console.print(
                f"Rank {record.rank} is too small for this edit: the relative error of the change is "
                f"{100 * record.error:.0f} %. Without --rank the LoRA is exact; the run's report lists other ranks.",
                style="yellow",
            )
        # A line of its own, unbroken, so that it can be copied.
        console.print(f"written: {record.path}", soft_wrap=True)


def _error(value: float) -> str:
    return f"{value:.1e}" if value else "0"
