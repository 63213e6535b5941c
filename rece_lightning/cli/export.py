"""``rece export``: a finished erasure in another format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rece_lightning.cli.checkpoint import command_parser, load_result

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
    erasure = load_result(asked.ckpt_path, asked.pretrained)
    record = export(erasure, asked.format, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    print_record(asked.format, record)


def print_record(format: str, record: ExportRecord) -> None:
    """What was written, how far it is from the edit, and for whom it is."""
    from rich.table import Table

    from rece_lightning.exports.record import error_text
    from rece_lightning.reporting.terminal import PlainConsole

    loss, what = record.loss, format if record.rank is None else f"{format}, rank {record.rank}"
    table = Table(title=f"{what}: {record.bytes:,} bytes")
    for heading in ("relative error against", "of the change", "of the weights"):
        table.add_column(heading, justify="left" if heading.endswith("against") else "right")
    # The run's own file holds the edit rounded to the model's dtype, which half precision shows.
    for name, error in {"the exact edit": loss.exact, "edited.safetensors, rounded": loss.file}.items():
        if error is not None:
            table.add_row(name, error_text(error.change), error_text(error.weight))
    console = PlainConsole()
    console.print(table)
    if record.rank is not None and record.error > LARGE_ERROR:
        console.print(
            f"Rank {record.rank} is too small for this edit: the relative error of the change is "
            f"{100 * record.error:.0f} %. Without --rank the LoRA is exact; the run's report lists other ranks.",
            style="yellow",
        )
    # A line of its own, unbroken, so that it can be copied.
    console.print(f"written: {record.path}", soft_wrap=True)
    console.print(f"for {record.readers}", soft_wrap=True)
