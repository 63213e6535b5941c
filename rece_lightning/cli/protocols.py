"""Protocol files, and the flags that stand for arguments of ``Evaluation``: --protocol, --images, --prompts.

A protocol file is a piece of a configuration: prompts of ``data.validation`` and one callback ``Evaluation``. Where the
prompts may not be shipped, ``prompts`` says where they come from and which columns are read. ``metrics`` names the
classes whose figures belong to the protocol beside the detections; they become ``Evaluation.metrics``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rece_lightning.cli.flags import configurations, last_said, parse_value, take_flags, with_settings
from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.core.errors import ConfigurationError, nearest

FOLDER = PACKAGE / "configs" / "protocols"
FLAGS = ("--protocol", "--images", "--prompts")
VERBS = ("fit", "validate", "test")
EVALUATION = "Evaluation"
KEYS = ("prompts", "metrics", "data", "trainer")


@dataclass(frozen=True)
class Protocol:
    """What a protocol file says."""

    name: str
    arguments: dict[str, Any]
    """Of ``Evaluation``."""
    prompts: list[Any] | None
    """For ``data.validation``; ``None`` where the user gets them."""
    source: str = ""
    """Where the prompts come from, and which columns are read."""
    metrics: tuple[dict[str, Any], ...] = ()
    """Class paths and arguments of what belongs to it beside the detections."""


def shipped_protocols() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """Read a protocol: a shipped name, or the path of a file.

    Raises:
        ConfigurationError: if there is none, or it is no protocol.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        path = FOLDER / f"{Path(name).name.removesuffix('.yaml')}.yaml"
        if "/" in name or not path.is_file():
            raise ConfigurationError(f"--protocol: there is no {name!r}; {nearest(name, shipped_protocols())}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        evaluations = [one for one in content["trainer"]["callbacks"] if _is_evaluation(one)]
        arguments = dict(evaluations[0]["init_args"])
        unknown = [key for key in content if key not in KEYS]
        source = content.get("prompts") or {}
        metrics = tuple({"class_path": one["class_path"], **one} for one in content.get("metrics") or ())
        described = f"{source['source']} (columns: {', '.join(source['columns'])})" if source else ""
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"--protocol: {path} cannot be read ({' '.join(str(error).split())}).") from error
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigurationError(
            f"--protocol: {path} is no protocol: it needs trainer.callbacks with one Evaluation and its init_args, and "
            "data.validation or prompts (source, columns); copy a shipped one."
        ) from error
    if unknown:
        raise ConfigurationError(f"--protocol: {path}: unknown key {unknown[0]!r}; {nearest(unknown[0], KEYS)}.")
    prompts = (content.get("data") or {}).get("validation")
    if prompts is None and not described:
        raise ConfigurationError(f"--protocol: {path} names no prompts; add data.validation, or prompts.")
    return Protocol(path.stem, {"protocol": path.stem, **arguments}, prompts, described, metrics)


def expand_flags(argv: Sequence[str]) -> list[str]:
    """Replace the flags by the settings that they stand for.

    What a protocol says replaces what a configuration file says of ``Evaluation`` and the prompts; what the command
    line says itself wins.

    Args:
        argv: the verb and its arguments, configurations as paths.

    Raises:
        ConfigurationError: for an unknown protocol, one whose prompts are not given, and a flag where it means nothing.
    """
    given, rest = take_flags(argv, FLAGS)
    if not given:
        return list(argv)
    verb = rest[0] if rest else ""
    for flag in given:
        if verb not in VERBS or (verb == "fit" and flag != "--protocol"):
            where = "fit, validate and test" if flag == "--protocol" else "validate and test"
            raise ConfigurationError(f"{flag}: it is understood by {where}, not by {verb or 'nothing'}.")
    protocol = load_protocol(given["--protocol"]) if "--protocol" in given else None
    configs = configurations(rest)
    explicit, rest = take_flags(rest, ("--trainer.callbacks",))
    asked = {flag.removeprefix("--"): value for flag, value in given.items() if flag != "--protocol"}
    written = parse_value("--trainer.callbacks", explicit["--trainer.callbacks"]) if explicit else None
    callbacks = last_said(configs, "trainer", "callbacks") if written is None else written
    settings = ["--trainer.callbacks=" + json.dumps(_merged(callbacks, protocol, asked, explicit=written is not None))]
    if protocol is not None and "--images" not in given:
        field = "test" if verb == "test" else "validation"
        own = take_flags(rest, (f"--data.{field}",))[0]
        if protocol.prompts is not None and not own:
            settings.append(f"--data.{field}=" + json.dumps(protocol.prompts))
        elif protocol.prompts is None and not own and not isinstance(last_said(configs, "data", field), str):
            raise ConfigurationError(
                f"--protocol: {protocol.name}: its prompts do not ship; get them from {protocol.source} and give "
                f"--data.{field} PATH_OF_THE_CSV."
            )
    return with_settings(rest, settings)


def _merged(callbacks: Any, protocol: Protocol | None, asked: dict[str, Any], *, explicit: bool) -> list[Any]:
    """The callbacks, Evaluation the last: ``--trainer.callbacks.steps 4`` then means its steps."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    named = [one if isinstance(one, dict) else {"class_path": one} for one in listed]
    own: dict[str, Any] = next((one for one in named if _is_evaluation(one)), {"class_path": EVALUATION})
    said = dict(own.get("init_args") or {})
    ours = dict(protocol.arguments) if protocol is not None else {}
    if protocol is not None and protocol.metrics:
        ours["metrics"] = list(protocol.metrics)
    arguments = {**ours, **said} if explicit else {**said, **ours}
    others = [one for one in named if not _is_evaluation(one)]
    return [*others, {"class_path": own["class_path"], "init_args": {**arguments, **asked}}]


def _is_evaluation(callback: Any) -> bool:
    path = callback.get("class_path") if isinstance(callback, dict) else callback
    return isinstance(path, str) and path.rsplit(".", 1)[-1] == EVALUATION
