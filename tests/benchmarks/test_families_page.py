"""The MMDiT's page: what is drawn follows from the plan, sentences from tests, and timed folders hold what is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.families import learned, sizes
from benchmarks.families.bench import Bench
from benchmarks.families.figures import certificates, harmonic, left_between
from benchmarks.families.page import page, write_page
from benchmarks.families.plan import (
    METHODS,
    NEAREST,
    PARTS,
    PRETRAINED,
    PROJECTION,
    SINGULAR,
    SPACES,
    TOKENS,
    groups,
    methods,
    recipe,
    recipes,
    singular,
    spaces,
    tokens,
    work,
)
from benchmarks.families.sentences import answers, on_all, stronger, which_tokens
from benchmarks.families.shapes import CLIP_L, MODELS, T5_XXL, write_folder
from benchmarks.families.table import Row
from benchmarks.families.table import table as families_table
from benchmarks.harness import World, fitted, method_of
from benchmarks.results.derived import with_derived
from benchmarks.results.excess import floor, strongest, strongest_each
from benchmarks.results.groups import FLOOR, RIDGES, Group, derived, floor_prompts
from benchmarks.results.plan import ERASED, HELD, ORIGINAL, RECOMMENDED, SYNONYMS, UCE, UCE_RECOMMENDED, erasures
from benchmarks.results.table import Row as OtherRow
from rece_lightning.core.derivation import Derivation
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Request


def row(
    state: str, group: str, hits: list[str], *, erasure: str = "bomb", part: str = METHODS, **others: object
) -> Row:
    """A row whose prompts are p0, p1, …"""
    prompts = tuple(f"{group} p{k}" for k in range(len(hits)))
    values: dict[str, object] = {"distance": tuple(0.1 for _ in hits), "settings": "lamb 0.1", **others}
    what = {"weights": "abc", "part": part, "kind": "objects", "erasure": erasure, "state": state, "group": group}
    return Row(recipe="r", prompts=prompts, hits=tuple(hits), **what, **values)  # type: ignore[arg-type]


def other(state: str, group: str, hits: list[str]) -> OtherRow:
    """The same in the table of the U-Net."""
    prompts, numbers = tuple(f"{group} p{k}" for k in range(len(hits))), tuple(0.0 for _ in hits)
    what = ("abc", "objects", "bomb", state, group, "r", "")
    return OtherRow(*what, prompts, tuple(hits), numbers, numbers)


def small_table() -> list[Row]:
    """Every part of one object: the original, UCE, the projection, one space alone."""
    found = [row(ORIGINAL, ERASED, ["11111"] * 8), row(ORIGINAL, HELD, ["111"] * 8), row(ORIGINAL, FLOOR, ["00000"])]
    for state, part, erased, bounds in (
        (UCE, METHODS, "00000", (0.0, 0.0)),
        (UCE_RECOMMENDED, METHODS, "10000", (0.0, 0.0)),
        (PROJECTION, METHODS, "00000", (0.5, 0.25)),
        (f"{UCE_RECOMMENDED}, text alone", SPACES, "11110", (0.0,)),
        (f"{UCE_RECOMMENDED}, pooled alone", SPACES, "11111", (0.0,)),
        (f"{UCE_RECOMMENDED}, tokens last", TOKENS, "11100", (0.0, 0.0)),
        (f"{UCE_RECOMMENDED}, tokens end", TOKENS, "10000", (0.0, 0.0)),
        (f"{UCE_RECOMMENDED}, tokens all", TOKENS, "00000", (0.0, 0.0)),
    ):
        found.append(row(state, ERASED, [erased] * 8, part=part, certificate=bounds, at_one=bounds))
        found.append(row(state, HELD, ["110"] * 8, part=part))
        found += [row(state, derived(one), ["000" if state == PROJECTION else "110"], part=part) for one in RIDGES]
    return found


# The plan


def test_methods_come_first_and_objects_before_the_others() -> None:
    order = work(PARTS)
    assert len(order) == len({(erasure.name, state.name) for erasure, state in order})
    places = {(state.part, erasure.kind): place for place, (erasure, state) in enumerate(order)}
    first = [(METHODS, "objects"), (SINGULAR, "objects"), (SPACES, "objects"), (METHODS, "styles")]
    assert [places[one] for one in first] == sorted(places[one] for one in first)
    assert {state.part for _, state in work([METHODS])} == {METHODS}


def test_states_differ_from_the_defaults_in_what_their_name_says() -> None:
    for one in spaces("objects"):
        assert method_of(one.settings or {}).spaces == (one.variant.split()[0],)
    assert [method_of(one.settings or {}).tokens for one in tokens("objects")[::3]] == ["last", "end", "all"]
    # The choke point reads every row with one map: keys and values are not told apart.
    assert all("projections" not in (one.settings or {}) for one in methods("styles"))
    assert {type(method_of(one.settings or {}).editor).__name__ for one in singular("objects")} == {
        "Projection",
        "ProjectedUCE",
    }
    assert any(one.method == NEAREST for one in singular("objects"))


def test_what_is_drawn_of_an_erasure() -> None:
    by_name = {one.name: one for one in erasures()}
    original, *edited = methods("objects")
    asked = groups(by_name["bomb"], original)
    assert set(asked) == {ERASED, SYNONYMS, HELD, FLOOR}
    assert [(one.prompt, one.concept) for one in asked[FLOOR].prompts] == [(" ", "bomb")]
    drawn = groups(by_name["bomb"], edited[0])
    assert [drawn[derived(ridge)].ridge for ridge in RIDGES] == list(RIDGES)
    for name in ("noto style", "red background"):
        plain = floor_prompts(by_name[name], by_name[name].groups[ERASED])
        assert all(one.concept == name and name.split()[0] not in one.prompt.split() for one in plain)
        assert plain[0].prompt == "a fox"


def test_the_recipe_depends_on_what_decides_the_figures() -> None:
    erasure = next(one for one in erasures() if one.name == "bomb")
    state = methods("objects")[1]
    group = groups(erasure, state)[derived(RIDGES[0])]
    made = recipe(erasure, state, group)
    assert made == recipe(erasure, state, group)
    for one in (replace(group, ridge=0.5), replace(group, seeds=(7,)), Group(group.prompts, group.seeds)):
        assert recipe(erasure, state, one) != made
    assert recipe(erasure, methods("objects")[3], group) != made
    assert set(recipes(erasure, state)) == {("objects", "bomb", state.name, name) for name in groups(erasure, state)}


# The table


def test_rows_are_read_back_as_written(tmp_path: Path) -> None:
    rows = small_table()
    table = families_table(tmp_path)
    table.write(rows)
    assert table.read() == rows
    path = tmp_path / "families.csv"
    path.write_text(path.read_text().replace("11111", "1111x", 1))
    with pytest.raises(ConfigurationError, match="damaged"):
        table.read()


# The figures


def test_the_strongest_ridge_over_all_erasures_and_of_each() -> None:
    weak, strong = derived(RIDGES[0]), derived(RIDGES[1])
    rows = [
        row(UCE, weak, ["111"]), row(UCE, strong, ["110"]),
        row(UCE, weak, ["000"], erasure="axe"), row(UCE, strong, ["110"], erasure="axe"),
    ]  # fmt: skip
    assert (strongest(rows, "objects", UCE).hits, strongest(rows, "objects", UCE).total) == (4, 6)
    assert strongest_each(rows, "objects", UCE).clusters == ((3, 3), (2, 3))


def test_worlds_are_compared_by_what_they_leave_of_their_originals() -> None:
    there = [other(ORIGINAL, ERASED, ["11111"] * 8), other(UCE, ERASED, ["11000"] * 8)]
    here = [row(ORIGINAL, ERASED, ["11110"] * 8), row(UCE, ERASED, ["10000"] * 8)]
    found = left_between(there, here, "objects", (UCE, UCE), (ERASED,))
    assert found.mean == pytest.approx(0.25 - 0.4)
    assert found.interval == pytest.approx((-0.15, -0.15))
    told = list(
        stronger(small_table(), [*there, other(ORIGINAL, HELD, ["11"] * 8), other(UCE, HELD, ["11"] * 8)], ["objects"])
    )
    assert told[0].startswith("objects, UCE: stronger. ")
    assert "Cost: higher" in told[0]


def test_certificates_are_told_space_by_space() -> None:
    rows = [row(PROJECTION, ERASED, ["1"], erasure=name, certificate=bounds) for name, bounds in
            (("bomb", (0.5, 0.2)), ("axe", (0.1, 0.4)), ("church", (0.3, 0.3)))]  # fmt: skip
    assert certificates(rows, "objects", PROJECTION) == [(0.1, 0.3), (0.2, 0.3)]


def test_the_harmonic_mean_counts_from_the_floor() -> None:
    rows = small_table()
    assert harmonic(rows, "objects", UCE, HELD) == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    rows = [one for one in rows if one.group != FLOOR] + [row(ORIGINAL, FLOOR, ["10000"])]
    assert floor(rows, "objects").rate == pytest.approx(0.2)
    # At its floor an erasure is complete.
    assert harmonic(rows, "objects", UCE_RECOMMENDED, HELD) == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))


# The sentences and the page


def test_the_answers_are_those_of_the_rows() -> None:
    text = "\n".join(answers(small_table(), []))
    assert "in 20 % of the pictures after an edit of both spaces, in 80 % after one of `text` alone (+60 points" in text
    assert "`last` removes less than `aligned` (p = 0.008)" in text
    assert "`all` has the best harmonic mean" in text
    assert "after projection 0 % (0 % own ridge, certificate 0.50 / 0.25)" in text
    assert RECOMMENDED not in text


def test_comparisons_are_over_the_erasures_that_all_states_have() -> None:
    rows = [*small_table(), row(UCE_RECOMMENDED, ERASED, ["11111"] * 8, erasure="axe")]
    (said,), (alone,) = (list(which_tokens(one, ["objects"])) for one in (rows, small_table()))
    assert said == alone.replace("objects,", "objects (1 of 2),")
    assert on_all(rows, "objects", [UCE_RECOMMENDED, RECOMMENDED]) == []


def test_the_page_shows_the_rows_and_what_is_missing(tmp_path: Path) -> None:
    rows = [*small_table(), row(ORIGINAL, ERASED, ["11111"] * 8, erasure="axe")]
    lines = page(rows, [])
    shown = next(line for line in lines if line.startswith(f"| {PROJECTION} |"))
    assert shown.count("|") == next(line for line in lines if line.startswith("|  | erased")).count("|")
    assert "0.50 (0.50) / 0.25 (0.25)" in shown
    assert any(line.startswith("Not all were measured") and f"{PROJECTION} on 1 of 2" in line for line in lines)
    path = write_page(rows, [], tmp_path, ["## Attacked"], ["## Sizes"])
    assert path.read_text(encoding="utf-8").splitlines() == [*lines, "", "## Attacked", "", "## Sizes"]


def test_learning_is_told_beside_its_control() -> None:
    rows = [
        learned.Found("abc", erased, UCE, concept, int(erased != concept), steps, "r", "", hits)
        for erased in ("bomb", "church")
        for steps in learned.STEPS
        for concept, hits in ((erased, "11111"), (learned.control_of(erased), "11111" if steps else "00000"))
    ]
    (said, *_) = learned.sentences(rows)
    assert "100 % against 0 % of the control before a step, 100 % against 100 % of the control after" in said
    assert said.endswith("clearly above it after 0 steps.")
    assert "penguin" in "\n".join(learned.lines(rows))


# The world


@pytest.fixture(scope="module")
def world() -> World:
    """The MMDiT."""
    return World(PRETRAINED)


def test_an_erasure_without_a_trainer_is_that_of_a_fit(world: World) -> None:
    erasure, state = next(one for one in erasures() if one.name == "bomb"), methods("objects")[4]
    assert state.name == RECOMMENDED
    ours = world.erased(state.settings or {}, state.epochs, erasure.data)
    fit = fitted(state.settings or {}, state.epochs, erasure.data, pretrained=PRETRAINED)
    for space, maps in fit.maps.items():
        assert torch.equal(ours.maps[space].matrix, maps.matrix)  # type: ignore[union-attr]
    assert ours.description() == fit.description()


def test_embeddings_are_derived_in_the_edited_spaces_alone() -> None:
    root = torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = Gram.of([("w", root)])
    half = EmbeddingMap(0.5 * torch.eye(8, dtype=torch.float64))
    request = Request(torch.randn(3, 8), 0, pooled=torch.randn(8))
    both = with_derived(request, dict.fromkeys(("text", "pooled"), Derivation(1e-9)(gram, half)))
    # What halves every embedding is undone by the double.
    torch.testing.assert_close(both.embedding, 2 * request.embedding)
    torch.testing.assert_close(both.pooled, 2 * request.pooled)  # type: ignore[operator]
    text = with_derived(request, {"text": Derivation(1e-9)(gram, half)})
    assert text.pooled is request.pooled


def test_a_state_is_drawn_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEEDS", "FEWER"):
        monkeypatch.setattr(f"benchmarks.families.plan.{name}", (0,))
    monkeypatch.setattr("benchmarks.results.groups.RIDGES", (1e-4,))
    erasure = next(one for one in erasures() if one.name == "bomb")
    state = next(one for one in methods("objects") if one.name == UCE)
    bench = Bench()
    rows = {one.group: one for one in bench.measure(erasure, state)}
    assert {one.key: one.recipe for one in rows.values()} == recipes(erasure, state)
    assert rows[ERASED].hits == ("0",)
    assert rows["derived 0.0001"].hits == ("1",)
    assert rows[ERASED].certificate == (0.0, 0.0)
    original = {one.group: one for one in bench.measure(erasure, methods("objects")[0])}
    assert original[ERASED].hits == ("1",)
    assert original[HELD].distance == pytest.approx([0.0] * 8, abs=1e-6)


def test_inversion_finds_what_uce_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "STEPS", (0, 2))
    monkeypatch.setattr(learned, "SEEDS", (0,))
    erasure, state = learned.attacked()[0]
    rows = learned.Inversion().measure(erasure, state, "r")
    assert [(one.concept, one.control, one.steps) for one in rows] == [
        ("bomb", 0, 0), ("bomb", 0, 2), ("penguin", 1, 0), ("penguin", 1, 2),
    ]  # fmt: skip
    assert [one.hits for one in rows[:2]] == ["1", "1"]


# The real shapes


def test_a_folder_holds_what_is_read_and_nothing_else(tmp_path: Path) -> None:
    model = MODELS["flux1"]
    part, kind, config = model.denoiser
    tower = replace(CLIP_L, config={**CLIP_L.config, "num_hidden_layers": 1})
    t5 = replace(T5_XXL, config={**T5_XXL.config, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4})
    small = replace(
        model,
        denoiser=(part, kind, {**config, "joint_attention_dim": 32, "num_layers": 1, "num_single_layers": 1}),
        encoders={"text_encoder": tower, "text_encoder_2": t5},
    )
    folder = write_folder(tmp_path / "flux", small, layers=1)
    file = folder / part / "diffusion_pytorch_model.safetensors"
    assert file.stat().st_blocks * 512 < 0.1 * file.stat().st_size
    base = find_base(str(folder))
    assert {one.name: one.width for one in base.spaces} == {"text": 32, "pooled": 768}
    read = dict(base.read_projections())
    assert all(bool(weight.any()) and bool(weight.isfinite().all()) for weight in read.values())
    encoded = load_encoder(base).encode(["a bomb"])
    assert encoded.embeddings.isfinite().all()
    assert encoded.embeddings.shape[1:] == (512, 32)


def test_the_sizes_are_those_of_the_record(tmp_path: Path) -> None:
    one = {
        "title": "FLUX.1 dev", "layers": 4, "stored": {"transformer": 24e9, "text_encoder": 1e9, "text_encoder_2": 2e9},
        "floor": {"imports": 6.0, "encoding": 10.0, "reading": 1.0, "algebra": 3.0}, "floor_peak": 9000.0,
        "seconds": 31.0, "elapsed": 40.0, "peak": 10500.0, "where": "here",
    }  # fmt: skip
    (tmp_path / sizes.RECORD).write_text(json.dumps({"flux1": one}))
    lines = sizes.lines(sizes.recorded(tmp_path))
    assert (
        "| FLUX.1 dev (text encoder of 4 layers) | 24.0 | 3.0 | 31 | 10.5 | 20 | 6.0 | 10.0 | 1.0 | 3.0 | 9.0 |"
        in lines
    )
    assert any("Not run" in line and "PixArt" in line for line in lines)
    assert any("No GPU was at hand" in line for line in lines)
