"""One resumable training loop for every part of the embedded world."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from rece_lightning.files import write_atomically


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device has instructions for it; a processor without them emulates it at ten times float32's time."""
    on_cpu = torch.device(device).type == "cpu"
    return not on_cpu or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def mixed_precision(device: str) -> torch.autocast:
    """Autocast to bfloat16 where the device multiplies in it; otherwise everything stays in float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def cosine(step: int, steps: int, warmup: int = 200) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    folder: Path,
    seed: int,
    decay: float | None = None,
    every: int = 250,
    optimizers: Sequence[torch.optim.Optimizer] | None = None,
) -> float:
    """Train ``module`` in place, resuming from ``folder/NAME.pt``.

    Args:
        name: of the part, in the checkpoint's name and the log lines.
        module: ends with its averaged weights where ``decay`` is given.
        loss_of: called with the step and a CPU generator that depends on seed and step alone, so that a
            resumed run draws what an uninterrupted one would.
        steps: how many there are in all; the learning rate follows a cosine over them.
        learning_rate: the highest.
        folder: where the checkpoint lies.
        seed: of the whole part.
        decay: of the moving average of the weights; none without it.
        every: steps between log lines; a checkpoint is written at every second one.
        optimizers: of the module's parameters between them; AdamW unless given.

    Returns:
        The seconds spent in all, interrupted runs included.
    """
    path = folder / f"{name}.pt"
    if optimizers is None:
        optimizers = [torch.optim.AdamW(module.parameters(), learning_rate, betas=(0.9, 0.99))]
    average = EMAModel(module.parameters(), decay) if decay else None
    first, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        first, spent = state["step"], state["seconds"]
        if first < steps:
            for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
            if average:
                average.load_state_dict(state["average"])
                average.to(next(module.parameters()).device)
            print(f"{name}: resumes at step {first}", flush=True)
    started = time.monotonic()
    total, counted = 0.0, 0
    module.train()
    for step in range(first, steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate * cosine(step, steps)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = loss_of(step, generator)
        module.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if average:
            average.step(module.parameters())
        total, counted = total + float(loss.detach()), counted + 1
        last = step + 1 == steps
        elapsed = spent + time.monotonic() - started
        if (step + 1) % every == 0 or last:
            print(f"{name}: step {step + 1}/{steps} loss {total / counted:.4f} {elapsed:.0f} s", flush=True)
            total, counted = 0.0, 0
        if (step + 1) % (2 * every) == 0 or last:
            if last and average:
                average.copy_to(module.parameters())
            state = {
                "module": module.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "average": average.state_dict() if average else {},
                "step": step + 1,
                "seconds": elapsed,
            }
            write_atomically(path, partial(torch.save, state))
    module.eval()
    return spent + time.monotonic() - started if first < steps else spent
