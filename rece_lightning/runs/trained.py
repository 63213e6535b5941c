"""Checkpoints of baselines that are trained: which one is meant, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rece_lightning.baselines.trained import PREFIX, STATE
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.erasure.loaded import LoadedModel, Naming
from rece_lightning.erasure.same import check_same_base
from rece_lightning.erasure.trained_weights import TrainedWeights
from rece_lightning.runs.checkpoints import LAST, read_plain
from rece_lightning.runs.folder import CHECKPOINTS, versions


@dataclass(frozen=True)
class Former:
    """A checkpoint to go on from."""

    file: Path
    folder: Path | None
    """The run's own, where the checkpoint lies in one."""
    epochs: int
    steps: int


def find_former(value: Any, root: Path) -> Former | None:
    """What ``--ckpt_path`` stands for: ``last``, a run's folder, or a checkpoint.

    Args:
        value: as it was given; ``None`` for a new run.
        root: folder of this configuration's runs.

    Raises:
        ConfigurationError: if there is no such checkpoint, or it is no baseline's; nothing in it is executed to find
            out.
    """
    if value is None:
        return None
    path = Path(str(value)).expanduser()
    if str(value) == "last":
        places = [one for one in versions(root) if (one / CHECKPOINTS / LAST).is_file()]
        if not places:
            raise ConfigurationError(f"--ckpt_path: last: there is no checkpoint in {root}; leave it out to begin.")
        path = places[0]
    file = path / CHECKPOINTS / LAST if path.is_dir() else path
    if not file.is_file():
        raise ConfigurationError(f"--ckpt_path: {value}: there is no {file}; give a run's folder, or last.")
    content = read_trained(file)
    folder = file.parent.parent if file.parent.name == CHECKPOINTS else None
    return Former(file, folder, int(content[STATE]["epochs"]), int(content["global_step"]))


def read_trained(file: Path) -> dict[str, Any]:
    """A baseline's checkpoint, on the CPU.

    Raises:
        ConfigurationError: for every other file; nothing in it is executed to find out.
    """
    content: dict[str, Any] = read_plain(file, "a checkpoint of a baseline")
    if not isinstance(content, dict) or not isinstance(content.get(STATE), dict):
        raise ConfigurationError(f"--ckpt_path: {file} holds nothing that a baseline trained; give one that does.")
    return content


def former_of(value: str, root: Path) -> Former | None:
    """As :func:`find_former`; ``None`` for what is no baseline's, or not there."""
    try:
        return find_former(value, root)
    except (ConfigurationError, OSError):  # of a file that may not be read the other reader says so
        return None


def trained_weights(former: Former, pretrained: str | None = None) -> TrainedWeights:
    """What a checkpoint of a baseline holds, on its own base model.

    Args:
        former: the checkpoint.
        pretrained: the base model, where it is somewhere else now.

    Raises:
        BaseModelError: if the base model is gone, or is another one.
        ConfigurationError: if the checkpoint holds what the base has no place for.
    """
    content = read_trained(former.file)
    state, stored = content[STATE], content["hyper_parameters"]
    naming: Naming = (stored["pretrained"], stored["revision"], stored["variant"], stored["config"])
    if pretrained is not None:  # a revision says nothing of a model that was moved to a folder
        naming = (pretrained, None, stored["variant"], stored["config"])
    loaded = LoadedModel(naming)
    try:
        base = loaded.base
    except BaseModelError as error:
        if pretrained is not None:
            raise
        raise BaseModelError(
            f"{error} That is the base model of {former.file}; say where it is now with --pretrained PATH."
        ) from error
    check_same_base(state, loaded.fingerprint, base.name)
    tensors: dict[str, Tensor] = {
        name.removeprefix(PREFIX): tensor for name, tensor in content["state_dict"].items() if name.startswith(PREFIX)
    }
    trained = TrainedWeights(base, tensors, dict(state), former.folder)
    trained.check_fits()
    return trained
