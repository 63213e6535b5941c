"""What tells whether a line was measured with the same model and settings, and the command that made a page."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from rece_lightning.emoji.catalog import WEIGHTS

UNET = WEIGHTS / "unet" / "diffusion_pytorch_model.safetensors"


@cache
def unet_digest() -> str:
    """Of the embedded world's U-Net; read once."""
    return hashlib.sha256(UNET.read_bytes()).hexdigest()[:12]


def digest(what: Any) -> str:
    """Of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def command_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: Iterable[str]) -> str:
    """The parser's command with those of the named arguments that differ from their defaults."""
    asked = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name in names
        if (value := getattr(arguments, name)) != parser.get_default(name)
    ]
    return " ".join([parser.prog, *asked])
