"""A finished erasure as the tools take it: from ``--ckpt_path`` to the session and its erasure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rece_lightning.cli.parser import Parser
from rece_lightning.cli.verbs import TOOLS
from rece_lightning.core.errors import ConfigurationError

if TYPE_CHECKING:
    from rece_lightning.erasure.erasure import Erasure
    from rece_lightning.erasure.loaded import Naming
    from rece_lightning.erasure.session import ErasureSession
    from rece_lightning.erasure.trained_weights import AnyErasure
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


def load_session(ckpt_path: str, pretrained: str | None = None) -> tuple[ErasureSession, Erasure]:
    """The session of a checkpoint, and its erasure. Nothing in the file is executed, and no editor is imported.

    Args:
        ckpt_path: a checkpoint, a run's folder, ``last`` or ``best``.
        pretrained: the base model that the checkpoint was made from, where it is somewhere else now.

    Raises:
        ConfigurationError: if there is no such checkpoint, or it is none that RECE wrote.
        BaseModelError: if the base model is gone, or is another one.
    """
    from rece_lightning.erasure.finished import finished_session

    found = find_content(ckpt_path)
    assert found.file is not None
    assert found.content is not None
    session = finished_session(
        found.content, naming_of(found.content, pretrained), str(found.file), moved=pretrained is not None
    )
    return session, replace(session.erasure(), run=found.folder)


def load_result(ckpt_path: str, pretrained: str | None = None) -> AnyErasure:
    """What a checkpoint holds as exports take it: an erasure, or what a baseline trained.

    Args and errors: those of :func:`load_session`.
    """
    from rece_lightning.runs.trained import former_of, trained_weights

    former = former_of(ckpt_path, newest_root(RUNS))
    return load_session(ckpt_path, pretrained)[1] if former is None else trained_weights(former, pretrained)


def naming_of(content: Mapping[str, Any], pretrained: str | None) -> Naming:
    """What names the base model of a checkpoint.

    Args:
        content: of the checkpoint.
        pretrained: in place of the stored one.
    """
    stored = content["hyper_parameters"]
    if pretrained is None:
        return stored["pretrained"], stored["revision"], stored["variant"], stored["config"]
    # A revision says nothing of a model that was moved to a folder.
    return pretrained, None, stored["variant"], stored["config"]


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
