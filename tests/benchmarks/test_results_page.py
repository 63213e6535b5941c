"""The results of the embedded world: the table is read back as written and refuses others', sentences follow tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import Piece, check_same, fill, unet_digest
from benchmarks.results.__main__ import Bench
from benchmarks.results.claims import (
    CONFIRMED,
    CONTRADICTED,
    NOTHING_LEFT,
    OPEN,
    claims,
    harm_verdict,
    removal_sentence,
    removal_verdict,
    summary,
)
from benchmarks.results.excess import balance, excess, floor, regained, strongest, strongest_each
from benchmarks.results.figures import (
    detection_change,
    detection_test,
    erasure_test,
    interval_of,
    mean,
    mean_test,
    pairs,
    share,
)
from benchmarks.results.groups import DERIVED, FLOOR, RIDGES, derived, groups, recipe, recipes
from benchmarks.results.page import frontier, page, settings_of, write_page
from benchmarks.results.plan import (
    ERASED,
    HELD,
    KINDS,
    LOOKED_AT,
    ORIGINAL,
    PUBLISHED,
    RECE_TUNED,
    ROBUST,
    SEEDS,
    SYNONYMS,
    UCE,
    UCE_TUNED,
    Erasure,
    Key,
    State,
    erasures,
    states,
)
from benchmarks.results.regret import best_of, regrets
from benchmarks.results.table import Row
from benchmarks.results.table import table as results_table
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.metrics import Difference, Mean, PairedTest, harmonic_mean
from rece_lightning.metrics.intervals import t_quantile


def row(
    state: str, group: str, hits: list[str], *, erasure: str = "bomb", kind: str = "objects", **others: object
) -> Row:
    """A row whose prompts are p0, p1, …"""
    prompts = tuple(f"{erasure} {group} p{k}" for k in range(len(hits)))
    values: dict[str, object] = {
        "settings": "lamb 0.1",
        "clip": tuple(20.0 + k for k in range(len(hits))),
        "distance": tuple(0.1 * k for k in range(len(hits))),
        **others,
    }
    values.setdefault("weights", "abc")
    what = {"kind": kind, "erasure": erasure, "state": state, "group": group, "recipe": "r"}
    return Row(prompts=prompts, hits=tuple(hits), **what, **values)  # type: ignore[arg-type]


def table(erased: dict[str, list[str]], kept: dict[str, list[str]]) -> list[Row]:
    """Rows of the states by name."""
    found = [row(state, ERASED, hits) for state, hits in erased.items()]
    return found + [row(state, HELD, hits, fid=1.5, kid=0.2) for state, hits in kept.items()]


# The plan


def test_the_plan_is_the_one_of_the_protocols() -> None:
    plan = erasures()
    assert [sum(one.kind == kind for one in plan) for kind in KINDS] == [12, 4, 3]
    for one in plan:
        assert len({prompt.prompt for prompt in one.groups[HELD]}) == 8
        assert all(prompt.concept != one.name for prompt in one.groups[HELD])
        assert one.groups[ERASED]
        assert all(prompt.concept == one.name for prompt in one.groups[ERASED])
        kept = {prompt.prompt for prompt in one.groups[HELD]}
        assert not kept & set(one.data["preserve"])


def test_a_style_takes_the_place_of_the_configurations_own() -> None:
    noto = next(one for one in erasures() if one.name == "noto style")
    concepts = [concept["prompt"] for concept in noto.data["concepts"]]
    assert all("noto style" in prompt for prompt in concepts)
    assert not set(concepts) & set(noto.data["preserve"])
    assert any("twemoji style" in prompt for prompt in noto.data["preserve"])


def test_states_take_their_settings_from_the_configurations() -> None:
    for kind in KINDS:
        found = {state.name: state for state in states(kind)}
        assert found[ORIGINAL].settings is None
        assert found[UCE].epochs == 1
        published = found[PUBLISHED].settings
        assert published is not None
        assert (published["editor.lamb"], published["derivation.scale"]) == (0.1, 1e-3)
        assert "derivation.scale" not in (found[UCE].settings or {})


def test_the_recipe_depends_on_what_decides_the_figures() -> None:
    one: Erasure = erasures()[0]
    state = states("objects")[2]

    def made(erasure: Erasure, state: State, group: str, seeds: tuple[int, ...] = SEEDS) -> str:
        return recipe(erasure, state, groups(erasure, state, seeds)[group])

    assert made(one, state, HELD) == made(one, state, HELD)
    others = [
        made(one, state, ERASED),
        made(one, state, HELD, SEEDS[:1]),
        made(one, State(state.name, {**(state.settings or {}), "editor.lamb": 3.0}, state.epochs), HELD),
        made(one, State(state.name, state.settings, state.epochs, "balanced"), HELD),
        made(one, State(state.name, state.settings, state.epochs, "robust"), HELD),
        *(made(one, state, derived(ridge)) for ridge in RIDGES),
    ]
    other = replace(one, data={**one.data, "preserve": [" "]})
    assert len({made(one, state, HELD), made(other, state, HELD), *others}) == len(others) + 2
    # The original model does not depend on what is erased.
    original = states("objects")[0]
    assert made(one, original, HELD) == made(other, original, HELD)


@pytest.mark.parametrize(
    ("name", "asked"), [("bomb", {" "}), ("ink style", {"a fox", "a banana"}), ("red background", None)]
)
def test_a_floor_is_asked_for_in_the_place_of_every_unwanted_prompt(name: str, asked: set[str] | None) -> None:
    one = next(erasure for erasure in erasures() if erasure.name == name)
    original, edited = states(one.kind)[:2]
    unwanted = [*one.groups[ERASED], *one.groups[SYNONYMS]]
    floor = groups(one, original, SEEDS)[FLOOR]
    assert [row.concept for row in floor.prompts] == [row.concept for row in unwanted]
    assert not {row.prompt for row in floor.prompts} & {row.prompt for row in unwanted}
    assert all(name.split()[0] not in row.prompt.split() for row in floor.prompts)
    assert asked is None or asked <= {row.prompt for row in floor.prompts}
    # The original needs no derived embedding, an edit no floor of its own.
    assert not [group for group in groups(one, original, SEEDS) if group.startswith(DERIVED)]
    assert FLOOR not in groups(one, edited, SEEDS)
    assert [group.ridge for group in groups(one, edited, SEEDS).values() if group.ridge is not None] == list(RIDGES)


def test_a_tuned_state_is_what_a_fit_chooses_and_says_so() -> None:
    found = {state.name: state for state in states("objects")}
    bomb = erasures()[0]
    session = found[RECE_TUNED].fit(bomb.data)
    choice = session.tuned.choice
    assert choice is not None
    assert choice["aim"] == "balanced"
    assert len(session.history) == choice["chosen"]["epochs"]
    told = found[RECE_TUNED].told(session)
    assert told.endswith(f"epochs {len(session.history)}")
    assert f"preserve_scale {choice['chosen']['settings']['editor.preserve_scale']}" in told
    # UCE is one edit, whatever the rule would choose.
    uce = found[UCE_TUNED].fit(bomb.data)
    assert len(uce.history) == 1
    assert uce.tuned.choice is not None
    robust = found[ROBUST].fit(bomb.data)
    assert robust.method.editor.singular
    assert robust.method.projections == "v"
    assert found[ORIGINAL].told(None) == ""


def test_the_groups_that_are_missing_are_drawn_and_no_others() -> None:
    bench, bomb = Bench((0,)), erasures()[0]
    original, uce = states("objects")[:2]
    wanted = [ERASED, derived(RIDGES[0])]
    own, back = bench.measure(bomb, uce, wanted)
    assert [own.group, back.group] == wanted
    made = recipes(bomb, uce, (0,))
    assert {one.key: one.recipe for one in (own, back)} == {key: made[key] for key in (own.key, back.key)}
    assert (own.hits, back.hits) == (("0",), ("1",))
    assert own.distance[0] > 0
    assert back.distance == ()
    (alone,) = bench.measure(bomb, uce, wanted[1:])
    assert alone == back
    (floor,) = bench.measure(bomb, original, [FLOOR])
    assert (set(floor.prompts), set(floor.hits)) == ({" "}, {"0"})


# The table


def test_rows_are_read_back_as_written(tmp_path: Path) -> None:
    rows = [
        row(UCE, HELD, ["11011", "00000"], fid=2.0, kid=-0.125, clip=(21.5, 19.25), distance=(0.0, 0.03125)),
        row(UCE, ERASED, ["10000"], settings="lamb 0.1, first_edit {'lamb': 0.5}"),
    ]
    table = results_table(tmp_path)
    assert table.read() == []
    table.write(rows)
    assert table.read() == rows


@pytest.mark.parametrize("damage", [("11011", "1101x"), ("21.5|", ""), ("recipe", "other"), ("0.25", "much")])
def test_a_damaged_table_is_refused(tmp_path: Path, damage: tuple[str, str]) -> None:
    table = results_table(tmp_path)
    path = table.write([row(UCE, HELD, ["11011", "00000"], clip=(21.5, 19.0), fid=0.25)])
    text = path.read_text()
    assert damage[0] in text
    path.write_text(text.replace(*damage, 1))
    with pytest.raises(ConfigurationError, match="damaged"):
        table.read()


def test_rows_of_other_weights_or_settings_are_refused(tmp_path: Path) -> None:
    rows = [row(UCE, HELD, ["11"]), row(UCE, ERASED, ["00"])]
    recipes = {one.key: "r" for one in rows}
    check_same(rows, recipes, tmp_path, "abc", whole=True)
    check_same(rows[:1], recipes, tmp_path, "abc", whole=True)
    with pytest.raises(ConfigurationError, match="weights abc, these are def"):
        check_same(rows, recipes, tmp_path, "def", whole=True)
    with pytest.raises(ConfigurationError, match="other settings"):
        check_same(rows, {**recipes, rows[0].key: "s"}, tmp_path, "abc", whole=True)
    with pytest.raises(ConfigurationError, match="other settings"):
        check_same(rows, {rows[0].key: "r"}, tmp_path, "abc", whole=True)


def test_a_stopped_measurement_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    one = erasures()[0]
    work = {state.name: recipes(one, state, SEEDS) for state in states("objects")}
    # Erased, synonyms and kept; of the original the floor, of each edit the derived embeddings.
    assert sum(map(len, work.values())) == 3 * len(work) + 1 + len(RIDGES) * (len(work) - 1)
    blank = row(UCE, HELD, ["1"], weights=unet_digest())
    made: list[str] = []

    def piece(name: str) -> Piece[Row]:
        def measured(_: list[Key]) -> Iterator[list[Row]]:
            made.append(name)
            yield [
                replace(blank, erasure=key[1], state=key[2], group=key[3], recipe=recipe)
                for key, recipe in work[name].items()
            ]

        return Piece(name, work[name], measured)

    table, pieces = results_table(tmp_path), [piece(name) for name in work]
    rows = fill(table, pieces, whole=True)
    assert made == list(work)
    assert table.read() == rows
    assert fill(table, pieces, whole=True) == rows
    assert made == list(work)
    # A state of which one group is missing is measured again.
    table.write(rows[:-1])
    assert fill(table, pieces, whole=True) == rows
    assert made == [*work, list(work)[-1]]


# The figures


def test_a_prompts_pictures_are_one_cluster_whatever_was_erased() -> None:
    first = row(UCE, HELD, ["11111", "00000"])
    second = replace(first, erasure="axe", hits=("11110", "00000"))
    found = share([first, second])
    assert (found.hits, found.total) == (9, 20)
    assert found.clusters == ((9, 10), (0, 10))


def test_a_mean_counts_pictures_and_its_few_clusters_get_students_t() -> None:
    # Two seeds of the first prompt, one of the second.
    found = mean([row(UCE, HELD, ["11", "0"], clip=(10.0, 16.0))], "clip")
    assert found.mean == pytest.approx(12.0)
    assert found.total == 3
    few = interval_of([1.0, 2.0, 3.0], [1, 1, 1], "erasures")
    half = t_quantile(2) / 3**0.5
    assert few.interval == pytest.approx((2 - half, 2 + half))
    many = interval_of([float(k) for k in range(8)], [1] * 8, "erasures")
    assert "bootstrap" in many.method
    assert many.interval[0] < 3.5 < many.interval[1]


def test_tests_are_over_prompts_and_erasures() -> None:
    before = table({UCE: ["11111"] * 8}, {UCE: ["11111"] * 8})
    after = table({PUBLISHED: ["00000"] * 8}, {PUBLISHED: ["11111"] * 8})
    test = detection_test(pairs(before + after, "objects", UCE, PUBLISHED, (ERASED,)))
    assert (test.change, test.total) == (-1.0, 40)
    # Eight prompts, all in one direction: 2 · 2⁻⁸.
    assert test.p_value == pytest.approx(2 / 2**8)
    shifted = [replace(one, distance=tuple(value + 0.5 for value in one.distance)) for one in after]
    found = mean_test(pairs(before + shifted, "objects", UCE, PUBLISHED, (HELD,)), "distance")
    assert found.change == pytest.approx(0.5)
    assert found.p_value == pytest.approx(2 / 2**8)
    names = [f"thing {k}" for k in range(7)]
    first = [row(UCE, HELD, ["1"], erasure=name, fid=1.0) for name in names]
    second = [row(PUBLISHED, HELD, ["1"], erasure=name, fid=1.0 + k) for k, name in enumerate(names)]
    fid = erasure_test(pairs(first + second, "objects", UCE, PUBLISHED, (HELD,)), "fid")
    assert fid.change == pytest.approx(3.0)
    assert fid.p_value == pytest.approx(2 / 2**6)


def test_only_rows_with_the_same_prompts_and_seeds_are_paired() -> None:
    first = row(UCE, HELD, ["11", "10"])
    assert len(pairs([first, replace(first, state=PUBLISHED)], "objects", UCE, PUBLISHED, (HELD,))) == 1
    for other in (
        replace(first, state=PUBLISHED, prompts=("a", "b")),
        replace(first, state=PUBLISHED, hits=("11", "100")),
        replace(first, state=PUBLISHED, erasure="axe"),
        replace(first, state=PUBLISHED, group=ERASED),
    ):
        assert pairs([first, other], "objects", UCE, PUBLISHED, (HELD, ERASED)) == []


# The sentences


@pytest.mark.parametrize(
    ("change", "p_value", "verdict"), [(-0.2, 0.001, CONFIRMED), (-0.2, 0.3, OPEN), (0.2, 0.001, CONTRADICTED)]
)
def test_removing_more_is_a_matter_of_the_test(change: float, p_value: float, verdict: str) -> None:
    assert removal_verdict(PairedTest(change, p_value, "exact sign flips over prompts", 100)) == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((-0.04, 0.01), CONFIRMED), ((-0.2, -0.06), CONTRADICTED), ((-0.08, 0.02), OPEN), ((0.02, 0.1), CONFIRMED)],
)
def test_little_harm_is_a_matter_of_the_interval(interval: tuple[float, float], verdict: str) -> None:
    assert harm_verdict(Mean(sum(interval) / 2, interval, 100, "95 % bootstrap over prompts")) == verdict


def test_nothing_is_left_to_remove_at_the_floor() -> None:
    test = PairedTest(-0.2, 0.001, "exact sign flips over prompts", 100)
    at_floor, above = Difference(0.02, (-0.05, 0.08)), Difference(0.1, (0.02, 0.2))
    assert removal_verdict(test, at_floor) == NOTHING_LEFT
    assert removal_verdict(test, above) == CONFIRMED
    # More than UCE is more, wherever UCE is.
    assert removal_verdict(replace(test, change=0.2), at_floor) == CONTRADICTED


# Floors


def floored(erased: str, unasked: str, *, prompts: int = 8, kind: str = "styles") -> list[Row]:
    """A style that the original draws in 4 of 5 pictures, with its floor, and an edit that leaves ``erased``."""
    what = {"erasure": "ink style", "kind": kind}
    return [
        row(ORIGINAL, ERASED, ["11110"] * prompts, **what),  # type: ignore[arg-type]
        row(ORIGINAL, FLOOR, [unasked] * prompts, clip=(), distance=(), **what),  # type: ignore[arg-type]
        row(UCE, ERASED, [erased] * prompts, **what),  # type: ignore[arg-type]
        row(UCE, HELD, ["11110"] * prompts, **what),  # type: ignore[arg-type]
    ]


def test_an_excess_is_counted_picture_by_picture_of_the_same_seed() -> None:
    rows = floored("11000", "10000")
    above = excess(rows, "styles", UCE)
    assert above is not None
    assert above.value == pytest.approx(0.2)
    assert floor(rows, "styles").rate == pytest.approx(0.2)
    assert not above.complete
    assert balance(rows, "styles", UCE) == pytest.approx(harmonic_mean(0.2, 0.8))
    # Below its floor an erasure is no better than at it.
    rows = floored("00000", "10000")
    below = excess(rows, "styles", UCE)
    assert below is not None
    assert below.complete
    assert below.value == pytest.approx(-0.2)
    assert balance(rows, "styles", UCE) == pytest.approx(harmonic_mean(0.0, 0.8))
    assert excess([one for one in rows if one.group != FLOOR], "styles", UCE) is None


def test_a_floor_of_other_prompts_is_an_error() -> None:
    rows = floored("11000", "10000")
    short = replace(rows[1], prompts=rows[1].prompts[:-1], hits=rows[1].hits[:-1])
    with pytest.raises(ValueError, match="7 floors of 8 prompts"):
        excess([rows[0], short, *rows[2:]], "styles", UCE)


def test_a_sentence_says_that_an_erasure_at_its_floor_is_complete() -> None:
    rows = floored("10000", "10000")
    rows.append(replace(rows[2], state=PUBLISHED, hits=("01000",) * 8))
    sentence = removal_sentence(rows, "styles", UCE, PUBLISHED)
    assert sentence.startswith(f"styles: {NOTHING_LEFT}")
    assert sentence.count("above the floor, complete") == 2
    lines = page(rows)
    assert any(line.startswith("| floor | 20 %") for line in lines)
    shown = next(line for line in lines if line.startswith("| UCE | 20 %"))
    assert "0 (−" in shown
    assert ", complete | 80 %" in shown


def test_the_strongest_embedding_is_that_of_one_ridge_or_of_each_erasures_own() -> None:
    rows = [
        row(UCE, derived(ridge), [hits], erasure=name, clip=(), distance=())
        for name, found in {"bomb": ("111", "000"), "axe": ("000", "110")}.items()
        for ridge, hits in zip(RIDGES, found, strict=False)
    ]
    assert strongest(rows, "objects", UCE).hits == 3
    assert strongest_each(rows, "objects", UCE).hits == 5


def test_embeddings_are_held_against_the_floor_of_their_own_seeds() -> None:
    rows = floored("10000", "10000")
    weak, strong = (
        row(UCE, derived(ridge), [hits] * 8, erasure="ink style", kind="styles", clip=(), distance=())
        for ridge, hits in zip(RIDGES, ("10", "11"), strict=False)
    )
    # Half the floor's pictures of the first two seeds show it, a fifth of all five.
    prompts = rows[2].prompts
    found = regained([*rows, replace(weak, prompts=prompts), replace(strong, prompts=prompts)], "styles", UCE)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert regained(rows, "styles", UCE) is None


def test_a_style_is_erased_well_where_all_three_goals_are_met() -> None:
    rows = floored("10000", "10000")
    back = row(UCE, derived(RIDGES[0]), ["10"] * 8, erasure="ink style", kind="styles", clip=(), distance=())
    rows += [replace(back, prompts=rows[2].prompts), replace(rows[3], state=ORIGINAL)]
    (line,) = [line for line in frontier(rows, "styles", [ORIGINAL, UCE]) if line.startswith("- ")]
    assert line.startswith("- UCE: **all three** (0 points (")
    (line,) = [
        line
        for line in frontier([*rows[:-2], replace(rows[-2], hits=("11",) * 8), rows[-1]], "styles", [UCE])
        if line.startswith("- ")
    ]
    assert line.startswith("- UCE: lacks embeddings (")
    # The style that settings were chosen on does not judge them.
    assert frontier([replace(one, erasure=LOOKED_AT) for one in rows], "styles", [UCE]) == []


# The rule's regret


def test_the_regret_is_the_best_in_hindsight_less_the_tuned_one() -> None:
    rows = [replace(one, kind="objects", erasure="dagger") for one in floored("11000", "00000")]
    tuned = [replace(one, state=RECE_TUNED, hits=("11100",) * 8) for one in rows if one.group == ERASED][-1:]
    tuned += [replace(rows[3], state=RECE_TUNED)]
    # A singular editor is no candidate: it is chosen for another aim.
    robust = [replace(one, state=ROBUST, hits=(("00000",) if one.group == ERASED else ("11111",)) * 8) for one in tuned]
    assert best_of([*rows, *tuned, *robust], "objects") == (UCE, pytest.approx(harmonic_mean(0.4, 0.8)))
    lines = regrets([*rows, *tuned, *robust])
    regret = 100 * (harmonic_mean(0.4, 0.8) - harmonic_mean(0.6, 0.8))
    assert any(line.startswith("| dagger | UCE |") and line.endswith(f"| {regret:.0f} |") for line in lines)
    assert lines[-1] == f"| mean, objects, judged on | | | | **{regret:.1f}** |"
    assert regrets(rows) == []


def test_choices_that_differ_by_the_scale_of_a_prompt_are_told_as_one() -> None:
    rows = [row(RECE_TUNED, ERASED, ["0"], erasure=f"e{k}", settings=f"lamb 0.06{k}, epochs 2") for k in (31, 32)]
    rows.append(row(RECE_TUNED, ERASED, ["0"], erasure="e", settings="lamb 0.0632, accumulate True, epochs 4"))
    told = settings_of(rows, "objects", RECE_TUNED)
    assert told == "lamb 0.063, epochs 2 (2 of 3); lamb 0.063, accumulate True, epochs 4 (1 of 3)"


def test_the_change_is_the_difference_of_the_rates() -> None:
    first = row(UCE, HELD, ["11111", "11000", "10000"] * 3)
    second = replace(first, state=PUBLISHED, hits=("00000", "11000", "11111") * 3)
    found = pairs([first, second], "objects", UCE, PUBLISHED, (HELD,))
    change = detection_change(found)
    assert change.mean == pytest.approx(share([second]).rate - share([first]).rate)
    assert change.interval[0] < change.mean < change.interval[1]
    assert detection_test(found).change == pytest.approx(change.mean)


def test_nothing_measured_confirms_nothing() -> None:
    assert harm_verdict(detection_change([])) == OPEN
    assert removal_verdict(detection_test([])) == OPEN
    assert claims([]) == []


@pytest.mark.parametrize(
    ("uce", "rece", "said"),
    [
        ("11111", "00000", CONFIRMED),
        ("00000", "11111", CONTRADICTED),
        ("10101", "10101", OPEN),
        ("00000", "00000", OPEN),
    ],
)
def test_a_sentence_says_what_the_pictures_say(uce: str, rece: str, said: str) -> None:
    rows = table({UCE: [uce] * 8, PUBLISHED: [rece] * 8}, {})
    sentence = removal_sentence(rows, "objects", UCE, PUBLISHED)
    assert sentence.startswith(f"objects: {said}")
    if uce == rece == "00000":
        assert "0 of 40 pictures" in sentence
    else:
        assert all(str(share([one])) in sentence for one in rows)


def test_synonyms_count_as_erased_in_the_claim() -> None:
    rows = table({UCE: ["00000"] * 4, PUBLISHED: ["00000"] * 4}, {})
    rows += [row(UCE, SYNONYMS, ["11111"] * 6), row(PUBLISHED, SYNONYMS, ["00000"] * 6)]
    assert CONFIRMED in removal_sentence(rows, "objects", UCE, PUBLISHED)


def test_the_claims_name_every_kind_once() -> None:
    rows = table({UCE: ["11111"] * 8, PUBLISHED: ["00000"] * 8}, {})
    for state, hits in ((ORIGINAL, "11111"), (UCE, "11111"), (PUBLISHED, "10000")):
        rows.append(row(state, HELD, [hits] * 8, fid=1.0, kid=0.0))
    text = "\n".join(claims(rows))
    assert "removes more than UCE with the same scales is confirmed for objects" in text
    assert "harms little else is contradicted for objects" in text
    assert "More harm than after UCE by detections (p = 0.008)" in text
    assert "styles" not in text


def test_a_summary_joins_the_kinds() -> None:
    verdicts = {"objects": CONFIRMED, "styles": OPEN, "backgrounds": CONFIRMED}
    assert summary(verdicts) == "confirmed for objects and backgrounds, not confirmed for styles"


# The page


def test_the_page_shows_the_figures_of_the_rows(tmp_path: Path) -> None:
    rows = table({ORIGINAL: ["11111"] * 8, UCE: ["10000"] * 8}, {ORIGINAL: ["11111"] * 8, UCE: ["11110"] * 8})
    lines = page(rows)
    shown = next(line for line in lines if line.startswith("| UCE |"))
    columns = [cell.strip() for cell in shown.strip("|").split("|")]
    heading = next(line for line in lines if line.startswith("| | erased |"))
    assert len(columns) == heading.count("|") - 1
    assert [cell.split(" (")[0] for cell in columns[1:5]] == ["20 %", "–", "–", "80 %"]
    shown = [line for line in lines if line.startswith("| UCE |")][1]
    assert [cell.strip().split(" (")[0] for cell in shown.strip("|").split("|")][1:3] == ["1.5", "0.2"]
    assert "| bomb | 100 / 100 | 20 / 80 |" in lines
    path = write_page(rows, tmp_path)
    assert path.read_text(encoding="utf-8").splitlines() == lines
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing was measured"):
        results_table(tmp_path).rows()
