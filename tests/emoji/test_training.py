"""The embedded world's training: its optimizer, and a run that goes on as if it had not been stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rece_lightning.emoji.training.loop import train
from rece_lightning.emoji.training.muon import SIZE, muon_and_adamw, orthogonalized


@pytest.mark.parametrize("shape", [(24, 24), (16, 96), (96, 16), (1, 7)])
def test_a_step_is_made_orthogonal(shape: tuple[int, int]) -> None:
    step = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # Its smallest singular values, a thousandth of the largest, may stay small: five rounds do not lift them to 1.
    left, strengths, right = torch.linalg.svd(step, full_matrices=False)
    step = left @ torch.diag(strengths.clamp(min=0.1 * float(strengths[0]))) @ right
    result = orthogonalized(step)
    assert result.shape == step.shape
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    # The same axes: it is the polar factor, roughly, not just any orthogonal matrix.
    assert float((left.mT @ result @ right.mT).diagonal().min()) > 0.6


def test_muon_takes_matrices_and_adamw_the_rest() -> None:
    module = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3))
    optimizers = muon_and_adamw(module, 0.1, weight_decay=0.0, outer=("0",))
    before = [value.detach().clone() for value in module.parameters()]
    module(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    first, bias, second, _ = (value.detach() - old for value, old in zip(module.parameters(), before, strict=True))
    # AdamW's first step is the learning rate wherever there is a gradient.
    torch.testing.assert_close(first.abs(), torch.full_like(first, 0.1), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(bias.abs(), torch.full_like(bias, 0.1), rtol=1e-3, atol=0.0)
    values = torch.linalg.svdvals(second.flatten(1)) / (0.1 * SIZE * second.flatten(1).shape[1] ** 0.5)
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3


def test_a_training_that_was_stopped_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def run(folder: Path, *, stop: int | None) -> Tensor:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))

        def loss_of(step: int, generator: torch.Generator) -> Tensor:
            if step == stop:
                raise KeyboardInterrupt
            clean = torch.randn(32, 8, generator=generator)
            return (module(clean) - clean).square().mean()

        train(
            "part",
            module,
            loss_of,
            steps=12,
            learning_rate=1e-2,
            folder=folder,
            seed=3,
            decay=0.9,
            every=2,
            optimizers=muon_and_adamw(module, 1e-2),
        )
        return torch.cat([value.flatten() for value in module.parameters()]).detach()

    whole = run(tmp_path / "whole", stop=None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop=9)
    assert torch.equal(run(tmp_path / "stopped", stop=None), whole)
