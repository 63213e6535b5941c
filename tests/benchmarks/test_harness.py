"""The harness: settings in former and present names, tables that go on, and what was measured, which stays valid."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.harness import (
    FORMER,
    HERE,
    Configuration,
    Piece,
    Section,
    Settings,
    Table,
    check_same,
    command,
    command_of,
    digest,
    fill,
    fill_sections,
    flat,
    former,
    former_loop,
    method_of,
    section_parser,
    table_parser,
    told,
    unet_digest,
)
from rece_lightning import Method
from rece_lightning.core import UCE, Derivation, NullSpace, Projection, Robust
from rece_lightning.core.errors import ConfigurationError

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"

# Settings


@pytest.mark.parametrize(
    ("settings", "method", "words"),
    [
        ({}, Method(), {}),
        (
            {"editor.preserve_scale": 1.0, "editor.lamb": 3.0, "derivation.scale": 1e-3},
            Method(UCE(1.0, 1.0, 3.0), derivation=Derivation(1e-3)),
            {"preserve_scale": 1.0, "lamb": 3.0, "regular_scale": 1e-3},
        ),
        (
            {"editor": "Projection", "projections": "v", "editor.rank": 0.9, "editor.shrinkage": 5.0},
            Method(Projection(0.9, 5.0), projections="v"),
            {"editor": "projection", "projections": "v", "erased_rank": 0.9, "shrinkage": 5.0},
        ),
        (
            {"editor": "NullSpace", "editor.threshold": 0.5, "editor.augmented_rank": 2, "accumulate": True},
            Method(NullSpace(threshold=0.5, augmented_rank=2), accumulate=True),
            {"editor": "null_space", "null_space_threshold": 0.5, "augmented_rank": 2, "accumulate": True},
        ),
        (
            {"first_editor": {"class_path": "UCE", "init_args": {"lamb": 0.5}}, "tokens": "last", "layers": "up"},
            Method(first_editor=UCE(lamb=0.5), tokens="last", layers="up"),
            {"first_edit": {"lamb": 0.5}, "tokens": "last", "layers": "up"},
        ),
        (
            {"derivation.regularizer": "surrogate", "derivation.surrogate_items": "first", "robust": {"synonyms": 5}},
            Method(derivation=Derivation(0.1, "surrogate", "first"), robust=Robust(synonyms=5)),
            {"regularizer": "surrogate", "surrogate_items": "first", "robust": {"synonyms": 5}},
        ),
    ],
)
def test_settings_are_a_method_and_have_former_names(settings: Settings, method: Method, words: dict[str, Any]) -> None:
    assert method_of(settings) == method
    assert list(former(settings).items()) == list(words.items())
    assert method_of(flat(method.plain())) == method


def test_arguments_of_another_editor_do_not_count_and_unknown_ones_are_refused() -> None:
    scales = {"editor.lamb": 3.0, "editor.preserve_scale": 0.5}
    assert method_of({**scales, "editor": "Projection", "editor.rank": 2}) == Method(Projection(2))
    for wrong in ("editor.lambda", "lamb", "derivation.lamb"):
        with pytest.raises(ConfigurationError, match="no such setting"):
            method_of({wrong: 1.0})


def test_every_former_name_is_told_once_and_the_loops_text_is_the_former_one() -> None:
    assert len(set(FORMER.values())) == len(FORMER)
    assert told(former({"editor": "Projection", "editor.rank": 2}), 3) == "editor projection, erased_rank 2, epochs 3"
    assert former_loop({"editor": "Projection", "editor.rank": 2, "editor.lamb": 3.0, "accumulate": True}) == (
        "LoopSettings(scales=EditScales(erase_scale=1.0, preserve_scale=0.1, lamb=3.0), first_scales=None, "
        "regular_scale=0.1, regularizer='norm', surrogate_items='both', technique='replace', editor='projection', "
        "projection=Projection(erased_rank=2, shrinkage=3.0), null_space=NullSpace(threshold=0.1, augmented_rank=1), "
        "accumulate=True, robust=None)"
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_is_read_as_the_command_reads_it(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "class_path" in content["model"]:
        pytest.skip("a baseline that is trained has no closed form to measure")
    found = Configuration.shipped(path.name)
    assert method_of(found.settings) == Method.from_plain(content["model"].get("method", {}))
    assert found.epochs == content["trainer"]["max_epochs"]
    assert found.data == content["data"]


# Tables


@dataclass(frozen=True)
class Line:
    """A row of every kind of column."""

    recipe: str
    name: str
    count: int = 0
    value: float = 0.0
    maybe: float | None = None
    words: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.count


LINES = [Line("r", "one", 1, 1 / 3, None, ("a", "b"), (0.5, 1e-17)), Line("r", "two, “more”", -2, 1e300, 0.25)]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = Table(tmp_path / "lines.csv", Line)
    with pytest.raises(ConfigurationError, match="nothing was measured"):
        table.rows()
    table.write(LINES)
    assert table.rows() == LINES
    short = Table(tmp_path / "short.csv", Line, digits=3)
    short.write(LINES)
    assert short.read()[0] == Line("r", "one", 1, 0.333, None, ("a", "b"), (0.5, 1e-17))
    table.path.write_text(table.path.read_text().replace("-2", "few"))
    with pytest.raises(ConfigurationError, match="damaged"):
        table.read()


def test_what_is_missing_is_measured_and_each_part_is_written_at_once(tmp_path: Path) -> None:
    table = Table(tmp_path / "lines.csv", Line)
    asked: list[list[tuple[str, int]]] = []

    def piece(name: str, recipe: str = "r", stop: bool = False) -> Piece[Line]:
        def measure(missing: list[tuple[str, int]]) -> Iterator[list[Line]]:
            asked.append(missing)
            for place, (own, count) in enumerate(missing):
                if stop and place == 1:
                    raise KeyboardInterrupt
                yield [Line(recipe, own, count)]

        return Piece(name, {(name, count): recipe for count in range(3)}, measure)

    with pytest.raises(KeyboardInterrupt):
        fill(table, [piece("a"), piece("b", stop=True)])
    assert [row.key for row in table.read()] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    rows = fill(table, [piece("a"), piece("b")])
    assert rows == table.read()
    assert asked[-1] == [("b", 1), ("b", 2)]
    assert fill(table, [piece("b")]) == rows
    with pytest.raises(ConfigurationError, match="a, 0 was measured with other settings"):
        fill(table, [piece("b")], whole=True)
    with pytest.raises(ConfigurationError, match="b, 0 was measured with other settings"):
        fill(table, [piece("b", "s")])
    assert table.read() == rows
    assert fill(table, [piece("b", "s")], overwrite=True) == [Line("s", "b", count) for count in range(3)]
    assert len(asked) == 4


# What was measured before


def results() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.results.groups import recipes
    from benchmarks.results.plan import SEEDS, erasures, states
    from benchmarks.results.table import table

    work = [recipes(one, state, SEEDS) for one in erasures() for state in states(one.kind)]
    return table(HERE), {key: made for part in work for key, made in part.items()}, True


def many_concepts() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.many_concepts.plan import COUNTS, Task, cells, recipe
    from benchmarks.many_concepts.table import table

    tasks = [Task(count) for count in COUNTS]
    work = [(task, *cell) for task in tasks for cell in cells(task, [])]
    return table(HERE), {(t.count, way.name, p): recipe(t, way, p, None) for t, way, p in work}, False


def robust() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.robust.__main__ import LOOKED_AT, PARTS
    from benchmarks.robust.page import Row
    from benchmarks.robust.plan import CONCEPTS

    work = [(case, concept) for make in PARTS.values() for case in make() for concept in CONCEPTS]
    made = {(c.part, c.editor, c.label, name): c.recipe(name, 5, 12, LOOKED_AT) for c, name in work}
    return Table(HERE / "robust.csv", Row), made, True


def certificate() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.certificate.__main__ import edits, recipe
    from benchmarks.certificate.page import Row
    from benchmarks.results.plan import objects, styles
    from rece_lightning.models.sampling import Sampling

    work = [(one, edit) for one in (*objects(), *styles()) for edit in edits(one.kind, quick=False)]
    made = {(one.name, e.name): recipe(one, e, Sampling(12, 4.0, 64), 8) for one, e in work}
    keys = {(one.name, e.name, budget): made[one.name, e.name] for one, e in work for budget in e.budgets}
    return Table(HERE / "certificate.csv", Row), keys, True


def scan() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.results.plan import UCE as UCE_STATE
    from benchmarks.results.plan import objects, states
    from benchmarks.scan import AFTER, BEFORE, Row, recipe

    (uce,) = (state for state in states("objects") if state.name == UCE_STATE)
    asked = table_parser("scan", "", "")
    asked.set_defaults(words=20, pairs=5, pictures=2, steps=12)
    made = {one.name: recipe(one, uce, asked.parse_args([])) for one in objects()}
    return Table(HERE / "scan.csv", Row), {(n, state): r for n, r in made.items() for state in (BEFORE, AFTER)}, True


def red_team() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.red_team.__main__ import Bench
    from benchmarks.red_team.page import Row
    from benchmarks.red_team.plan import BUDGETS, Plan, erasures

    plan = Plan(HERE / "red_team" / "projection.yaml", tuple(BUDGETS), False, 2, 2, 8, tuned=True)
    bench, things = Bench(plan, Path("nowhere")), erasures(["all"])
    work = [(one, state) for one in things for state in (*plan.states(), *plan.tuned_states(one))]
    made = {recipe: recipe for one, state in work for recipe in bench.piece(one, 0, state).recipes}
    return Table(HERE / "red_team.csv", Row), made, True


def reach() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.reach.__main__ import Bench
    from benchmarks.reach.page import Row
    from benchmarks.reach.plan import tasks

    bench = Bench()
    work = [*bench.bounds(), *(bench.piece(task, state) for task in tasks() for state in task.states)]
    return Table(HERE / "reach.csv", Row), {k: r for one in work for k, r in one.recipes.items()}, True


def scaling() -> tuple[Table[Any], dict[Any, str], bool]:
    from benchmarks.scaling.__main__ import PROCESSES, REPEATS, piece
    from benchmarks.scaling.page import Timing
    from benchmarks.scaling.parts import Sizes

    work = [piece(Sizes(), processes, REPEATS) for processes in PROCESSES]
    return Table(HERE / "scaling.csv", Timing), {k: r for one in work for k, r in one.recipes.items()}, True


@pytest.mark.parametrize(
    "measured",
    [results, many_concepts, robust, certificate, scan, red_team, reach, scaling],
    ids=lambda one: one.__name__,
)
def test_what_was_measured_is_of_these_settings(
    measured: Callable[[], tuple[Table[Any], dict[Any, str], bool]],
) -> None:
    """The recipes of the tables are those that the plans have today: nothing would be measured anew."""
    table, wanted, whole = measured()
    rows = table.rows()
    check_same(rows, wanted, table.path, whole=whole)
    assert {row.key for row in rows} & set(wanted)


@pytest.mark.parametrize(
    ("module", "lines"),
    [
        ("scan", "--page"),
        ("settings", "--page"),
        ("many_concepts", "--page"),
        ("robust", "--page --concepts bomb,axe,church"),
        ("speed", "--sections="),
        ("evaluation", "--sections="),
    ],
)
def test_a_page_is_what_its_table_says(
    module: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in ("csv", "json"):
        if (HERE / f"{module}.{ending}").exists():
            (tmp_path / f"{module}.{ending}").write_bytes((HERE / f"{module}.{ending}").read_bytes())
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    name = f"benchmarks.{module}.__main__" if (HERE / module).is_dir() else f"benchmarks.{module}"
    importlib.import_module(name).main([*lines.split(), "--output", str(tmp_path)])
    assert (tmp_path / f"{module}.md").read_text(encoding="utf-8") == (HERE / f"{module}.md").read_text(
        encoding="utf-8"
    )


# The command line


def test_what_is_for_trying_does_not_write_over_what_was_measured(tmp_path: Path) -> None:
    parser = table_parser("results", None, "the page")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    with pytest.raises(SystemExit), command(parser, ["--quick"], trials=["quick"]):
        pass
    folder = tmp_path / "new"
    with command(parser, ["--quick", "--seeds", "2", "--output", str(folder)], trials=["quick"]) as given:
        assert folder.is_dir()
        assert command_of(parser, given, ["quick", "seeds"]) == "python -m benchmarks.results --quick --seeds 2"
    with command(parser, [], trials=["quick"]) as given:
        assert given.output == HERE
        assert command_of(parser, given, ["quick", "seeds"]) == "python -m benchmarks.results"


def test_a_mistake_ends_with_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended, command(table_parser("results", None, ""), ["--output", str(tmp_path)]):
        raise ConfigurationError("this is wrong; do that.")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: this is wrong; do that.\n"


def test_sections_that_are_not_asked_for_stay(tmp_path: Path) -> None:
    titles = {"one": "The first", "two": "The second"}
    parser = section_parser("speed", None, titles, 1)

    def run(sections: str, value: str) -> str:
        given = parser.parse_args(["--sections", sections, "--output", str(tmp_path)])
        path = fill_sections("speed", titles, given, lambda name: Section("a machine", [value]), lambda said: [said])
        return path.read_text()

    assert run("two", "a").splitlines()[0] == "python -m benchmarks.speed"
    text = run("one", "b")
    assert text.index("The first") < text.index("The second")
    assert "\na\n" in text
    assert "\nb\n" in text
    assert run("", "c") == text


def test_digests_look_at_values_and_not_at_their_order() -> None:
    assert digest({"a": 1, "b": [2.0, None]}) == digest({"b": [2.0, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert len(unet_digest()) == 12
