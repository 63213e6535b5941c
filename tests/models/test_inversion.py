"""The sampler's equation backwards, beside data whose equation is solved by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.inversion import noise_behind

MEAN, DEVIATION = 1.5, 0.4
"""Of the data: normal, so that the best prediction, and the flow that it makes, have a closed form."""


def level(scheduler: Any, timestep: Tensor) -> tuple[float, float]:
    """Shares of picture and noise."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        share = float(timestep) / 1000
        return 1 - share, share
    kept = float(scheduler.alphas_cumprod[int(timestep)])
    return kept**0.5, (1 - kept) ** 0.5


def best(scheduler: Any, noisy: Tensor, timestep: Tensor) -> Tensor:
    """What a perfect denoiser predicts."""
    kept, lost = level(scheduler, timestep)
    away = (noisy - kept * MEAN) / (kept**2 * DEVIATION**2 + lost**2)
    picture, noise = MEAN + kept * DEVIATION**2 * away, lost * away
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return noise - picture
    return noise if scheduler.config.prediction_type == "epsilon" else kept * noise - lost * picture


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(prediction_type="epsilon"),
        DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
        EulerDiscreteScheduler(prediction_type="epsilon"),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=["noise", "velocity", "euler", "flow"],
)
def test_the_way_back_is_the_flow_of_the_data(scheduler: Any) -> None:
    """Every picture stays as many deviations from the mean at every level."""
    apart = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    found = noise_behind(
        scheduler, MEAN + DEVIATION * apart, 800, 10, lambda noisy, time: best(scheduler, noisy, time), "test"
    )
    asked = type(scheduler).from_config(scheduler.config)
    asked.set_timesteps(10)
    kept, lost = level(scheduler, asked.timesteps.max())
    expected = kept * MEAN + (kept**2 * DEVIATION**2 + lost**2) ** 0.5 * apart
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert len(scheduler.timesteps) == 1000  # it is left as it was


def test_a_prediction_that_is_not_known_is_refused() -> None:
    with pytest.raises(BaseModelError, match=r"test: the scheduler predicts 'sample'"):
        noise_behind(DDIMScheduler(prediction_type="sample"), torch.zeros(1, 2), 4, 4, lambda noisy, _: noisy, "test")
