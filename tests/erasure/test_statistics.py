"""What prompts say as sums: the same however they were put into batches, over ranks, through a file, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.core import Evidence, Moments
from rece_lightning.erasure.encoding import EncodedPair, Pairs, Rows, gather_evidence, scatter
from rece_lightning.erasure.statistics import ConceptStatistics

WIDTHS = {"text": 6, "pooled": 3}
POSITIONS = {"text": 5, "pooled": 1}
FEW, MANY = 4, 150
"""Prompts whose rows are kept, and so many that they are added to the moments."""
SIZES = pytest.mark.parametrize("count", [FEW, MANY], ids=["rows", "moments"])


def random_pairs(count: int, seed: int = 0) -> Pairs:
    """Erased prompts with weights 1 and 2; the subject ends at position 1 of the concept, at 2 of the target."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: [
            EncodedPair(
                torch.randn(POSITIONS[name], width, generator=draw),
                torch.randn(POSITIONS[name], width, generator=draw),
                min(1, POSITIONS[name] - 1),
                min(2, POSITIONS[name] - 1),
                1.0 + number % 2,
            )
            for number in range(count)
        ]
        for name, width in WIDTHS.items()
    }


def random_rows(count: int, seed: int = 0) -> Rows:
    draw = torch.Generator().manual_seed(1000 + seed)
    return {
        name: list(torch.randn(count, POSITIONS[name], width, generator=draw).unbind())
        for name, width in WIDTHS.items()
    }


def part(items: Any, first: int, last: int | None = None) -> Any:
    """Some of the prompts, in every text space."""
    return {name: rows[first:last] for name, rows in items.items()}


def counted(count: int, seed: int = 0, **settings: Any) -> ConceptStatistics:
    """Prompts of every kind, ``count`` of each."""
    statistics = ConceptStatistics(WIDTHS, **settings)
    statistics.update(
        random_pairs(count, seed), random_rows(count, seed), random_rows(count, seed + 1), prompts=["one"]
    )
    statistics.join(random_pairs(count, seed + 2), random_pairs(count, seed + 3), random_rows(count, seed + 4))
    statistics.hold({name: rows[0] for name, rows in random_rows(1, seed + 5).items()})
    return statistics


def tensors(statistics: ConceptStatistics) -> dict[str, Tensor]:
    """All of the state under one name each."""
    state = statistics.state_dict()
    found = {f"{space}/{name}": tensor for space, own in state["spaces"].items() for name, tensor in own.items()}
    return found if state["probe"] is None else {**found, "probe": state["probe"]["embedding"]}


def said(evidence: Evidence) -> dict[str, Tensor]:
    """The matrices of the evidence under one name each."""
    found: dict[str, Tensor] = {}
    for name in ("first", "whole"):
        found |= {f"{name}.{key}": tensor for key, tensor in vars(getattr(evidence, name)).items()}
    if evidence.joined is not None:
        for name in ("first", "whole", "found"):
            found |= {f"joined.{name}.{key}": one for key, one in vars(getattr(evidence.joined, name)).items()}
        found["joined.preserved"] = evidence.joined.preserved
    for name in ("held_out", "invariants"):
        if getattr(evidence, name) is not None:
            found[name] = getattr(evidence, name)
    return found


def assert_same(
    found: ConceptStatistics, wanted: ConceptStatistics, compare: Callable[[Tensor, Tensor], None] | None = None
) -> None:
    """The evidence in every text space, bit for bit unless told otherwise."""
    theirs = wanted.evidence()
    for space, own in found.evidence().items():
        assert own.prompts == theirs[space].prompts
        assert (own.first_rows is None) == (theirs[space].first_rows is None)
        assert (own.joined is None) == (theirs[space].joined is None)
        one, other = said(own), said(theirs[space])
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            if compare is None:
                assert torch.equal(tensor, other[key]), (space, key)
            else:
                compare(tensor, other[key])


def near(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-10)


# Counting


@given(count=st.integers(1, 200), preserved=st.integers(0, 150), cut=st.integers(1, 64), seed=st.integers(0, 99))
def test_sums_are_those_of_all_rows_whatever_the_batches(count: int, preserved: int, cut: int, seed: int) -> None:
    pairs, others = random_pairs(count, seed), random_rows(preserved, seed)
    held_out = {name: [2 * one for one in rows[: preserved // 2]] for name, rows in others.items()}
    statistics = ConceptStatistics(WIDTHS)
    for first in range(0, count, cut):
        statistics.update(part(pairs, first, first + cut), prompts=["prompt"])
    for first in range(0, preserved, cut):
        statistics.update(preserved=part(others, first, first + cut))
        statistics.update(held_out=part(held_out, first, first + cut))
    for name, found in statistics.evidence().items():
        width = WIDTHS[name]
        wanted = gather_evidence(pairs[name], scatter(others[name], width, "cpu"), "aligned", "cpu")
        assert found.prompts == wanted.prompts == count
        assert (found.first_rows is None) == (wanted.first_rows is None)
        assert found.joined is None
        for moments in ("first", "whole"):
            for key, matrix in vars(getattr(wanted, moments)).items():
                near(getattr(getattr(found, moments), key), matrix)
        # Of the held-out prompts, of the preserved ones where there are none.
        rows = held_out[name] or others[name]
        measured = torch.cat(rows) if rows else torch.zeros(0, width)
        assert (found.held_out is None) == (not held_out[name])
        drift = found.whole.preserved if found.held_out is None else found.held_out
        near(drift, measured.double().mT @ measured.double())


@given(count=st.integers(0, 150), cut=st.integers(1, 64), seed=st.integers(0, 99))
def test_what_joins_is_in_the_evidence_whatever_the_batches(count: int, cut: int, seed: int) -> None:
    """Words are erased as prompts are, what attacks found counts at every position, neighbours are preserved."""
    words, found, neighbours = random_pairs(count, seed + 1), random_pairs(count, seed + 2), random_rows(count, seed)
    statistics = ConceptStatistics(WIDTHS).update(random_pairs(2, seed))
    for first in range(0, count, cut):
        statistics.join(words=part(words, first, first + cut))
        statistics.join(found=part(found, first, first + cut))
        statistics.join(neighbours=part(neighbours, first, first + cut))
    for name, evidence in statistics.evidence().items():
        if not count:
            assert evidence.joined is None
            continue
        assert evidence.joined is not None
        own = gather_evidence(words[name], scatter([], WIDTHS[name], "cpu"), "aligned", "cpu")
        sent = gather_evidence(found[name], scatter([], WIDTHS[name], "cpu"), "all", "cpu")
        for moments, wanted in (("first", own.first), ("whole", own.whole), ("found", sent.whole)):
            for key, matrix in vars(wanted).items():
                near(getattr(getattr(evidence.joined, moments), key), matrix)
        near(evidence.joined.preserved, scatter(neighbours[name], WIDTHS[name], "cpu"))
        # The concepts' own prompts are counted apart.
        assert evidence.prompts == 2


def test_a_kind_that_joins_alone_joins() -> None:
    zero = Moments.zeros(WIDTHS["text"])
    for given_, named in (
        ({"words": random_pairs(3)}, ("first", "whole")),
        ({"found": random_pairs(3)}, ("found",)),
        ({"neighbours": random_rows(3)}, ("preserved",)),
    ):
        statistics = ConceptStatistics(WIDTHS).update(random_pairs(2))
        statistics.join(**given_)
        joined = statistics.evidence()["text"].joined
        assert joined is not None
        for name in ("first", "whole", "found"):
            assert torch.equal(getattr(joined, name).erased, zero.erased) is (name not in named)
        assert torch.equal(joined.preserved, zero.preserved) is ("preserved" not in named)


def test_an_editor_with_a_map_a_layer_keeps_every_prompt() -> None:
    statistics = counted(MANY, keep_prompts=True)
    for name, evidence in statistics.evidence().items():
        assert len(evidence.first_prompts) == len(evidence.whole_prompts) == MANY
        total = sum((one.erased for one in evidence.whole_prompts), torch.zeros(WIDTHS[name], WIDTHS[name]).double())
        near(total, evidence.whole.erased)


def test_nothing_to_erase_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.concepts: no prompt was encoded"):
        ConceptStatistics(WIDTHS).update(preserved=random_rows(2)).evidence()


# Through a file


@SIZES
@pytest.mark.parametrize("keep_prompts", [False, True], ids=["sums", "prompts"])
def test_what_was_stored_is_taken_back_bit_for_bit(count: int, keep_prompts: bool) -> None:
    """And goes on so: what is added afterwards is added to the same bits."""
    whole = counted(count, keep_prompts=keep_prompts)
    state = tensors(whole)
    assert ("text/erased.first.erased" in state) is (count == MANY and not keep_prompts)
    again = ConceptStatistics(WIDTHS, keep_prompts=keep_prompts).take(whole.state_dict())
    assert again.probe is not None
    assert again.probe["prompt"] == "one"
    taken = tensors(again)
    assert taken.keys() == state.keys()
    assert all(torch.equal(tensor, taken[name]) for name, tensor in state.items())
    assert again.prompts == count
    assert_same(again, whole)
    for statistics in (whole, again):
        statistics.update(random_pairs(70, 50), random_rows(70, 51), random_rows(70, 52))
        statistics.join(random_pairs(70, 53), random_pairs(70, 54), random_rows(70, 55))
    assert again.prompts == count + 70
    assert_same(again, whole)


def test_a_state_shares_no_memory_with_what_goes_on() -> None:
    statistics = counted(FEW)
    state = statistics.state_dict()
    before = {name: tensor.clone() for name, tensor in state["spaces"]["text"].items()}
    statistics.update(random_pairs(MANY, 7), random_rows(MANY, 8))
    statistics.evidence()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state["spaces"]["text"].items())


@SIZES
def test_taken_into_what_was_counted_it_is_added(count: int) -> None:
    pairs, others, held_out = random_pairs(2 * count), random_rows(2 * count, 1), random_rows(2 * count, 2)
    halves = [
        ConceptStatistics(WIDTHS).update(
            part(pairs, first, first + count),
            part(others, first, first + count),
            part(held_out, first, first + count),
            prompts=[f"prompt {first}"],
        )
        for first in (0, count)
    ]
    joined = [random_pairs(count, 5), random_pairs(count, 6), random_rows(count, 7)]
    halves[1].join(*joined)
    both = halves[0].take(halves[1].state_dict())
    whole = ConceptStatistics(WIDTHS).update(pairs, others, held_out)
    whole.join(*joined)
    assert both.prompts == 2 * count
    assert both.probe is not None
    assert both.probe["prompt"] == "prompt 0"
    assert_same(both, whole, near)


Damage = Callable[[dict[str, Any]], object]


def put(name: str, change: Callable[[Tensor], Any]) -> Damage:
    """Put something else in the place of a tensor."""

    def damage(state: dict[str, Any]) -> None:
        space = state["spaces"]["text"]
        space[name] = change(space[name])

    return damage


def nan(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[(0,) * changed.ndim] = torch.nan
    return changed


@pytest.mark.parametrize(
    ("count", "damage", "message"),
    [
        (FEW, put("erased.concept", nan), r"text\.erased holds NaN"),
        (MANY, put("erased.whole.cross", nan), r"text\.erased\.whole\.cross holds NaN"),
        (FEW, put("preserved.rows", nan), r"text\.preserved\.rows holds NaN"),
        (MANY, put("held_out.moments", nan), r"text\.held_out\.moments holds NaN"),
        (FEW, put("invariants", nan), r"text\.invariants holds NaN"),
        (FEW, put("erased.target", lambda rows: rows[:, :2]), r"text\.erased is \[4, 2, 6\], not \[4, 5, 6\]"),
        (FEW, put("erased.concept", lambda rows: rows[0]), r"text\.erased\.concept holds no rows"),
        (MANY, put("erased.first.erased", lambda one: one[:5]), r"first\.erased is \[5, 6\], not \[6, 6\]"),
        (MANY, put("preserved.moments", lambda one: one[0]), r"preserved\.moments is \[6\], not \[6, 6\]"),
        (FEW, put("neighbours.rows", lambda rows: rows[..., :3]), r"neighbours\.rows is \[4, 5, 3\], not \[4, 5, 6\]"),
        (FEW, put("invariants", lambda rows: rows[:, :3]), r"invariants is \[5, 3\], not \[5, 6\]"),
        (FEW, put("words.concept", Tensor.half), r"text\.words is stored as float16"),
        (MANY, put("found.whole.target", Tensor.float), r"found\.whole\.target is stored as float32"),
        (FEW, put("erased.weight", Tensor.float), r"erased\.weight is stored as float32"),
        (FEW, put("erased.last", Tensor.double), r"a position in .*text\.erased cannot be"),
        (FEW, put("erased.last", lambda one: one + 5), r"a position in .*text\.erased cannot be"),
        (FEW, put("words.weight", Tensor.neg), r"a weight in .*text\.words cannot be"),
        (FEW, put("erased.concept", lambda _: "rows"), r"text\.erased"),
        (FEW, put("held_out.rows", lambda _: "rows"), "statistics"),
        (FEW, put("erased.count", Tensor.neg), r"text\.erased\.count"),
        (FEW, put("preserved.count", lambda _: torch.tensor([1, 2])), r"text\.preserved\.count"),
        (FEW, put("preserved.count", Tensor.double), r"text\.preserved\.count"),
        (FEW, lambda state: state["spaces"]["text"].pop("erased.count"), "damaged.*count"),
        (FEW, lambda state: state["spaces"]["text"].pop("erased.target"), "damaged.*target"),
        (MANY, lambda state: state["spaces"]["text"].pop("erased.whole.target"), r"erased\.whole\.target is NoneType"),
        (FEW, lambda state: state["spaces"].pop("pooled"), r"is of the text spaces \['text'\], not"),
        (FEW, lambda state: state["spaces"].update(third={}), r"is of the text spaces \['pooled', 'text', 'third'\]"),
        (FEW, lambda state: state["spaces"]["text"].update(more=torch.ones(1)), "holds 'more', which nothing reads"),
        (FEW, lambda state: state["spaces"]["text"].update({"words.more": torch.ones(1)}), r"text\.words holds 'more'"),
        (FEW, lambda state: state.pop("spaces"), "damaged.*spaces"),
        (FEW, lambda state: state.pop("probe"), "damaged.*probe"),
        (FEW, lambda state: state["probe"].update(prompt=3), r"probe\.prompt is no text"),
        (FEW, lambda state: state["probe"].update(embedding=torch.full((5, 6), torch.inf)), r"probe holds NaN"),
        (FEW, lambda state: state["probe"].update(embedding=torch.ones(5, 7)), r"probe is \[5, 7\], not \[5, 6\]"),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused_and_takes_nothing(count: int, damage: Damage, message: str) -> None:
    state = counted(count).state_dict()
    damage(state)
    statistics = counted(2, seed=9)
    before = tensors(statistics)
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: .*rece\.statistics.*; give a checkpoint") as refused:
        statistics.take(state)
    assert refused.match(message)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(statistics).items())


@pytest.mark.parametrize("state", [None, "text", {}, {"spaces": None, "probe": None}, {"spaces": [], "probe": None}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"rece\.statistics"):
        ConceptStatistics(WIDTHS).take(state)


# Taken back, and apart


def test_rows_that_are_left_out_were_never_there() -> None:
    pairs = random_pairs(FEW)
    statistics = ConceptStatistics(WIDTHS).update(pairs, random_rows(FEW))
    statistics.subtract(places=[0, 2])
    left = {name: [rows[1], rows[3]] for name, rows in pairs.items()}
    assert statistics.prompts == 2
    assert statistics.has_all_pairs
    assert_same(statistics, ConceptStatistics(WIDTHS).update(left, random_rows(FEW)))


def test_moments_that_are_subtracted_are_those_of_the_others_to_rounding() -> None:
    pairs, others = random_pairs(MANY), random_rows(MANY)
    statistics = ConceptStatistics(WIDTHS).update(pairs, others)
    assert not statistics.has_all_pairs
    statistics.subtract(part(pairs, 100))
    assert statistics.prompts == 100
    assert_same(statistics, ConceptStatistics(WIDTHS).update(part(pairs, 0, 100), others), near)


@SIZES
def test_a_copy_leaves_the_original_alone(count: int) -> None:
    statistics = counted(count)
    statistics.batches.append(3)
    before = tensors(statistics)
    other = statistics.copy()
    assert_same(other.copy(), counted(count))
    other.subtract(part(random_pairs(count), 0, 2), places=[0, 1])
    other.update(random_pairs(MANY, 7), random_rows(MANY, 8), random_rows(MANY, 9))
    other.join(random_pairs(MANY, 10), random_pairs(MANY, 11), random_rows(MANY, 12))
    other.hold({name: rows[0] for name, rows in random_rows(1, 13).items()})
    other.batches.append(4)
    other.evidence()
    after = tensors(statistics)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert (statistics.prompts, other.prompts) == (count, count - 2 + MANY)
    assert statistics.batches == [3]
    assert_same(statistics, counted(count))


# Over ranks


def of_ranks(shares: Sequence[ConceptStatistics]) -> list[ConceptStatistics]:
    """What every rank holds after its reduction; the ranks are asked one after the other for what they would send."""
    sent: list[list[list[Tensor]]] = []
    for share in shares:
        sent.append([])
        share.copy().reduce(lambda own, to=sent[-1]: to.append(list(own)) or list(own))  # type: ignore[misc]
    for share in shares:
        spaces = iter(zip(*sent, strict=True))
        share.reduce(lambda own, spaces=spaces: [sum(same[1:], same[0]) for same in zip(*next(spaces), strict=True)])  # type: ignore[misc]
    return list(shares)


@SIZES
def test_two_halves_reduced_are_the_whole(count: int) -> None:
    pairs, others, held_out = random_pairs(2 * count), random_rows(2 * count, 1), random_rows(2 * count, 2)
    joined = [random_pairs(count, 5), random_pairs(count, 6), random_rows(count, 7)]
    halves = []
    for first in (0, count):
        half = ConceptStatistics(WIDTHS, shared=True)
        half.update(*(part(one, first, first + count) for one in (pairs, others, held_out)))
        half.join(*joined)  # every rank encodes all that joins
        assert half.shared
        assert not half.has_all_pairs
        halves.append(half)
    one, other = of_ranks(halves)
    whole = ConceptStatistics(WIDTHS).update(pairs, others, held_out)
    whole.join(*joined)
    assert one.prompts == other.prompts == 2 * count
    assert not one.shared
    assert_same(one, other)
    theirs = whole.evidence()
    for name, evidence in one.evidence().items():
        found, wanted = said(evidence), said(theirs[name])
        assert found.keys() == wanted.keys()
        for key, tensor in found.items():
            near(tensor, wanted[key])
    # A second call, of a run that goes on, adds nothing.
    before = tensors(one)
    one.reduce(lambda own: [2 * tensor for tensor in own])
    assert all(torch.equal(tensor, before[key]) for key, tensor in tensors(one).items())


def test_a_rank_that_counted_nothing_has_what_the_other_counted() -> None:
    nothing, all_of_it = ConceptStatistics(WIDTHS, shared=True), ConceptStatistics(WIDTHS, shared=True)
    all_of_it.update(random_pairs(FEW), random_rows(FEW))
    one, other = of_ranks([nothing, all_of_it])
    assert one.prompts == other.prompts == FEW
    assert_same(one, other)
    assert one.evidence()["text"].held_out is None


def test_one_process_reduces_nothing() -> None:
    statistics = counted(FEW)

    def refused(own: Sequence[Tensor]) -> list[Tensor]:
        raise AssertionError("there is nobody to sum with")

    assert_same(statistics.reduce(refused), counted(FEW))
