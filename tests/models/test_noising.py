"""Noise levels of flow matching, whichever scheduler a model's folder names."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from rece_lightning.models.noising import FLOW, noised, prediction_of


def test_a_solver_that_follows_a_flow_has_the_levels_of_flow_matching() -> None:
    """Wan's and Sana's folders name solvers of another kind; with the same shift they mean the same flow."""
    plain = FlowMatchEulerDiscreteScheduler(shift=3.0)
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert prediction_of(solver, "attacks") == FLOW
    source = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(3, 4, 1, 2, 2, generator=source), torch.randn(3, 4, 1, 2, 2, generator=source)
    wanted, found = (noised(one, latents, torch.tensor([0, 400, 999]), noise) for one in (plain, solver))
    torch.testing.assert_close(found.noisy, wanted.noisy)
    torch.testing.assert_close(found.timesteps, wanted.timesteps)
    torch.testing.assert_close(found.answer, noise - latents)
    # What the solver itself makes of that answer is the picture without noise.
    solver.set_timesteps(1000)
    solver._init_step_index(solver.timesteps[500])
    share = float(solver.sigmas[solver.step_index])
    recovered = solver.convert_model_output(noise - latents, sample=(1 - share) * latents + share * noise)
    torch.testing.assert_close(recovered, latents, rtol=1e-4, atol=1e-5)
