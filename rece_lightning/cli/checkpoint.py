"""A finished erasure as the tools take it: from ``--ckpt_path`` to the module and its erasure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rece_lightning.cli.parser import Parser
from rece_lightning.cli.verbs import TOOLS
from rece_lightning.core.errors import BaseModelError, ConfigurationError

if TYPE_CHECKING:
    from rece_lightning.exports import Erasure
    from rece_lightning.module import RECE
    from rece_lightning.runs.checkpoints import Found

RUNS = Path("runs")


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
    module = load_module(found.file, found.content, pretrained)
    return module, replace(module.erasure(), run=found.folder)


def find_content(ckpt_path: str) -> Found:
    """The checkpoint that ``--ckpt_path`` stands for, with its content.

    Raises:
        ConfigurationError: if there is none.
    """
    from rece_lightning.runs.checkpoints import find_checkpoint

    found = find_checkpoint(ckpt_path, newest_root(RUNS))
    if found is None or found.file is None or found.content is None:
        raise ConfigurationError(f"--ckpt_path: {ckpt_path}: there is no checkpoint; give a run's folder.")
    return found


def newest_root(runs: Path) -> Path:
    """The folder of the configuration that ran last; ``runs`` itself where nothing ran."""
    files = list(runs.glob("*/version_*/checkpoints/*.ckpt"))
    return max(files, key=lambda file: file.stat().st_mtime).parents[2] if files else runs


def load_module(file: Path, content: dict[str, Any], pretrained: str | None) -> RECE:
    """The module of a checkpoint, on the CPU. Nothing in the file is executed.

    Args:
        file: that :func:`rece_lightning.runs.checkpoints.find_checkpoint` accepted.
        content: of the file.
        pretrained: in place of the stored one.
    """
    from rece_lightning.erasure.transfer import own_settings
    from rece_lightning.models.find import find_base
    from rece_lightning.module import RECE

    # What names a base only together: a revision says nothing of a model that was moved to a folder.
    asked: dict[str, Any] = {"pretrained": pretrained, "revision": None} if pretrained is not None else {}
    settings = content["hyper_parameters"]
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
    module = RECE(**{**own_settings(settings), **asked})
    module.on_load_checkpoint(content)
    return module
