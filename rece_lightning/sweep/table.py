"""``sweep.csv``: one line a setting, written when it was ranked; a killed sweep goes on after the last whole line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.method import Method
from rece_lightning.data.csv_rows import TableError, rows_of
from rece_lightning.files import check_writable, discard_temporaries, write_text
from rece_lightning.sweep.grid import EPOCHS, TARGET, Setting
from rece_lightning.sweep.ranking import FIGURES, Figures

METHOD = "method"
COLUMNS = ("setting", METHOD, EPOCHS, TARGET, *FIGURES, "error")


class SweepTable:
    """The settings that were ranked so far, in a file.

    Args:
        path: of the CSV; what is there is read.

    Raises:
        ConfigurationError: if the file is no table of a sweep.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Figures | str] = {}
        """Identity of a setting → its figures, or why it has none."""
        self.numbers: dict[str, int] = {}
        """Identity of a setting → its number in the file."""
        self.settings: dict[str, Setting] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a killed process may have left half a line
        try:
            rows = [row for _, row in rows_of(io.StringIO(whole, newline=""))]
        except TableError as error:
            raise ConfigurationError(
                f"--output: {path} is damaged ({error}); choose another folder, or move it away."
            ) from error
        for row in rows:
            self._take(row)
        if whole != text or not whole:
            start = whole or _line(COLUMNS)
            write_text(path, start)

    def _take(self, row: dict[str, str]) -> None:
        try:
            plain, epochs, target = (json.loads(row[key]) for key in (METHOD, EPOCHS, TARGET))
            # This user's command wrote the class path of an editor of their own.
            setting = Setting(Method.from_plain(plain, trusted=True), int(epochs), str(target))
            figures = None if row["error"] else Figures(**{name: float(row[name]) for name in FIGURES})
            number = int(row["setting"])
        except ConfigurationError as error:
            raise ConfigurationError(
                f"--output: {self.path}: {error} Make it importable, or choose another folder."
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"--output: {self.path} is no table of this version's sweep; choose another folder, or move it away."
            ) from error
        self.settings[setting.identity] = setting
        self.found[setting.identity] = row["error"] if figures is None else figures
        self.numbers[setting.identity] = number

    def add(self, setting: Setting, result: Figures | str) -> None:
        """Append a setting's line."""
        number = len(self.found)
        values = {METHOD: setting.method.plain(), EPOCHS: setting.epochs, TARGET: setting.target}
        cells: dict[str, Any] = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
        if isinstance(result, Figures):
            cells |= {name: f"{getattr(result, name):.10g}" for name in FIGURES}
        else:
            cells["error"] = " ".join(result.split())
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line([number, *(cells.get(name, "") for name in COLUMNS[1:])]))
        self.settings[setting.identity], self.found[setting.identity] = setting, result
        self.numbers[setting.identity] = number

    def ranked(self) -> list[tuple[Setting, Figures]]:
        """The settings that have finite figures, in the order of the file."""
        return [
            (self.settings[identity], figures)
            for identity, figures in self.found.items()
            if isinstance(figures, Figures) and math.isfinite(figures.drift) and math.isfinite(figures.remaining)
        ]


def _line(cells: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()


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
    write_text(begun, text)
    return False
