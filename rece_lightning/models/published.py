"""What a file that others read must not say: where on somebody's disk a model lay, and so whose disk it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""A name without a place in it, or a hub id."""
PLACE = re.compile(r"\s*(file:/|~\w*[\\/]|[\\/]|[A-Za-z]:[\\/]).*[\\/].*", re.DOTALL)
"""A path from the root of a disk or from a home, of whatever system, two names deep at least."""
CONFIGURATIONS = re.compile(r"(^|_)(config|index|map)\.json$")
"""``config.json``, ``model_index.json``, ``scheduler_config.json`` and their like; ``tokenizer.json`` is none."""


def published_name(name: str) -> str:
    r"""A model's name as files that leave this machine say it: without the folders that it lies in.

    Args:
        name: a hub id, the name of an embedded world, or a path of whatever system.

    Example:
        >>> published_name("owner/model"), published_name("/home/me/models/mine"), published_name(r"C:\me\mine.ckpt")
        ('owner/model', 'mine', 'mine.ckpt')
    """
    return name if NAME.fullmatch(name) else PureWindowsPath(name).name or name


def published_setting(value: Any) -> Any:
    """A setting for a page that others read: of a place on a disk the last part, everything else as it is."""
    return published_name(value) if isinstance(value, str) and PLACE.fullmatch(value) else value


def without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    r"""Entries without those whose text is a place on a disk, such as ``_name_or_path``; within entries too.

    Example:
        >>> without_places({"_name_or_path": "/home/me/models/mine", "text": {"vocab_file": "C:\\me\\a.json", "n": 1}})
        {'text': {'n': 1}}
        >>> without_places({"_name_or_path": "owner/model", "unk_token": "/"})
        {'_name_or_path': 'owner/model', 'unk_token': '/'}
    """
    kept = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            kept[key] = without_places(value)
        elif not (isinstance(value, str) and PLACE.fullmatch(value)):
            kept[key] = value
    return kept


def forget_places(folder: Path) -> None:
    """Take the places out of every configuration of a diffusers folder that is about to be published.

    Libraries write ``_name_or_path`` and the places of a tokenizer's files into what they save, and need none of it.
    """
    for file in sorted(folder.rglob("*.json")):
        if CONFIGURATIONS.search(file.name):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                # Of a part that nothing reads, and as it was.
                continue
            if isinstance(content, dict) and (kept := without_places(content)) != content:
                file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
