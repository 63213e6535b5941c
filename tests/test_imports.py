"""Who may import whom, read from the imports themselves: nothing of the package is imported here."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "rece_lightning"
LINKED = ("callbacks", "configs")
"""Folders at the top of the repository that are part of the package by a symlink."""

ALLOWED: Mapping[str, set[str]] = {
    "core": {"core"},
    "models": {"models", "core"},
    "emoji": {"emoji", "core"},
    "metrics": {"metrics", "core", "models", "emoji"},
    "attacks": {"attacks", "core", "models", "emoji", "metrics", "files"},
    "exports": {"exports", "core", "models", "metrics", "files", "version"},
    "reporting": {"reporting", "core", "metrics", "exports", "prompts", "files"},
}
"""Rooms of the package → the rooms that each may import.

What is not listed stands above these (``module``, ``data``, ``concepts``, ``prompts``, …) and may import all but the
shells.
"""

SHELLS = {"callbacks", "cli", "tools"}
"""What nobody imports but itself and the entry points."""
ENTRY_POINTS = {"cli", "tools", "__main__"}


def modules(repository: Path) -> dict[str, Path]:
    """Dotted name → file of every module of the package, through its symlinks and before they are made."""
    found: dict[str, Path] = {}
    roots = [(PACKAGE, repository / PACKAGE)]
    roots += [(f"{PACKAGE}.{name}", repository / name) for name in LINKED]
    for prefix, root in roots:
        for folder, _, files in os.walk(root, followlinks=True):
            inner = Path(folder).relative_to(root).parts
            for file in files:
                if file.endswith(".py"):
                    name = ".".join((prefix, *inner, file.removesuffix(".py"))).removesuffix(".__init__")
                    found[name] = Path(folder, file)
    return found


def imports(name: str, file: Path) -> Iterator[str]:
    """Every dotted name that a module imports, anywhere in it: relative ones resolved, ``import_module`` included."""
    parts = name.split(".")
    parent = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def room(name: str, known: Mapping[str, Path]) -> str:
    """``core`` for ``rece_lightning.core.editors.uce.edit``; the empty string for the package itself."""
    parts = name.split(".")
    if len(parts) == 1 or not any(module.split(".")[1:2] == parts[1:2] for module in known):
        return ""
    return parts[1]


def violations(repository: Path) -> list[str]:
    """Every import that the rules forbid, as ``importer imports imported``."""
    known = modules(repository)
    wrong = []
    for name, file in sorted(known.items()):
        importer = room(name, known)
        for imported in imports(name, file):
            top = imported.split(".")[0]
            if top in SHELLS and top not in sys.stdlib_module_names:
                # From a clone the folders at the top can be imported by their short names too.
                imported, top = f"{PACKAGE}.{imported}", PACKAGE
            if top == PACKAGE:
                target = room(imported, known)
                barred = target in SHELLS and importer != target and importer not in ENTRY_POINTS
                fine = not barred and (importer not in ALLOWED or target in ALLOWED[importer])
            else:
                fine = importer != "core" or top == "torch" or top in sys.stdlib_module_names
            if not fine:
                wrong.append(f"{name} imports {imported}")
    return wrong


def test_rooms_import_what_they_may_and_no_more() -> None:
    assert not violations(REPOSITORY)


def test_every_room_of_the_core_is_seen() -> None:
    """The rule above reads the files that it is about."""
    names = modules(REPOSITORY)
    assert {f"{PACKAGE}.core.{name}" for name in ("edit", "derive", "moments", "gram", "diagnostics")} <= set(names)
    core = {name: file for name, file in names.items() if name.startswith(f"{PACKAGE}.core")}
    seen = {imported.split(".")[0] for name, file in core.items() for imported in imports(name, file)}
    assert "torch" in seen


@pytest.mark.parametrize(
    ("file", "line", "forbidden"),
    [
        ("rece_lightning/core/edit.py", "import numpy", True),
        ("rece_lightning/core/edit.py", "def late():\n    from lightning.pytorch import Trainer", True),
        ("rece_lightning/core/edit.py", "from rece_lightning.models import base", True),
        ("rece_lightning/core/edit.py", "from ..models import base", True),
        ("rece_lightning/core/edit.py", "from rece_lightning import RECE", True),
        ("rece_lightning/core/edit.py", "import math, torch.linalg\nfrom .gram import Gram", False),
        ("rece_lightning/models/base.py", "from rece_lightning.emoji.catalog import Catalog", True),
        ("rece_lightning/models/base.py", "import diffusers\nfrom rece_lightning.core import Gram", False),
        ("rece_lightning/emoji/training/unet.py", "from rece_lightning.models import base", True),
        ("rece_lightning/emoji/training/unet.py", "from rece_lightning.emoji.catalog import Catalog", False),
        ("rece_lightning/metrics/share.py", "import rece_lightning.attacks", True),
        ("rece_lightning/metrics/share.py", "from rece_lightning.emoji import catalog", False),
        ("rece_lightning/attacks/one.py", "from rece_lightning.module import RECE", True),
        ("rece_lightning/attacks/one.py", "from rece_lightning.metrics import share", False),
        ("rece_lightning/exports/lora.py", "from rece_lightning.module import RECE", True),
        ("rece_lightning/exports/lora.py", "from rece_lightning.reporting import page", True),
        ("rece_lightning/exports/lora.py", "def late():\n    from rece_lightning.cli.tools import main", True),
        ("rece_lightning/exports/lora.py", "from rece_lightning.files import save_tensors", False),
        ("rece_lightning/reporting/page.py", "from rece_lightning.data.datamodule import ConceptData", True),
        ("rece_lightning/reporting/page.py", "from rece_lightning.exports import cost", False),
        ("rece_lightning/models/base.py", "from rece_lightning.exports import export", True),
        ("rece_lightning/core/edit.py", "from rece_lightning.files import save_tensors", True),
        ("rece_lightning/tools/sweep.py", "from rece_lightning.cli.lightning import main", False),
        ("rece_lightning/tools/sweep.py", "from rece_lightning.exports import export", False),
        ("rece_lightning/transfer.py", "from rece_lightning.cli.tools import main", True),
        ("callbacks/report.py", "from rece_lightning.cli.tools import main", True),
        ("rece_lightning/module.py", "from rece_lightning import callbacks", True),
        ("rece_lightning/module.py", "import callbacks.report", True),
        ("rece_lightning/module.py", "import importlib\nimportlib.import_module('rece_lightning.callbacks')", True),
        ("rece_lightning/module.py", "from rece_lightning.cli.lightning import main", True),
        ("rece_lightning/module.py", "from rece_lightning.data.datamodule import ConceptData", False),
        ("rece_lightning/__init__.py", "from rece_lightning.callbacks.report import Report", True),
        ("rece_lightning/__init__.py", "from rece_lightning.module import RECE", False),
        ("callbacks/report.py", "from rece_lightning.cli.lightning import main", True),
        ("callbacks/report.py", "from rece_lightning import RECE\nfrom rece_lightning.callbacks.other import x", False),
        ("rece_lightning/cli.py", "from rece_lightning.callbacks import report", False),
        ("rece_lightning/__main__.py", "from rece_lightning.cli.lightning import main", False),
    ],
)
@pytest.mark.parametrize("linked", [True, False])
def test_a_forbidden_import_is_seen(tmp_path: Path, file: str, line: str, forbidden: bool, linked: bool) -> None:
    """The rules themselves, on a small package; with the symlinks made and before."""
    for folder in ("core", "models", "emoji/training", "metrics", "attacks", "exports", "reporting", "tools"):
        (tmp_path / PACKAGE / folder).mkdir(parents=True)
        (tmp_path / PACKAGE / folder / "__init__.py").touch()
    for name in ("module", "data", "files", "transfer", "cli", "__main__", "__init__"):
        (tmp_path / PACKAGE / f"{name}.py").touch()
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "other.py").touch()
    if linked:
        (tmp_path / PACKAGE / "callbacks").symlink_to(tmp_path / "callbacks", target_is_directory=True)
    assert violations(tmp_path) == []
    (tmp_path / file).write_text(line)
    assert len(violations(tmp_path)) == int(forbidden)
