"""The figures of a checkout's structure, on small packages whose answer is known, and on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.structure import PACKAGE, ROOMS, Structure, back_arrows, circles, imports, main, table

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def checkout(root: Path, files: dict[str, str]) -> Path:
    """A package of these files, with the folders' ``__init__``."""
    for name, text in {f"{PACKAGE}/__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.parent.parent != root and not (path.parent / "__init__.py").exists():
            (path.parent / "__init__.py").touch()
    return root


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("import rece_lightning.core.gram", "core.gram"),
        ("from rece_lightning.core import gram", "core.gram"),
        ("from rece_lightning.core.gram import Gram", "core.gram"),
        ("from ..core.gram import Gram", "core.gram"),
        ("from rece_lightning.core import Gram", "core"),
        ("def late():\n    from rece_lightning.core import gram", "core.gram"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rece_lightning.core.gram", "core.gram"),
        ("import importlib\nimportlib.import_module('rece_lightning.core.gram')", "core.gram"),
        ("import callbacks.report", "callbacks.report"),
        ("from rece_lightning.callbacks import report", "callbacks.report"),
        ("import torch, os.path\nfrom core import gram", None),
    ],
)
def test_an_import_is_seen_wherever_it_stands(tmp_path: Path, line: str, target: str | None) -> None:
    root = checkout(
        tmp_path,
        {f"{PACKAGE}/core/gram.py": "", "callbacks/report.py": "", f"{PACKAGE}/models/base.py": line},
    )
    expected = set() if target is None else {f"{PACKAGE}.{target}"}
    assert imports(root)[f"{PACKAGE}.models.base"] == expected


def test_the_symlink_counts_once(tmp_path: Path) -> None:
    root = checkout(tmp_path, {"callbacks/report.py": "from rece_lightning import module", f"{PACKAGE}/module.py": ""})
    plain = imports(root)
    (root / PACKAGE / "callbacks").symlink_to(root / "callbacks", target_is_directory=True)
    assert imports(root) == plain
    assert plain[f"{PACKAGE}.callbacks.report"] == {f"{PACKAGE}.module"}


def test_circles_are_the_modules_that_reach_each_other() -> None:
    graph = {
        "a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}, "g": set(),
    }  # fmt: skip
    assert circles(graph) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b"}, "b": set()}) == []
    # A long chain is no depth of calls.
    chain = {str(place): {str(place + 1)} for place in range(5000)}
    assert circles({**chain, "5000": {"0"}}) == [sorted({*chain, "5000"})]


def test_an_arrow_goes_back_up_where_the_imported_stands_higher() -> None:
    def graph(importer: str, target: str) -> dict[str, set[str]]:
        return {f"{PACKAGE}.{importer}": {f"{PACKAGE}.{target}"}}

    assert back_arrows(graph("core.gram", "models.base")) == [(f"{PACKAGE}.core.gram", f"{PACKAGE}.models.base")]
    assert back_arrows(graph("module", "callbacks.report"))
    assert back_arrows(graph("callbacks.report", "cli.lightning"))
    assert back_arrows({f"{PACKAGE}.core.gram": {PACKAGE}})
    assert not back_arrows(graph("models.base", "core.gram"))
    assert not back_arrows(graph("models.base", "models.find"))
    assert not back_arrows(graph("files", "core.errors"))
    assert back_arrows(graph("files", "core.gram"))
    assert not back_arrows({PACKAGE: {f"{PACKAGE}.module"}})
    # The former layout, by where its modules went.
    assert back_arrows(graph("scan.reaching", "module"))
    assert not back_arrows(graph("tools.sweep", "cli"))
    with pytest.raises(KeyError, match="attic"):
        back_arrows(graph("attic.old", "core.gram"))


def test_this_checkout_has_no_room_that_nobody_placed() -> None:
    found = Structure.of(REPOSITORY)
    assert found.rooms <= set(ROOMS)
    assert len(found.graph) > 100
    assert f"{PACKAGE}.callbacks.report" in found.graph


def test_the_figures_of_checkouts_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = checkout(tmp_path / "one", {f"{PACKAGE}/module.py": "from rece_lightning.core import gram"})
    checkout(one, {f"{PACKAGE}/core/gram.py": "import rece_lightning.module\n\n"})
    figures = Structure.of(one).figures()
    assert figures["imports back up"] == "1"
    assert figures["circles of modules"] == "1 (2)"
    assert figures["modules at the root"] == "2"
    assert figures["lines"] == "3"
    lines = table({"one": one, "this": REPOSITORY})
    assert all(line.count("|") == 4 for line in lines)
    main([str(one), "--arrows"])
    said = capsys.readouterr().out
    assert "circle: rece_lightning.core.gram, rece_lightning.module" in said
    assert "back up: rece_lightning.core.gram imports rece_lightning.module" in said
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
