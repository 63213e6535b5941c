"""A sweep on disk: what it was started with, so that the same command goes on and another one is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.files import check_writable, discard_temporaries, write_atomically

BEGUN, TABLE, PAGE, RECOMMENDED = "sweep.json", "sweep.csv", "sweep.html", "recommended.yaml"


def open_folder(folder: Path, given: Mapping[str, Any]) -> bool:
    """Make the folder, or check that what is there was started with the same.

    Args:
        folder: of the sweep.
        given: model, prompts and protocol: what its lines are only comparable under.

    Returns:
        Whether there was a sweep already.

    Raises:
        ConfigurationError: if it cannot be written, or holds a sweep over something else.
    """
    check_writable("--output", folder)
    begun, text = folder / BEGUN, json.dumps(given, indent=1, ensure_ascii=False, sort_keys=True)
    if begun.exists():
        try:
            former = json.loads(begun.read_text(encoding="utf-8"))
            differing = [key for key in given if former.get(key) != json.loads(text)[key]]
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"--output: {begun} is damaged ({error}); choose another folder.") from error
        if differing:
            raise ConfigurationError(
                f"--output: {folder} holds a sweep with another {', another '.join(differing)}; choose another folder, "
                "or move it away."
            )
        discard_temporaries(folder)
        return True
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"--output: {folder} holds other files; choose another folder.")
    write_atomically(begun, lambda path: path.write_text(text, encoding="utf-8"))
    return False
