"""A method: what it refuses and how, its plain form and back, and what counts as one setting."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from rece_lightning.core import (
    CURE,
    DP,
    OCE,
    UCE,
    Derivation,
    Editor,
    EditProblem,
    EmbeddingMap,
    Method,
    NullSpace,
    ProjectedUCE,
    Projection,
    Robust,
    TensorUCE,
)
from rece_lightning.core.editors.base import editor_class, not_imported
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.method import PUBLISHED


@dataclass(frozen=True)
class Halve(Editor):
    """An editor of a user's own."""

    strength: float = 0.5
    rows: tuple[int, ...] = (1, 2)
    note: str | None = None

    def __call__(self, problem: EditProblem) -> AnyMap:
        """A map that knows nothing of the problem."""
        return EmbeddingMap(self.strength * EmbeddingMap.identity(problem.gram.width).matrix)


@dataclass(frozen=True)
class StricterUCE(UCE):
    """One of ours with more to set."""

    extra: int = 3


class Undescribed(Editor):
    """Nobody could say what it was set to."""

    def __call__(self, problem: EditProblem) -> AnyMap:
        """Nothing."""
        return problem.before


EDITORS = [
    UCE(2.0, 0.5, 0.01),
    TensorUCE(lamb=0.3),
    NullSpace(0.7, 0.0, 2.0, threshold=1e-4, augmented_rank=0),
    Projection(),
    Projection(3, 5.0),
    Projection(0.9),
    ProjectedUCE(0.7, 0.0, 2.0, rank=3, shrinkage=30.0),
    ProjectedUCE(rank=None),
    DP(0.5, 2),
    CURE(5.0),
    OCE(100.0, 0.2, 0.0, 1.0, rank=0.9),
    StricterUCE(lamb=0.2, extra=7),
]
WHOLE = Method(
    editor=Projection(2, 4.0),
    first_editor=UCE(preserve_scale=1.0, lamb=0.5),
    derivation=Derivation(1e-3, "surrogate", "second"),
    accumulate=True,
    robust=Robust((0.5, 1.0), (0.2,), 0.7, ("a {}", "{} at night"), 5, 3, 0.3, "runs/attacked"),
    tokens="last",
    projections="v",
    layers="^up_blocks",
    spaces=("text", "pooled"),
)
"""Every setting differs from its default."""


def stored(plain: dict[str, Any]) -> dict[str, Any]:
    """As a file gives it back."""
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


# The plain form and back


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_every_editor_comes_back_from_its_plain_form(editor: Editor) -> None:
    for method in (Method(editor=editor), Method(editor=editor, first_editor=replace(editor))):  # type: ignore[type-var]
        plain = method.plain()
        assert stored(plain) == plain
        assert yaml.safe_load(yaml.safe_dump(plain)) == plain
        for trusted in (False, True):
            again = Method.from_plain(stored(plain), trusted=trusted)
            assert again == method
            assert type(again.editor) is type(editor)
            assert again.plain() == plain


def test_an_editor_of_ones_own_is_found_where_it_is_imported() -> None:
    """Without trust too: its class path is looked up among the classes that are there, and nothing is imported."""

    @dataclass(frozen=True)
    class Local(Halve):
        depth: int = 1

    for editor in (Halve(0.25, (4,), "x"), Local(depth=2)):
        plain = stored(Method(editor=editor).plain())
        assert plain["editor"]["class_path"] == f"{__name__}.{type(editor).__qualname__}"
        again = Method.from_plain(plain, trusted=False)
        assert type(again.editor) is type(editor)
        assert again.editor == editor
        assert hash(again) == hash(Method(editor=editor))
    assert stored(Halve().plain()) == {
        "class_path": f"{__name__}.Halve",
        "init_args": {"strength": 0.5, "rows": [1, 2], "note": None},
    }
    # By its bare name too, where one class alone has it.
    assert editor_class("Halve", "here") is Halve


def test_every_setting_comes_back() -> None:
    changed = [one.name for one in fields(Method) if getattr(WHOLE, one.name) == getattr(Method(), one.name)]
    assert changed == [], "a setting that is left at its default tests nothing"
    plain = WHOLE.plain()
    assert set(plain) == {one.name for one in fields(Method)}
    assert set(plain["robust"]) == {one.name for one in fields(Robust)}
    assert Method.from_plain(stored(plain)) == WHOLE
    assert Method.from_plain(yaml.safe_load(yaml.safe_dump(plain))).plain() == plain
    assert Method.from_plain({}) == Method()
    assert Method.from_plain(Method().plain()) == Method()
    assert Method.of(WHOLE) is WHOLE
    assert Method.of(plain) == WHOLE
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE


def test_ours_go_by_their_names_alone() -> None:
    for kind in (UCE, TensorUCE, NullSpace, Projection, ProjectedUCE):
        assert kind().plain()["class_path"] == kind.__name__
        for path in (
            kind.__name__,
            f"rece_lightning.core.editors.{kind.__name__}",
            f"{kind.__module__}.{kind.__name__}",
        ):
            assert editor_class(path, "here") is kind
        assert Method.from_plain({"editor": kind.__name__}).editor == kind()
        assert Method.from_plain({"editor": {"class_path": kind.__name__}}).editor == kind()
        assert Method.from_plain({"editor": {"class_path": kind.__name__, "init_args": None}}).editor == kind()


def test_a_whole_number_is_one_setting_with_the_number_that_is_meant() -> None:
    method = Method(editor=UCE(1, 0, 2), derivation=Derivation(1), robust=Robust(norms=(1,), weight=2))
    twin = Method(editor=UCE(1.0, 0.0, 2.0), derivation=Derivation(1.0), robust=Robust(norms=(1.0,), weight=2.0))
    assert json.dumps(method.plain()) == json.dumps(twin.plain())
    assert json.dumps(Projection(2).plain()) != json.dumps(Projection(2.5 - 0.5).plain())  # a rank may be either


# A class path from a stranger's file


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that nobody imported, which leaves a mark when somebody does."""
    name = "strangers_editors"
    (tmp_path / f"{name}.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from rece_lightning.core import Editor, EmbeddingMap\n"
        "Path(__file__).with_name('was-imported').touch()\n"
        "@dataclass(frozen=True)\n"
        "class Stranger(Editor):\n"
        "    strength: float = 1.0\n"
        "    def __call__(self, problem):\n"
        "        return EmbeddingMap.identity(problem.gram.width)\n"
        "class NoEditor:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_a_file_imports_nothing(package: str, tmp_path: Path) -> None:
    plain = {"editor": {"class_path": f"{package}.Stranger", "init_args": {"strength": 2.0}}}
    with pytest.raises(ConfigurationError, match=rf"^rece\.method\.editor: the editor {package}\.Stranger is not"):
        Method.from_plain(plain, "rece.method")
    with pytest.raises(ConfigurationError, match=r"^model\.method\.first_editor: .*imports nothing"):
        Method.from_plain({"first_editor": plain["editor"]})
    assert package not in sys.modules
    assert not (tmp_path / "was-imported").exists()

    method = Method.from_plain(plain, trusted=True)
    assert (tmp_path / "was-imported").exists()
    assert stored(method.plain())["editor"] == plain["editor"]
    # Now it is imported, and a file may name it.
    assert Method.from_plain(plain) == method


def test_a_class_path_that_leads_nowhere_is_refused(package: str) -> None:
    for path, message in (
        ("no_such_package_at_all.Editor", "there is no class 'no_such_package_at_all.Editor'"),
        (f"{package}.Missing", f"there is no class '{package}.Missing'"),
        (f"{package}.NoEditor", f"{package}.NoEditor is no subclass of"),
        ("json.loads", "json.loads is no subclass of"),
    ):
        with pytest.raises(ConfigurationError, match=f"^model.method.editor: {re.escape(message)}"):
            Method.from_plain({"editor": path}, trusted=True)


def test_an_editor_that_nobody_imported_can_be_named_and_not_run() -> None:
    plain = {"class_path": "far.away.Editor", "init_args": {"strength": 2.0}}
    editor = not_imported(plain, per_layer=True)
    assert Method(editor=editor).plain()["editor"] == plain
    assert Method(editor=editor).editor.per_layer
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: the editor far\.away\.Editor is not imported.*--editor"):
        editor(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="unknown editor '_NotImported'"):
        Method.from_plain({"editor": "_NotImported"})


# What a plain form may not hold


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (None, r"^model\.method: None is no method"),
        ([], r"^model\.method: \[\] is no method"),
        ({"editors": "UCE"}, r"^model\.method\.editors: no such setting; did you mean 'editor'\?"),
        ({"lamb": 0.1}, r"^model\.method\.lamb: no such setting"),
        ({"editor": "Projectoin"}, r"^model\.method\.editor: unknown editor 'Projectoin'; did you mean 'Projection'\?"),
        ({"editor": "Editor"}, r"^model\.method\.editor: unknown editor 'Editor'"),
        ({"editor": {"init_args": {"lamb": 1}}}, r"^model\.method\.editor: .*is no editor; give class_path"),
        ({"editor": {"class_path": 5}}, r"^model\.method\.editor: .*is no editor"),
        ({"editor": {"class_path": "UCE", "init_args": 5}}, r"^model\.method\.editor: .*is no editor"),
        ({"editor": {"class_path": "UCE", "lamb": 5}}, r"^model\.method\.editor\.lamb: .*under init_args"),
        (
            {"editor": {"class_path": "UCE", "init_args": {"lam": 5}}},
            r"^model\.method\.editor\.lam: no setting of UCE; did you mean 'lamb'\?",
        ),
        (
            {"first_editor": {"class_path": "Projection", "init_args": {"lamb": 5}}},
            r"^model\.method\.first_editor\.lamb: no setting of Projection",
        ),
        ({"editor": {"class_path": "UCE", "init_args": {"lamb": "5"}}}, r"^UCE\.lamb: '5'"),
        ({"editor": None}, r"^model\.method\.editor: None is no Editor; give one such as UCE"),
        ({"editor": 0.1}, r"^model\.method\.editor: 0\.1 is no Editor"),
        ({"first_editor": 0.1}, r"^model\.method\.first_editor: 0\.1 does not go with UCE"),
        ({"derivation": 0.1}, r"^model\.method\.derivation: 0\.1 is no Derivation; give one such as Derivation"),
        ({"derivation": {"scales": 0.1}}, r"^model\.method\.derivation\.scales: .*did you mean 'scale'\?"),
        ({"derivation": {"scale": 0}}, r"^derivation\.scale: 0"),
        ({"robust": 5}, r"^model\.method\.robust: 5 is no Robust"),
        ({"robust": {"norm": [1.0]}}, r"^model\.method\.robust\.norm: .*did you mean 'norms'\?"),
        ({"robust": {"norms": None}}, r"^robust\.norms: None; give a list"),
        ({"robust": {"attacks": ["cce"]}}, r"^model\.method\.robust\.attacks: no such setting"),
        ({"accumulate": "yes"}, r"^model\.method\.accumulate: 'yes'; give true or false"),
        ({"accumulate": 1}, r"^model\.method\.accumulate: 1; give true or false"),
        ({"tokens": "first"}, r"^model\.method\.tokens: unknown value 'first'.*aligned, all, end, last"),
        ({"tokens": None}, r"^model\.method\.tokens: unknown value None"),
        ({"projections": "q"}, r"^model\.method\.projections: unknown value 'q'.*k, kv, v"),
        ({"layers": "("}, r"^model\.method\.layers: '\(' is no regular expression .*'\^up_blocks'"),
        ({"layers": 5}, r"^model\.method\.layers: 5 is no regular expression"),
        ({"spaces": []}, r"^model\.method\.spaces: \[\]|^model\.method\.spaces: \(\)"),
        ({"spaces": ["text", 5]}, r"^model\.method\.spaces: .*give names such as \[text\]"),
        ({"spaces": 5}, r"^model\.method\.spaces: 5; give names such as \[text\]"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(plain: Any, message: str) -> None:
    for trusted in (False, True):
        with pytest.raises(ConfigurationError, match=message):
            Method.from_plain(plain, trusted=trusted)


def test_where_a_setting_was_said_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: method\.editor\.lam: "):
        Method.from_plain({"editor": {"class_path": "UCE", "init_args": {"lam": 1}}}, "ckpt_path: method")


def test_an_editor_that_is_no_dataclass_cannot_be_described() -> None:
    with pytest.raises(ConfigurationError, match=r"^Undescribed: an editor must be a dataclass; write @dataclass"):
        Method(editor=Undescribed()).plain()


def test_names_of_spaces_are_a_tuple_each_once() -> None:
    assert Method(spaces="text").spaces == ("text",)  # type: ignore[arg-type]
    assert Method(spaces=["text", "pooled", "text"]).spaces == ("text", "pooled")  # type: ignore[arg-type]
    assert Method().spaces is None


# What goes together


@dataclass(frozen=True)
class PerLayer(Halve):
    """One map a layer, of a user's own."""

    per_layer: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("editor", "first"),
    [(UCE(), TensorUCE()), (TensorUCE(), UCE()), (Projection(), TensorUCE()), (PerLayer(), Halve())],
)
def test_a_first_editor_has_as_many_maps_as_the_editor(editor: Editor, first: Editor) -> None:
    with pytest.raises(ConfigurationError, match=r"^model\.method\.first_editor: .* does not go with .*one map"):
        Method(editor=editor, first_editor=first)


@pytest.mark.parametrize(
    ("editor", "first"), [(Projection(), UCE()), (UCE(), NullSpace()), (TensorUCE(), PerLayer()), (Halve(), UCE())]
)
def test_a_first_editor_may_be_of_another_kind(editor: Editor, first: Editor) -> None:
    method = Method(editor=editor, first_editor=first)
    assert Method.from_plain(stored(method.plain())).first_editor == first


@pytest.mark.parametrize("editor", [TensorUCE(), PerLayer()])
def test_the_robust_loop_wants_one_map_for_all_layers(editor: Editor) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"^model\.method\.robust: {type(editor).__name__} takes every prompt"
    ):
        Method(editor=editor, robust=Robust(norms=(1.0,)))
    Method(editor=UCE(), robust=Robust(norms=(1.0,)))


def test_it_needs_invariants_where_one_of_its_editors_does() -> None:
    assert not Method().needs_invariants
    assert not Method(editor=Projection(), first_editor=UCE()).needs_invariants
    assert Method(editor=NullSpace()).needs_invariants
    assert Method(first_editor=NullSpace()).needs_invariants
    assert Method(editor=NullSpace(), first_editor=UCE()).needs_invariants


def test_it_takes_something_out_of_reach_where_one_of_its_editors_does() -> None:
    for singular in (Projection(), ProjectedUCE()):
        assert Method(editor=singular).singular
        assert Method(editor=UCE(), first_editor=singular).singular
    assert not Method().singular
    assert not Method(editor=NullSpace(), first_editor=UCE()).singular


def test_the_edit_that_words_are_chosen_with_has_its_scales() -> None:
    first = Method(editor=ProjectedUCE(0.7, 3.0, 2.0, rank=1), projections="v").first_edit()
    assert first == Method(editor=UCE(0.7, 3.0, 2.0), projections="v")


def test_it_is_frozen_and_can_be_a_key() -> None:
    for one, name in ((Method(), "tokens"), (UCE(), "lamb"), (Derivation(), "scale"), (Robust(norms=(1.0,)), "norms")):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, 5)
    assert {Method(): 1, WHOLE: 2, Method(editor=UCE()): 3} == {Method(): 3, WHOLE: 2}
    assert Method(editor=UCE()) != Method(editor=TensorUCE())


# What counts as one setting


def test_one_epoch_looks_at_the_first_edit_alone() -> None:
    one = Method(editor=UCE(lamb=0.7))
    same = [
        Method(editor=Projection(), first_editor=UCE(lamb=0.7)),
        replace(one, derivation=Derivation(5.0, "standard")),
        replace(one, derivation=Derivation(5.0, "surrogate", "first")),
        replace(one, accumulate=True),
    ]
    for other in same:
        assert other.plain(1) == one.plain(1)
        assert other.plain(2) != one.plain(2)
        assert other.plain() != one.plain()
    for other in (replace(one, tokens="all"), replace(one, projections="v"), Method(), replace(one, spaces=("text",))):
        assert other.plain(1) != one.plain(1)
    # The rest is enough to run it.
    assert Method.from_plain(same[0].plain(1)) == one


def test_surrogate_items_count_under_the_surrogate_alone() -> None:
    for regularizer, read in (("norm", False), ("standard", False), ("surrogate", True)):
        one, other = (Method(derivation=Derivation(0.1, regularizer, items)) for items in ("first", "both"))
        for epochs in (2, 5):
            assert (one.plain(epochs) != other.plain(epochs)) == read
        assert one.plain(1) == other.plain(1)
        assert one.plain() != other.plain()


def test_the_edit_that_choices_are_made_with_is_uces_with_the_methods_weights() -> None:
    assert WHOLE.first_edit() == replace(WHOLE, editor=UCE(), first_editor=None, robust=None)
    for editor in (UCE(2.0, 0.3, 0.4), TensorUCE(2.0, 0.3, 0.4), NullSpace(2.0, 0.3, 0.4)):
        found = Method(editor=editor, tokens="all").first_edit()
        assert found == Method(editor=UCE(2.0, 0.3, 0.4), tokens="all")
        assert type(found.editor) is UCE


def test_published_settings_are_the_papers() -> None:
    """λ₁ = λ₂ = 0.1 and λ = 0.1, but 1e-3 for styles and hard objects (arXiv 2407.12383, section 4)."""
    for name, scale in {"nudity": 0.1, "unsafe": 0.1, "style": 1e-3, "object": 1e-3, "easy-object": 0.1}.items():
        assert Method.published(name) == Method(editor=UCE(1.0, 0.1, 0.1), derivation=Derivation(scale, "norm"))
    assert len(PUBLISHED) == 5
    with pytest.raises(ConfigurationError, match=r"^published: unknown value 'styles'; did you mean 'style'\?"):
        Method.published("styles")
