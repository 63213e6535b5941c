"""Settings and systems that cannot be used are refused by name, with what to do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.core import UCE, Derivation, EmbeddingMap, Gram, LayerMaps, Moments, NullSpace, TensorUCE
from rece_lightning.core.diagnostics import regeneration_residual
from rece_lightning.core.editors.tensor import edit_tensor
from rece_lightning.core.editors.uce import edit
from rece_lightning.core.errors import ConfigurationError, ReceError
from tests.helpers.problems import core_maps, random_problem, random_rows

shapes = st.tuples(st.integers(2, 24), st.integers(0, 2**20), st.floats(-6, 6))


def rows_of(width: int, count: int, seed: int, exponent: float) -> torch.Tensor:
    return 10**exponent * random_rows(count, width, "independent", torch.Generator().manual_seed(seed))


@given(shape=shapes, missing=st.integers(1, 3), preserve_scale=st.sampled_from([0.0, 0.5]))
def test_lamb_0_is_refused_where_the_rows_do_not_span_the_width(
    shape: tuple[int, int, float], missing: int, preserve_scale: float
) -> None:
    """However the rounding falls: one direction short is enough, at any size of the embeddings."""
    width, seed, exponent = shape
    rows = rows_of(width, max(width - missing, 1), seed, exponent)
    preserved = rows[:1]
    moments = Moments.of(rows, rows.flip(0)) + Moments.preserving(preserved)
    with pytest.raises(ConfigurationError, match=r"singular.*editor's lamb"):
        edit(moments, UCE(1.0, preserve_scale, 0.0))
    if exponent > -2:
        edit(moments, UCE(1.0, preserve_scale, 1e-3 * 10 ** (2 * exponent)))


@given(shape=shapes, keeping=st.booleans())
def test_lamb_0_is_accepted_where_the_rows_span_the_width(shape: tuple[int, int, float], keeping: bool) -> None:
    """And then concepts that are as many as the width go to their targets exactly."""
    width, seed, exponent = shape
    rows = rows_of(width, 3 * width, seed, exponent)
    concept, target = rows[:width], rows[width : 2 * width]
    if keeping:
        # A few concepts and enough that is preserved.
        step = edit(Moments.of(concept[:1], target[:1]) + Moments.preserving(rows), UCE(1.0, 0.1, 0.0))
        assert torch.isfinite(step.matrix).all()
    else:
        step = edit(Moments.of(rows, torch.cat([target, concept, rows[2 * width :]])), UCE(1.0, 0.0, 0.0))
        assert torch.isfinite(step.matrix).all()


def test_without_lamb_independent_concepts_reach_their_targets() -> None:
    problem = random_problem(4, width=5, tokens=(5,), preserved=0)
    step = edit(problem.moments, UCE(1.0, 0.0, 0.0))
    torch.testing.assert_close(step.apply_to_embeddings(problem.rows), problem.target_rows, rtol=1e-8, atol=1e-8)


def test_lamb_0_is_refused_by_the_tensor_editor_too() -> None:
    problem = random_problem(1, width=9, tokens=(3,), preserved=0)
    maps = LayerMaps.identity(len(problem.weights), problem.width)
    with pytest.raises(ConfigurationError, match="editor's lamb"):
        edit_tensor(problem.prompts, problem.preserving.preserved, problem.gram, maps, TensorUCE(lamb=0.0))


@given(shape=shapes, lost=st.integers(1, 2), layered=st.booleans())
def test_surrogate_first_is_refused_on_a_map_that_lost_rank(
    shape: tuple[int, int, float], lost: int, layered: bool
) -> None:
    width, seed, exponent = shape
    weight = rows_of(width, width + 4, seed, exponent)
    gram = Gram.of([("layer", weight)], keep_layers=True)
    directions = torch.linalg.qr(rows_of(width, min(lost, width - 1), seed + 1, 0).mT).Q
    matrix = torch.eye(width, dtype=torch.float64) - directions @ directions.mT
    maps = LayerMaps(matrix[None]) if layered else EmbeddingMap(matrix)
    with pytest.raises(ConfigurationError, match=r"singular.*'surrogate' with 'first'"):
        Derivation(0.1, "surrogate", "first")(gram, maps)
    # Every other regularizer has a ridge of its own and goes on, for weights and λ of an ordinary size.
    gram, scale = Gram.of([("layer", weight / 10**exponent)], keep_layers=True), 0.1
    for regularizer, items in (("norm", "both"), ("standard", "both"), ("surrogate", "second"), ("surrogate", "both")):
        derivation = Derivation(scale, regularizer, items)(gram, maps)
        assert torch.isfinite(derivation.of_concept).all()


def test_surrogate_first_is_refused_where_the_layers_do_not_see_every_direction() -> None:
    problem = random_problem(1, width=12, outs=(4, 5))
    with pytest.raises(ConfigurationError, match="singular"):
        Derivation(0.1, "surrogate", "first")(problem.gram, EmbeddingMap.identity(12))


NO_NUMBERS = [math.nan, math.inf, -math.inf, -0.1, "0.1", None, True]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 0.0])
def test_a_derivations_scale_that_is_not_positive_is_refused(value: object) -> None:
    for regularizer in ("norm", "standard", "surrogate"):
        with pytest.raises(ConfigurationError, match=r"^derivation\.scale: .*greater than 0"):
            Derivation(value, regularizer)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("field", ["erase_scale", "preserve_scale", "lamb"])
@pytest.mark.parametrize("kind", [UCE, TensorUCE, NullSpace])
def test_a_scale_that_is_no_number_of_0_or_more_is_refused(kind: type[UCE], field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^{kind.__name__}\\.{field}: .*finite number"):
        kind(**{field: value})  # type: ignore[arg-type]


def test_nothing_to_erase_is_refused_but_nothing_to_preserve_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"UCE\.erase_scale"):
        UCE(erase_scale=0)
    assert UCE(preserve_scale=0, lamb=0) == UCE(1.0, 0.0, 0.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_an_attackers_ridge_that_is_not_positive_is_refused(value: float) -> None:
    problem = random_problem(1)
    with pytest.raises(ConfigurationError, match="attacker_scale"):
        regeneration_residual(problem.gram, core_maps(problem, 1), problem.moments.erased, value)


@pytest.mark.parametrize(
    ("given_name", "nearest"), [("norms", "norm"), ("surogate", "surrogate"), ("Standard", "standard")]
)
def test_an_unknown_regularizer_is_refused_with_the_nearest_name(given_name: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Derivation(regularizer=given_name)
    message = str(caught.value)
    assert message.startswith(f"derivation.regularizer: unknown value {given_name!r}")
    assert f"did you mean {nearest!r}?" in message
    assert "norm, standard, surrogate" in message


def test_unknown_surrogate_items_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match=r"derivation\.surrogate_items: .*did you mean 'second'"):
        Derivation(regularizer="surrogate", surrogate_items="secnd")


def test_a_name_near_nothing_gets_the_list_alone() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Derivation(regularizer="xyzzy")
    assert "did you mean" not in str(caught.value)


def test_errors_are_of_one_class_and_are_value_errors() -> None:
    assert issubclass(ConfigurationError, ReceError)
    assert issubclass(ConfigurationError, ValueError)


def test_concept_rows_that_do_not_pair_up_with_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(2, 4\)"):
        Moments.of(torch.ones(3, 4), torch.ones(2, 4))
