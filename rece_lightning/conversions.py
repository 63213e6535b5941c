"""The verbs that work on a finished erasure: no trainer, no configuration, one checkpoint in and files out."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rece_lightning.core.errors import BaseModelError, ConfigurationError, ReceError, nearest
from rece_lightning.verbs import TOOLS, fail

if TYPE_CHECKING:
    from rece_lightning.checkpoints import Found
    from rece_lightning.exports import Erasure, ExportRecord
    from rece_lightning.module import RECE
    from rece_lightning.transfer import Transfer

RUNS = Path("runs")


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one message that names the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        words = message.split()
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        if message.startswith("unrecognized arguments:") and words[2].startswith("--"):
            fail(f"unknown option {words[2]}; {nearest(words[2].split('=')[0], options)}.")
        fail(f"{message}; see `{self.prog} --help`.")


def main(argv: Sequence[str]) -> None:
    """Run one of the tools; a user's mistake ends in one message and exit code 2."""
    quiet()
    try:
        COMMANDS[argv[0]](argv[1:])
    except ReceError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; no half file is left", file=sys.stderr)
        raise SystemExit(130) from None


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
    _, erasure = load_erasure(asked.ckpt_path, asked.pretrained)
    record = export(erasure, asked.format, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    print_records({asked.format: record})


def apply_command(argv: Sequence[str]) -> None:
    """``rece apply``: put a finished erasure on another model."""
    from rece_lightning.exports import FORMATS, check_export, export
    from rece_lightning.transfer import transfer

    parser = command_parser("apply")
    parser.add_argument("--variant", help="of the model's weight files, such as fp16")
    parser.add_argument("--revision", help="of the model's hub repository")
    parser.add_argument("--config", help="of a checkpoint file: a shipped layout or a folder of configurations")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)}; delta for a file, pipeline for a folder unless given")
    parser.add_argument("--rank", type=int, help="of a LoRA, at most; without it the LoRA is exact")
    parser.add_argument("--reuse-map", action="store_true", help="take the map as it is; do not compute it anew")
    asked = parser.parse_args(argv)
    if asked.pretrained is None:
        raise ConfigurationError("--pretrained: not given; name the model that the erasure is to be put on.")
    chosen = asked.format or ("delta" if asked.output.endswith(".safetensors") else "pipeline")
    check_export(chosen, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    other = {key: getattr(asked, key) for key in ("pretrained", "revision", "variant", "config")}
    moved = transfer(find_content(asked.ckpt_path).content or {}, other, reuse_map=asked.reuse_map)
    record = export(moved.erasure, chosen, asked.output, rank=asked.rank, overwrite=asked.overwrite)
    print_transfer(moved)
    print_records({chosen: record})


def command_parser(verb: str) -> Parser:
    """The options that every tool has."""
    parser = Parser(prog=f"rece {verb}", description=TOOLS[verb], allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="a run's folder, a checkpoint, or last: the newest run")
    parser.add_argument("--output", required=True, help="the file or folder to write")
    what = "the model to put it on" if verb == "apply" else "the base model, where it is not where the run found it"
    parser.add_argument("--pretrained", help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote")
    return parser


def load_erasure(ckpt_path: str, pretrained: str | None = None) -> tuple[RECE, Erasure]:
    """The module of a checkpoint, and its erasure.

    Args:
        ckpt_path: a checkpoint, a run's folder, ``last`` or ``best``.
        pretrained: the base model that the checkpoint was made from, where it is somewhere else now.

    Raises:
        ConfigurationError: if there is no such checkpoint, or it is none that RECE wrote.
        BaseModelError: if the base model is gone, or is another one.
    """
    found = find_content(ckpt_path)
    assert found.file is not None
    assert found.content is not None
    module = load_module(found.file, found.content.get("hyper_parameters", {}), pretrained)
    return module, replace(module.erasure(), run=found.folder)


def find_content(ckpt_path: str) -> Found:
    """The checkpoint that ``--ckpt_path`` stands for, with its content.

    Raises:
        ConfigurationError: if there is none.
    """
    from rece_lightning.checkpoints import find_checkpoint

    found = find_checkpoint(ckpt_path, newest_root(RUNS))
    if found is None or found.file is None or found.content is None:
        raise ConfigurationError(f"--ckpt_path: {ckpt_path}: there is no checkpoint; give a run's folder.")
    return found


def newest_root(runs: Path) -> Path:
    """The folder of the configuration that ran last; ``runs`` itself where nothing ran."""
    files = list(runs.glob("*/version_*/checkpoints/*.ckpt"))
    return max(files, key=lambda file: file.stat().st_mtime).parents[2] if files else runs


def load_module(file: Path, settings: Mapping[str, Any], pretrained: str | None) -> RECE:
    """The module of a checkpoint, on the CPU. Nothing in the file is executed.

    Args:
        file: that :func:`rece_lightning.checkpoints.find_checkpoint` accepted.
        settings: the hyper-parameters in it.
        pretrained: in place of the stored one.
    """
    from rece_lightning.models.find import find_base
    from rece_lightning.module import RECE

    # What names a base only together: a revision says nothing of a model that was moved to a folder.
    asked: dict[str, Any] = {"pretrained": pretrained, "revision": None} if pretrained is not None else {}
    naming = {**settings, **asked}
    named: dict[str, Any] = {key: naming.get(key) for key in ("pretrained", "revision", "variant", "config")}
    try:
        find_base(**named)
    except BaseModelError as error:
        if pretrained is not None:
            raise
        raise BaseModelError(
            f"{error} That is the base model of {file}; say where it is now with --pretrained PATH."
        ) from error
    return RECE.load_from_checkpoint(file, map_location="cpu", weights_only=True, **asked)


def print_transfer(moved: Transfer) -> None:
    """What the erasure does on the model it was made on and on this one."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"The erasure on {moved.erasure.base.name}")
    for heading in ("figure", "on the model it was made from", "on this model"):
        table.add_column(heading, justify="right" if heading != "figure" else "left")
    for key, value in moved.after.items():
        table.add_row(key.replace("_", " "), f"{moved.before[key]:.4g}", f"{value:.4g}")
    Console().print(table)
    if moved.encoder_difference:
        Console().print(
            f"The text encoders hold other bytes; an embedding differs by {moved.encoder_difference:.1e}, as rounding "
            "does."
        )


def print_records(records: Mapping[str, ExportRecord]) -> None:
    """What was written, as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Written")
    for heading in ("format", "bytes", "error of the change", "error of the weights", "path"):
        table.add_column(heading, overflow="fold", justify="right" if heading != "path" else "left")
    for name, record in records.items():
        what = name if record.rank is None else f"{name}, rank {record.rank}"
        table.add_row(what, f"{record.bytes:,}", _error(record.error), _error(record.weight_error), str(record.path))
    Console().print(table)


def _error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def quiet() -> None:
    """Silence what libraries say about matters that a user cannot act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"export": export_command, "apply": apply_command}
