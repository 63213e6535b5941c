"""Checkpoints on disk: what ``--ckpt_path`` stands for, and which is the newest whole one of a run."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.erasers import stored_maps as maps_in
from rece_lightning.erasure.state import fault, former_layout
from rece_lightning.models.pickled import check_archive
from rece_lightning.runs.folder import CHECKPOINTS, is_fit, versions

LAST = "last.ckpt"
HOW_TO_MONITOR = (
    "set one in the YAML, as trainer.callbacks: [{class_path: ErasureCheckpoint, init_args: {monitor: "
    "regeneration_residual, mode: min}}], and fit; or give last, or the path of a checkpoint"
)


@dataclass(frozen=True)
class Found:
    """What ``--ckpt_path`` stands for."""

    folder: Path | None
    """The run that the checkpoint is of; ``None`` for a file that lies in no run's folder."""
    file: Path | None
    """``None``: the run was stopped before its first checkpoint."""
    content: dict[str, Any] | None
    """Of the file."""

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return 0 if self.content is None else int(self.content["rece"]["epochs"])


def find_checkpoint(
    value: str, root: Path, *, versioned: bool = True, dirpath: Path | None = None, for_fit: bool = False
) -> Found | None:
    """What ``--ckpt_path`` stands for.

    Args:
        value: ``last`` (the newest run), ``best`` (of that run by its monitored figure), a run's folder, or a file.
        root: folder of this configuration's runs.
        versioned: runs are folders ``version_N`` below ``root``; otherwise ``root`` is the one run.
        dirpath: where the checkpoints are if not in the run's folder.
        for_fit: a run without a checkpoint can be started again; and where there is no run ``last`` starts one.

    Returns:
        ``None`` for ``last`` where there is no run yet.

    Raises:
        ConfigurationError: if it is none that RECE wrote; nothing in it is executed to find out.
    """
    try:
        return _find(value, root, versioned, dirpath, for_fit)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~name of nobody
        place, reason = getattr(error, "filename", None) or value, getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"--ckpt_path: {place} cannot be read ({reason}); make it readable, or give another checkpoint."
        ) from error


def _find(value: str, root: Path, versioned: bool, dirpath: Path | None, for_fit: bool) -> Found | None:
    if value in ("last", "best"):
        runs = [folder for folder in ([*versions(root), root] if versioned else [root]) if is_fit(folder)]
        if not runs:
            if value == "last" and for_fit:
                return None
            raise ConfigurationError(
                f"--ckpt_path: {value}: there is no run of fit in {root}; give a folder such as runs/emoji/version_0."
            )
        return _of_folder(runs[0], dirpath, best=value == "best", for_fit=for_fit)
    path = Path(value).expanduser()
    if path.is_dir():
        folder = path.parent if path.name == CHECKPOINTS else path
        if (for_fit and is_fit(folder)) or any((dirpath or folder / CHECKPOINTS).glob("*.ckpt")):
            return _of_folder(folder, dirpath, best=False, for_fit=for_fit)
        path = path / CHECKPOINTS / LAST
    if not path.is_file():
        raise ConfigurationError(
            f"--ckpt_path: {value} is no checkpoint and no run's folder (looked for {path}); "
            "give a folder such as runs/emoji/version_0, last, or best."
        )
    folder = path.parent.parent
    return Found(folder if path.parent.name == CHECKPOINTS else None, path, read_checkpoint(path))


def _of_folder(folder: Path, dirpath: Path | None, *, best: bool, for_fit: bool) -> Found:
    place = dirpath or folder / CHECKPOINTS
    newest = newest_checkpoint(place)
    if newest is None:
        if for_fit and not best:
            return Found(folder, None, None)
        raise ConfigurationError(
            f"--ckpt_path: {folder} was stopped before its first checkpoint; go on with `fit --ckpt_path {folder}`."
        )
    file, content = newest
    if best:
        file = best_checkpoint(place, file, content)
        content = read_checkpoint(file)
    return Found(folder, file, content)


def newest_checkpoint(place: Path) -> tuple[Path, dict[str, Any]] | None:
    """The whole checkpoint with the most epochs, and its content.

    A process can die between writing ``epoch=N.ckpt`` and ``last.ckpt``.

    Raises:
        ConfigurationError: if there are checkpoints, and none is whole.
    """
    last = place / LAST
    newest: tuple[Path, dict[str, Any]] | None = None
    damage: ConfigurationError | None = None
    for file in [*([last] if last.is_file() else []), *by_epoch(place)]:
        if newest is not None and epochs_named(file) <= newest[1]["rece"]["epochs"]:
            break
        try:
            newest = file, read_checkpoint(file)
        except ConfigurationError as error:
            damage = damage or error
            print(f"{error} Looking for another one.", file=sys.stderr)
            continue
        if file != last:
            break
    if newest is None and damage is not None:
        raise damage
    return newest


def by_epoch(place: Path) -> list[Path]:
    """``epoch=N.ckpt``, the newest first."""
    return sorted((file for file in place.glob("*.ckpt") if epochs_named(file)), key=epochs_named, reverse=True)


def epochs_named(file: Path) -> int:
    """How many epochs ``epoch=N.ckpt`` holds; 0 for another name."""
    named = re.match(r"epoch=(\d+)", file.name)
    return int(named.group(1)) + 1 if named else 0


def best_checkpoint(place: Path, file: Path, content: dict[str, Any]) -> Path:
    """The best checkpoint of a run by its monitored figure, as its newest one remembers it.

    Raises:
        ConfigurationError: if no figure was monitored.
    """
    states = [state for state in content.get("callbacks", {}).values() if "best_model_path" in state]
    watched = [state for state in states if state.get("monitor") and state["best_model_path"]]
    if not watched:
        raise ConfigurationError(f"--ckpt_path: best: no figure was monitored in the run of {file}; {HOW_TO_MONITOR}.")
    # The folder may have moved since.
    best = place / Path(watched[0]["best_model_path"]).name
    if not best.is_file():
        raise ConfigurationError(f"--ckpt_path: best: {best} is gone; give last, or the path of a checkpoint.")
    return best


def read_plain(file: Path, wanted: str) -> Any:
    """What a file of PyTorch holds, on the CPU: tensors and plain values.

    Args:
        file: to read.
        wanted: what to give in place of another file, for the message.

    Raises:
        ConfigurationError: for a file that holds more, or is no such file; nothing in it is executed to find out.
    """
    try:
        check_archive(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file fails in a dozen ways
        raise ConfigurationError(
            f"--ckpt_path: {file} is damaged, cut short, or holds more than tensors and plain values, which could "
            f"execute code; give {wanted}."
        ) from error


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Content of a checkpoint that RECE wrote, on the CPU.

    Raises:
        ConfigurationError: for every other file; nothing in it is executed to find out.
    """
    content = read_plain(file, "a checkpoint that RECE wrote")
    if not isinstance(content, dict) or not isinstance(content.get("rece"), dict):
        raise ConfigurationError(f"--ckpt_path: {file} holds no erasure; give a checkpoint that RECE wrote.")
    former = former_layout(content["rece"])
    if former:
        raise ConfigurationError(f"--ckpt_path: {file}: {former}.")
    wrong = fault(content)
    if wrong:
        raise ConfigurationError(f"--ckpt_path: {file}: {wrong}; give a checkpoint that RECE wrote.")
    return content


def stored_maps(file: Path) -> dict[str, AnyMap]:
    """Text space → the map of a checkpoint."""
    return maps_in(read_checkpoint(file)["rece"])
