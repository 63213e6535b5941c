"""OCE: the orthogonal left factor of every layer, found as a right map."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import OCE, Eraser, LayerMaps, Method
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.problems import Problem, random_problem, relative


def problems() -> st.SearchStrategy[Problem]:
    """Layers with fewer and more outputs than the embeddings are wide; one row a prompt, as published."""
    return st.builds(
        lambda seed, width, outs, concepts, preserved: random_problem(
            seed, width=width, outs=outs, tokens=(1,) * concepts, preserved=preserved
        ),
        st.integers(0, 2**20),
        st.integers(5, 9),
        st.sampled_from([(4, 7), (12,), (9, 5, 14)]),
        st.integers(1, 2),
        st.sampled_from([0, 1, 6]),
    )


def weights_of(problem: Problem, editor: OCE, epochs: int = 1) -> list[Tensor]:
    """What the editor makes of every layer."""
    found = Eraser(Method(editor=editor), problem.evidence, problem.gram).run(epochs).maps
    assert isinstance(found, LayerMaps)
    return [weight @ found.of_layer(layer) for layer, weight in enumerate(problem.weights)]


def orthonormal(outputs: Tensor) -> Tensor:
    return torch.linalg.qr(outputs.mT, mode="reduced")[0]


def plain(problem: Problem, weight: Tensor, editor: OCE) -> Tensor:
    """The layer as the paper has it: bases of the outputs by QR, one decomposition ``[o, o]``, ``U Vᵀ W``."""
    concepts = orthonormal(torch.cat([pair.first_rows for pair in problem.pairs]) @ weight.mT)
    guides = orthonormal(torch.cat([pair.first_target_rows for pair in problem.pairs]) @ weight.mT)
    eye = torch.eye(len(weight), dtype=torch.float64)
    total = -editor.erase_scale * concepts @ concepts.mT @ (eye - guides @ guides.mT)
    for row in problem.preserved:
        answer = weight @ row
        total = total + editor.preserve_scale * torch.outer(answer, answer)
        share = editor.global_scale * problem.width / float(problem.preserved.square().sum())
        total = total + share * torch.outer(answer, answer)
    total = total + editor.lamb * weight @ weight.mT
    left, _, right = torch.linalg.svd(total)
    return left @ right @ weight


@given(problem=problems(), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_every_layer_is_turned_as_the_paper_turns_it(problem: Problem, scale: float) -> None:
    """Wide layers too: their decomposition is not unique, and what is free in it meets no output."""
    editor = OCE(erase_scale=scale)
    for weight, found in zip(problem.weights, weights_of(problem, editor), strict=True):
        assert relative(found, plain(problem, weight, editor)) < 1e-5


@given(problem=problems(), epochs=st.integers(1, 2))
def test_outputs_keep_their_lengths_and_angles(problem: Problem, epochs: int) -> None:
    """``R W`` has the Gram matrix of ``W``, in every epoch."""
    for weight, found in zip(problem.weights, weights_of(problem, OCE(erase_scale=10.0), epochs), strict=True):
        assert relative(found.mT @ found, weight.mT @ weight) < 1e-8


def test_turned_away_outputs_have_less_of_the_concept_and_the_target_less_moved() -> None:
    problem = random_problem(3, width=8, outs=(8, 8), tokens=(1,), preserved=3)
    row = problem.pairs[0].first_rows[0]
    for weight, found in zip(problem.weights, weights_of(problem, OCE(erase_scale=1000.0)), strict=True):
        before, after = weight @ row, found @ row
        assert float(after @ before) < 0.2 * float(before @ before)


def test_a_small_scale_leaves_everything() -> None:
    problem = random_problem(3, width=8, outs=(8, 5), preserved=3)
    for weight, found in zip(problem.weights, weights_of(problem, OCE(erase_scale=1e-9)), strict=True):
        assert relative(found, weight) < 1e-6


def test_a_layer_that_answers_nothing_stays() -> None:
    problem = random_problem(3, width=6, outs=(6, 4), preserved=2)
    silent = replace(problem, weights=[problem.weights[0], torch.zeros(4, 6, dtype=torch.float64)])
    assert not bool(weights_of(silent, OCE())[1].any())


@pytest.mark.parametrize(
    ("named", "value"),
    [("erase_scale", 0.0), ("global_scale", -1.0), ("preserve_scale", -0.1), ("lamb", 0.0), ("rank", 1.5)],
)
def test_settings_that_make_no_sense_are_refused(named: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"OCE\.{named}: "):
        OCE(**{named: value})  # type: ignore[arg-type]
