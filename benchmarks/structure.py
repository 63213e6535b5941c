"""The structure of a checkout in figures, read from its imports; nothing of it is imported.

    python -m benchmarks.structure                  # of this checkout
    python -m benchmarks.structure OTHER [OTHER …]  # of others, side by side: before and after a change
    python -m benchmarks.structure --arrows         # also which imports make the circles and the arrows back up

Imports count wherever they stand: at the top of a module, inside a function, for the type checker alone, or as
``import_module("…")``. Rooms are the folders of the package and the modules at its root.
"""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "rece_lightning"
CALLBACKS = "callbacks"
"""A folder at the top of the repository that is part of the package by a symlink."""
ENTRY = "__main__"
ROOMS = (
    ENTRY,
    "cli",
    CALLBACKS,
    "sweep",
    "runs",
    "module",
    "reporting",
    "exports",
    "vocabulary",
    "attacks",
    "evaluation",
    "baselines",
    "erasure",
    "trainer",
    "devices",
    "metrics",
    "data",
    "models",
    "emoji",
    "core",
    "files",
    "distributed",
    "version",
)
"""The rooms from the top; each imports only what stands below it."""
FOR_ALL = ("core.errors",)
"""Modules that every room may import."""
WHERE = {
    "cli": "attack_flags explain flags protocols tools verbs",
    "attacks": "attack_shares",
    "vocabulary": "preserving robust scan surviving",
    "evaluation": "background generation png",
    "erasure": "certifying closed_form evidence gathering incremental invariants live transfer",
    "data": "concept_table concepts prompts repeats synonyms tables",
    "models": "loading",
    "core": "epoch_figures",
}
"""Room → what belonged into it before the rooms were made, so that the same rule can be asked of that layout."""

Graph = Mapping[str, set[str]]
"""Module → the modules of the package that it imports."""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name → file of every module of a checkout's package, whether or not its symlinks are there.

    Args:
        root: of the checkout.
    """
    found: dict[str, Path] = {}
    for prefix, folder in ((PACKAGE, root / PACKAGE), (f"{PACKAGE}.{CALLBACKS}", root / CALLBACKS)):
        for place, _, files in os.walk(folder):
            inner = Path(place).relative_to(folder).parts
            for file in sorted(files):
                if file.endswith(".py"):
                    found[".".join((prefix, *inner, file.removesuffix(".py"))).removesuffix(".__init__")] = Path(
                        place, file
                    )
    return found


def imports(root: Path) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, of a whole checkout.

    Args:
        root: of the checkout.
    """
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for name, file in known.items():
        graph[name] = {module for asked in imported(name, file) if (module := home(asked, known)) not in (None, name)}
    return graph


def imported(name: str, file: Path) -> Iterator[str]:
    """Every dotted name that a module asks for, anywhere in it; relative ones resolved.

    Args:
        name: of the module.
        file: where it is.
    """
    parts = name.split(".")
    parent = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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


def home(asked: str, known: Iterable[str]) -> str | None:
    """The module that a dotted name lies in; ``None`` for one outside the package."""
    top = asked.partition(".")[0]
    if top == CALLBACKS:  # from a clone the folder at the top can be imported by its short name too
        asked = f"{PACKAGE}.{asked}"
    elif top != PACKAGE:
        return None
    while asked and asked not in known:
        asked = asked.rpartition(".")[0]
    return asked or None


def room_of(module: str) -> str:
    """``core`` for ``rece_lightning.core.moments``; the empty string for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def floors() -> dict[str, int]:
    """Room → its place from the top. The package itself stands above all: it gives names to users alone."""
    places = {room: place for place, room in enumerate(("", *ROOMS))}
    return places | {former: places[room] for room, names in WHERE.items() for former in names.split()}


def circles(graph: Graph) -> list[list[str]]:
    """Modules that import each other, directly or through others: each circle sorted, the largest first."""
    order: list[str] = []
    seen: set[str] = set()
    for start in sorted(graph):
        if start in seen:
            continue
        seen.add(start)
        path = [(start, iter(sorted(graph[start])))]
        while path:
            name, rest = path[-1]
            following = next((one for one in rest if one not in seen), None)
            if following is None:
                order.append(path.pop()[0])
            else:
                seen.add(following)
                path.append((following, iter(sorted(graph.get(following, ())))))
    back: dict[str, set[str]] = {name: set() for name in graph}
    for name, targets in graph.items():
        for target in targets:
            back.setdefault(target, set()).add(name)
    found: list[list[str]] = []
    placed: set[str] = set()
    for start in reversed(order):
        part, waiting = [], [start] if start not in placed else []
        placed.add(start)
        while waiting:
            part.append(waiting.pop())
            fresh = back[part[-1]] - placed
            placed |= fresh
            waiting += sorted(fresh)
        if len(part) > 1:
            found.append(sorted(part))
    return sorted(found, key=lambda part: (-len(part), part))


def back_arrows(graph: Graph) -> list[tuple[str, str]]:
    """Imports of what stands higher: (importer, imported), sorted.

    Raises:
        KeyError: for a room that is not in :data:`ROOMS`.
    """
    floor = floors()
    return sorted(
        (importer, target)
        for importer, targets in graph.items()
        for target in targets
        if floor[room_of(importer)] > floor[room_of(target)] and target.removeprefix(f"{PACKAGE}.") not in FOR_ALL
    )


@dataclass(frozen=True)
class Structure:
    """The figures of one checkout."""

    graph: Graph
    lines: Mapping[str, int]
    """Module → its lines."""

    @classmethod
    def of(cls, root: Path) -> Structure:
        """Read a checkout."""
        lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules(root).items()}
        return cls(imports(root), lines)

    @property
    def rooms(self) -> set[str]:
        """The rooms that there are."""
        return {room_of(name) for name in self.graph} - {""}

    @property
    def loose(self) -> list[str]:
        """Modules at the package's root, ``__init__`` and ``__main__`` included."""
        folders = {name.rpartition(".")[0] for name in self.graph}
        return sorted(name for name in self.graph if name.count(".") < 2 and (name not in folders or name == PACKAGE))

    def figures(self) -> dict[str, str]:
        """What is printed."""
        round_trips, back = circles(self.graph), back_arrows(self.graph)
        arrows = {
            (room_of(name), room_of(target))
            for name, targets in self.graph.items()
            for target in targets
            if room_of(name) != room_of(target)
        }
        ways = {(room_of(name), room_of(target)) for name, target in back}
        largest = sorted(self.lines, key=lambda name: -self.lines[name])[:3]
        return {
            "modules": str(len(self.graph)),
            "rooms": str(len(self.rooms)),
            "arrows between rooms": str(len(arrows)),
            "arrows back up, between rooms": str(len(ways)),
            "imports back up": str(len(back)),
            "circles of modules": f"{len(round_trips)} ({', '.join(str(len(one)) for one in round_trips) or 'none'})",
            "circles of rooms": str(len(circles(self._room_graph(arrows)))),
            "modules at the root": str(len(self.loose)),
            "largest files": ", ".join(f"{name.removeprefix(f'{PACKAGE}.')} {self.lines[name]}" for name in largest),
            "files over 350 lines": str(sum(count > 350 for count in self.lines.values())),
            "lines": f"{sum(self.lines.values()):,}",
        }

    def _room_graph(self, arrows: Iterable[tuple[str, str]]) -> Graph:
        graph: dict[str, set[str]] = {room: set() for room in {"", *self.rooms}}
        for importer, target in arrows:
            graph[importer].add(target)
        return graph


def table(roots: Mapping[str, Path]) -> list[str]:
    """The figures of some checkouts side by side, as Markdown."""
    found = {name: Structure.of(root).figures() for name, root in roots.items()}
    names = list(next(iter(found.values())))
    lines = [f"| package and callbacks | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    return [*lines, *(f"| {name} | {' | '.join(figures[name] for figures in found.values())} |" for name in names)]


def main(argv: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.structure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roots", nargs="*", type=Path, help="checkouts; this one without any")
    parser.add_argument("--arrows", action="store_true", help="also print circles and imports back up")
    arguments = parser.parse_args(argv)
    roots = {str(root): root for root in arguments.roots} or {"this checkout": Path(__file__).resolve().parent.parent}
    for name, root in roots.items():
        if not (root / PACKAGE).is_dir():
            parser.error(f"{name}: there is no folder {PACKAGE} in it")
    print("\n".join(table(roots)))
    for name, root in roots.items() if arguments.arrows else ():
        graph = imports(root)
        print("", f"{name}:", *(f"  circle: {', '.join(one)}" for one in circles(graph)), sep="\n")
        print(*(f"  back up: {importer} imports {target}" for importer, target in back_arrows(graph)), sep="\n")


if __name__ == "__main__":
    main()
