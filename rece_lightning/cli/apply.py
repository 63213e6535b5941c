"""``rece apply``: a finished erasure on another model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rece_lightning.cli.checkpoint import command_parser, find_content
from rece_lightning.cli.export import print_record
from rece_lightning.core.errors import ConfigurationError

if TYPE_CHECKING:
    from rece_lightning.erasure.transfer import Transfer


def apply_command(argv: Sequence[str]) -> None:
    """``rece apply``: put a finished erasure on another model."""
    from rece_lightning.erasure.transfer import transfer
    from rece_lightning.exports import FORMATS, check_export, export

    parser = command_parser("apply")
    parser.add_argument("--variant", help="of the model's weight files, such as fp16")
    parser.add_argument("--revision", help="of the model's hub repository")
    parser.add_argument("--config", help="of a checkpoint file: a shipped layout or a folder of configurations")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)}; delta for a file, pipeline for a folder unless given")
    parser.add_argument("--rank", type=int, help="of a LoRA, at most; without it the LoRA is exact")
    parser.add_argument("--reuse-map", action="store_true", help="take the map as it is; do not compute it anew")
    parser.add_argument("--editor", help="class path of the checkpoint's editor, where it is your own: it is imported")
    asked = parser.parse_args(argv)
    if asked.pretrained is None:
        raise ConfigurationError("--pretrained: not given; name the model that the erasure is to be put on.")
    chosen = asked.format or ("delta" if asked.output.endswith(".safetensors") else "pipeline")
    check_export(chosen, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    if asked.editor is not None:
        import_editor(asked.editor)
    naming = (asked.pretrained, asked.revision, asked.variant, asked.config)
    moved = transfer(find_content(asked.ckpt_path).content or {}, naming, reuse_map=asked.reuse_map)
    record = export(moved.erasure, chosen, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    print_transfer(moved)
    print_record(chosen, record)


def import_editor(path: str) -> None:
    """Import the class that the user named.

    Raises:
        ConfigurationError: if it is no editor.
    """
    from rece_lightning.core.editors.base import editor_class

    editor_class(path, "--editor", trusted=True)


def print_transfer(moved: Transfer) -> None:
    """What the erasure does on the model it was made on and on this one."""
    from rich.table import Table

    from rece_lightning.reporting.terminal import PlainConsole

    table = Table(title=f"The erasure on {moved.erasure.base.name}")
    for heading in ("figure", "on the model it was made from", "on this model"):
        table.add_column(heading, justify="right" if heading != "figure" else "left")
    for key, value in moved.after.items():
        table.add_row(key.replace("_", " "), f"{moved.before.get(key, math.nan):.4g}", f"{value:.4g}")
    console = PlainConsole()
    console.print(table)
    console.print(
        "The residual is how far the answer to the concept stays from the original's when an attacker derives an "
        "embedding for it: larger is safer, `unedited` is the model without the erasure. The drift is how far the "
        "answers to preserved prompts moved: smaller is better."
    )
    if moved.encoder_difference:
        console.print(
            f"The text encoders hold other bytes; an embedding differs by {moved.encoder_difference:.1e}, as rounding "
            "does."
        )
