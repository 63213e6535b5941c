"""Who may import whom, read from the imports themselves (late ones too): nothing of the package is imported here."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from benchmarks.structure import PACKAGE, ROOMS, back_arrows, circles, imported, imports, modules, room_of

REPOSITORY = Path(__file__).resolve().parent.parent
LOOSE = 7
"""Modules at the package's root, at most."""
LINES = 350
"""Of a file of the package or the callbacks, at most; ``module.py`` is a shell of about that size."""
SHELLS = ("module", "callbacks", "cli")
"""Where a function may take a whole ``RECE``."""


def test_no_room_imports_one_above_it() -> None:
    assert back_arrows(imports(REPOSITORY)) == []


def test_no_imports_run_in_a_circle() -> None:
    assert circles(imports(REPOSITORY)) == []


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(name) for name in modules(REPOSITORY)} - {""}
    assert rooms == set(ROOMS)


def test_the_core_needs_torch_alone() -> None:
    known = modules(REPOSITORY)
    core = {name: file for name, file in known.items() if room_of(name) == "core"}
    assert len(core) > 10
    asked = {(name, one.partition(".")[0]) for name, file in core.items() for one in imported(name, file)}
    others = {
        (name, top) for name, top in asked if top not in (PACKAGE, "torch") and top not in sys.stdlib_module_names
    }
    assert not others
    assert ("rece_lightning.core.gram", "torch") in asked


def test_few_modules_lie_loose_at_the_root() -> None:
    loose = [file.name for file in (REPOSITORY / PACKAGE).glob("*.py")]
    assert 3 < len(loose) <= LOOSE, loose


def test_no_file_outgrew_its_idea() -> None:
    long = {name: len(file.read_text().splitlines()) for name, file in modules(REPOSITORY).items()}
    assert {name: count for name, count in long.items() if count > LINES} == {}


def functions_that_take(kind: str, root: Path) -> list[str]:
    """``file: function`` of every function below the shells whose signature names a class."""
    found = []
    for name, file in modules(root).items():
        if room_of(name) in SHELLS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            kinds = [ast.unparse(one.annotation) for one in every if one is not None and one.annotation is not None]
            if any(kind in words(text) for text in kinds):
                found.append(f"{name}: {node.name}")
    return found


def words(annotation: str) -> set[str]:
    """The names in an annotation."""
    return {node.id for node in ast.walk(ast.parse(annotation.strip("'\""), mode="eval")) if isinstance(node, ast.Name)}


def test_nothing_below_the_shells_takes_a_whole_module() -> None:
    assert functions_that_take("RECE", REPOSITORY) == []


def test_no_object_sets_anothers_private_attributes() -> None:
    wrong = []
    for name, file in modules(REPOSITORY).items():
        for node in ast.walk(ast.parse(file.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) else []:
                while isinstance(target, ast.Subscript):
                    target = target.value
                if not isinstance(target, ast.Attribute) or not target.attr.startswith("_"):
                    continue
                owner = ast.unparse(target.value)
                if owner not in ("self", "cls") and not target.attr.startswith("__"):
                    wrong.append(f"{name}: {ast.unparse(target)}")
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "line", "back", "circle"),
    [
        ("core/gram.py", "from rece_lightning.models import base", True, False),
        ("core/gram.py", "def late():\n    from rece_lightning.models import base", True, False),
        (
            "core/gram.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..models import base",
            True,
            False,
        ),
        ("core/gram.py", "import math\nimport torch.linalg", False, False),
        ("models/base.py", "from rece_lightning.core.gram import Gram", False, False),
        ("models/base.py", "from rece_lightning.erasure import session", True, False),
        ("erasure/session.py", "from rece_lightning.models import base", False, False),
        (
            "erasure/session.py",
            "import importlib\nimportlib.import_module('rece_lightning.callbacks.report')",
            True,
            False,
        ),
        ("erasure/session.py", "import callbacks.report", True, False),
        ("erasure/session.py", "from rece_lightning.erasure.other import one", False, True),
        ("module.py", "from rece_lightning.erasure import session", False, False),
        ("module.py", "from rece_lightning.cli import lightning", True, False),
        ("files.py", "from rece_lightning.core.errors import ReceError", False, False),
        ("files.py", "from rece_lightning.core.gram import Gram", True, False),
    ],
)
def test_a_forbidden_import_is_seen(tmp_path: Path, file: str, line: str, back: bool, circle: bool) -> None:
    """The rules themselves, on a small package."""
    sources = {
        "core/errors.py": "", "core/gram.py": "", "models/base.py": "", "erasure/session.py": "", "module.py": "",
        "erasure/other.py": "from rece_lightning.erasure.session import one", "files.py": "", "cli/lightning.py": "",
    }  # fmt: skip
    for name, text in sources.items():
        place = tmp_path / PACKAGE / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (place.parent / "__init__.py").touch()
        place.write_text(text)
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "report.py").touch()
    assert (back_arrows(imports(tmp_path)), circles(imports(tmp_path))) == ([], [])
    (tmp_path / PACKAGE / file).write_text(line)
    assert (bool(back_arrows(imports(tmp_path))), bool(circles(imports(tmp_path)))) == (back, circle)
