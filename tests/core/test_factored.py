"""Matrices that are never formed: the operations against the matrices themselves, and a whole erasure against the same
one on formed matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rece_lightning.core import UCE, Derivation, Eraser, Evidence, Gram, Method, Moments, RowPairs
from rece_lightning.core.budget import Reach
from rece_lightning.core.certificate import certify
from rece_lightning.core.diagnostics import map_figures, remaining_answer
from rece_lightning.core.embedding_map import EmbeddingMap, stored
from rece_lightning.core.errors import BaseModelError, ConfigurationError
from rece_lightning.core.factored import WIDEST_FORMED, Factored, pays, trace_product
from rece_lightning.core.low_rank import error_curve, low_rank_of

WIDTH, OUTPUTS = 37, 19


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def formed(matrix: Tensor) -> Tensor:
    if not isinstance(matrix, Factored):
        return matrix
    own = matrix.left @ matrix.right
    own.diagonal().add_(matrix.scale)
    return own


@pytest.mark.parametrize("scale", [0.0, 1.5])
@pytest.mark.parametrize("other_scale", [0.0, -2.0])
def test_operations_are_those_of_the_matrices(scale: float, other_scale: float) -> None:
    one = Factored(draw(0, WIDTH, 2), draw(1, 2, WIDTH), scale)
    other = Factored(draw(2, WIDTH, 5), draw(3, 5, WIDTH), other_scale)
    a, b, rows = formed(one), formed(other), draw(4, 3, WIDTH)
    whole = draw(5, WIDTH, WIDTH)
    in_factors = [
        (one @ other, a @ b), (other @ one, b @ a), (one + other, a + b), (one - other, a - b), (one.mT, a.mT),
        (3 * one, 3 * a), (one * 0.5, 0.5 * a), (one.mT @ other @ one, a.mT @ b @ a), (one.to("cpu"), a),
    ]  # fmt: skip
    for found, expected in in_factors:
        assert isinstance(found, Factored)
        torch.testing.assert_close(formed(found), expected)
    tensors = [
        (rows @ one, rows @ a), (one @ rows.mT, a @ rows.mT), (whole + one, whole + a), (one - whole, a - whole),
        (one @ whole, a @ whole), (one.trace(), a.trace()), (one.diagonal(), a.diagonal()),
    ]  # fmt: skip
    for found, expected in tensors:
        assert not isinstance(found, Factored)
        torch.testing.assert_close(found, expected)
    for left, right, products in ((one, other, a @ b), (one, whole, a @ whole), (whole, other, whole @ b)):
        assert trace_product(left, right) == pytest.approx(float(products.trace()), rel=1e-12)
    assert (tuple(one.shape), len(one), one.dtype) == ((WIDTH, WIDTH), WIDTH, torch.float64)


def test_a_product_has_the_smaller_rank() -> None:
    narrow, wide = Factored.of_rows(draw(0, 2, WIDTH)), Factored.of_rows(draw(1, 9, WIDTH))
    assert [one.left.shape[1] for one in (narrow @ wide, wide @ narrow)] == [2, 2]


def test_what_needs_the_entries_is_refused_in_one_sentence() -> None:
    one = Factored.identity(12_345)
    for needs in (lambda: one.abs(), lambda: torch.linalg.eigh(one), lambda: one * torch.ones(12_345)):
        with pytest.raises(ConfigurationError, match="12,345 × 12,345") as refused:
            needs()
        assert str(refused.value).count(". ") == 0


def test_only_wide_spaces_with_fewer_outputs_are_kept_so() -> None:
    assert [pays(15_360, 6144), pays(12_288, 4096), pays(7680, 3072)] == [True] * 3
    assert [pays(WIDEST_FORMED, 3072), pays(5120, 10_240)] == [False] * 2


class Case:
    """A model with fewer outputs than inputs, few rows, and both forms of everything."""

    def __init__(self, readers: int = 1) -> None:
        weights = [(str(place), draw(place, OUTPUTS // readers, WIDTH)) for place in range(readers)]
        self.grams = Gram.of(weights), Gram.in_factors(weights)
        size = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0], dtype=torch.float64)
        self.whole = RowPairs(draw(10, 5, WIDTH), draw(11, 5, WIDTH), size)
        self.first = RowPairs(self.whole.concept[:3], self.whole.target[:3], size[:3])
        self.preserved, self.held_out = draw(12, 7, WIDTH), draw(13, 4, WIDTH)

    def evidence(self, *, in_factors: bool, rows: bool = True) -> Evidence:
        form = Factored.of_rows if in_factors else lambda one: one.mT @ one
        preserved = form(self.preserved)
        return Evidence(
            self.first.moments(preserved),
            self.whole.moments(preserved),
            first_rows=self.first if rows else None,
            whole_rows=self.whole if rows else None,
            held_out=form(self.held_out),
        )


DERIVATIONS = [
    Derivation(0.1), Derivation(1e-3), Derivation(0.1, "standard"), Derivation(0.1, "surrogate", "second"),
    Derivation(0.1, "surrogate", "both"),
]  # fmt: skip


def assert_same_figures(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A singular value near zero knows few digits.
        precision = 1e-3 if name == "map_condition" else 1e-6
        assert found[name] == pytest.approx(value, rel=precision, abs=1e-9), name


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("derivation", DERIVATIONS, ids=str)
def test_an_erasure_in_factors_is_the_formed_one_to_rounding(
    derivation: Derivation, accumulate: bool, readers: int
) -> None:
    case = Case(readers)
    method = Method(UCE(1.5, 0.3, 0.2), UCE(), derivation=derivation, accumulate=accumulate)
    formed_one = Eraser(method, case.evidence(in_factors=False), case.grams[0])
    factored = Eraser(method, case.evidence(in_factors=True), case.grams[1])
    moments_only = Eraser(method, case.evidence(in_factors=True, rows=False), case.grams[1])
    for _ in range(4):
        records = formed_one.step(), factored.step()
        moments_only.step()
        assert isinstance(stored(factored.maps), Factored)
        expected_map = stored(formed_one.maps)
        rounding = 1e-9 * float(expected_map.abs().max())
        for one in (factored, moments_only):
            torch.testing.assert_close(formed(stored(one.maps)), expected_map, rtol=0, atol=rounding)
        expected, found = formed_one.measure(records[0]), factored.measure(records[1])
        assert_same_figures(found, expected)
    weight = draw(20, OUTPUTS, WIDTH).float()
    edited, same = (one.maps.applied_to(weight, 0) for one in (factored, formed_one))
    torch.testing.assert_close(edited, same, rtol=1e-5, atol=1e-6 * float(same.abs().max()))


def test_rows_of_more_prompts_than_the_width_meet_a_gram_in_factors() -> None:
    """Their moments are formed then, and so is the map; ``G`` stays as it is."""
    case = Case()
    evidence = case.evidence(in_factors=False)
    plain = replace(evidence, first_rows=None, whole_rows=None)
    erasers = [Eraser(Method(), plain, gram) for gram in case.grams]
    for _ in range(3):
        records = [eraser.step() for eraser in erasers]
        torch.testing.assert_close(stored(erasers[1].maps), stored(erasers[0].maps), rtol=0, atol=1e-9)
        expected, found = (eraser.measure(record) for eraser, record in zip(erasers, records, strict=True))
        assert_same_figures({**found, "map_rank": expected["map_rank"]}, expected)  # of rounding alone beyond this


def erased(epochs: int = 3) -> tuple[Case, Eraser, Eraser]:
    case = Case()
    return case, *(  # type: ignore[return-value]
        Eraser(Method(), case.evidence(in_factors=place == 1), gram).run(epochs)
        for place, gram in enumerate(case.grams)
    )


@pytest.mark.parametrize("derivation", DERIVATIONS, ids=str)
def test_derivations_are_the_same_as_matrices(derivation: Derivation) -> None:
    case, *erasers = erased()
    plain, factored = (derivation(one.gram, one.maps) for one in erasers)
    torch.testing.assert_close(formed(factored.of_concept), plain.of_concept)
    assert (factored.of_target is None) == (plain.of_target is None)
    if plain.of_target is not None:
        torch.testing.assert_close(formed(factored.of_target), plain.of_target)
    rows, target = case.whole.concept, case.whole.target
    torch.testing.assert_close(factored.apply(rows, target), plain.apply(rows, target))


def test_what_an_attacker_reaches_is_the_same() -> None:
    case, *erasers = erased()
    plain, factored = (Reach.of(one.gram, one.maps) for one in erasers)
    torch.testing.assert_close(factored.strengths, plain.strengths)
    rows = case.whole.concept
    for norm in (0.5, 2.0, math.inf):
        own, other = factored.embeddings(rows), plain.embeddings(rows)
        torch.testing.assert_close(own.residual(norm), other.residual(norm))
        torch.testing.assert_close(
            factored.attack(rows, own.multiplier(norm)), plain.attack(rows, other.multiplier(norm)), rtol=0, atol=1e-6
        )
        moments = Moments.of(rows, rows).erased
        torch.testing.assert_close(factored.moments(moments).residual(norm), plain.moments(moments).residual(norm))


@pytest.mark.parametrize("stored_as", [None, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("budget", [0.25, 1.0])
def test_certificates_are_the_same_but_for_what_rounding_takes(budget: float, stored_as: torch.dtype | None) -> None:
    case, *erasers = erased()
    rows, target = case.whole.concept[:, None], case.whole.target[:, None]
    plain, factored = (certify(one.gram, one.maps, rows, target, budget, stored=stored_as) for one in erasers)
    torch.testing.assert_close(factored.bound, plain.bound, rtol=1e-6, atol=1e-9)
    assert bool((factored.error > 0).all())
    assert bool((factored.bound <= factored.bound + factored.gap).all())
    # What is found within the budget is never nearer than what the certificate says, weights as they are stored.
    weight = Case().grams[1].total.right  # type: ignore[attr-defined]
    edited = erasers[1].maps.exactly(weight)
    edited = edited if stored_as is None else edited.to(stored_as).double()
    reach = Reach.of(erasers[1].gram, erasers[1].maps)
    best = reach.attack(rows[:, 0], reach.embeddings(rows[:, 0]).multiplier(budget))
    missed = (best @ edited.mT - rows[:, 0] @ weight.mT).square().sum(-1)
    assert bool((missed >= factored.bound).all())


def test_factors_of_the_change_are_the_same() -> None:
    _, *erasers = erased()
    (plain,), (factored,) = (low_rank_of(one.maps, one.gram) for one in erasers)
    assert factored.rank == plain.rank
    torch.testing.assert_close(error_curve([factored]), error_curve([plain]), rtol=1e-5, atol=1e-9)
    weight = erasers[1].gram.total.right  # type: ignore[attr-defined]
    for rank in (1, 3, plain.rank):
        own, other = (weight @ up @ down for up, down in (factored.factors(rank), plain.factors(rank)))
        torch.testing.assert_close(own, other, rtol=0, atol=1e-8)
    torch.testing.assert_close(factored.down @ factored.down.mT, torch.eye(factored.rank, dtype=torch.float64))


def test_other_figures_are_the_same() -> None:
    case, plain, factored = erased()
    assert remaining_answer(factored.gram, factored.maps, case.evidence(in_factors=True).whole) == pytest.approx(
        remaining_answer(plain.gram, plain.maps, case.evidence(in_factors=False).whole)
    )
    identity = map_figures(EmbeddingMap(Factored.identity(WIDTH)))
    assert (identity.change_norm, identity.rank, identity.condition) == (0.0, 0, 1.0)


def test_the_state_holds_factors_and_gives_back_the_same_bits() -> None:
    _, _, eraser = erased()
    state = eraser.state_dict()
    assert set(state) == {"map_left", "map_right", "epoch"}
    again = Eraser.from_state(state, eraser.method, eraser.evidence, eraser.gram)
    assert torch.equal(stored(again.maps).left, stored(eraser.maps).left)  # type: ignore[attr-defined]
    other = Gram.in_factors([("", 2 * draw(0, OUTPUTS, WIDTH))])
    moved = Eraser.from_state(state, eraser.method, eraser.evidence, other)
    assert torch.equal(stored(moved.maps).right, stored(eraser.maps).right)  # type: ignore[attr-defined]
    anew = Eraser.from_state(state, eraser.method, eraser.evidence, other, reuse_map=False)
    assert not torch.equal(stored(anew.maps).right, stored(eraser.maps).right)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Method(UCE(lamb=0.0)), "lamb"),
        (Method(derivation=Derivation(0.1, "surrogate", "first")), "derivation.scale"),
    ],
)
def test_singular_systems_are_refused_as_ever(method: Method, says: str) -> None:
    case = Case()
    for place, gram in enumerate(case.grams):
        with pytest.raises(ConfigurationError, match=says):
            Eraser(method, case.evidence(in_factors=place == 1), gram).run(2)


def test_damaged_weights_are_named() -> None:
    with pytest.raises(BaseModelError, match="entry holds NaN"):
        Gram.in_factors([("entry", torch.full((2, 5), math.nan))])
    with pytest.raises(BaseModelError, match="5 wide"):
        Gram.in_factors([("one", torch.ones(2, 4)), ("two", torch.ones(2, 5))])


class Sizes(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that anything within the block made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(one, Tensor) and not isinstance(one, Factored):
                self.largest = max(self.largest, one.untyped_storage().nbytes() // one.element_size())
        return found


def test_nothing_is_formed_that_is_as_large_as_the_map() -> None:
    width, outputs, rows = 15_360, 48, 10
    gram = Gram.in_factors([("context_embedder.weight", draw(0, outputs, width))])
    pairs = RowPairs(draw(1, rows, width), draw(2, rows, width), torch.ones(rows, dtype=torch.float64))
    with Sizes() as sizes:
        preserved = Factored.of_rows(draw(3, rows, width))
        whole = pairs.moments(preserved)
        eraser = Eraser(Method(), Evidence(whole, whole, first_rows=pairs, whole_rows=pairs), gram)
        for _ in range(3):
            record = eraser.step()
        figures = eraser.measure(record)
        low_rank_of(eraser.maps, gram)
    assert figures["map_rank"] == 3 * rows
    assert 0 < sizes.largest < 100 * width
