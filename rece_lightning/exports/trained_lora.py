"""The change of trained weights as a LoRA: every layer factored by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.low_rank import STORED
from rece_lightning.erasure.trained_weights import TrainedWeights
from rece_lightning.exports.record import Error, Loss

Adapter = tuple[str, Tensor, Tensor]
"""Diffusers name of a layer, without ``.weight``; ``down [r, i]``, zero where its input is no text; ``up [o, r]``: both
float32, and ``W + up @ down`` is the edited weight."""


def matrices_problem(trained: TrainedWeights) -> str | None:
    """What of the trained parameters a LoRA has no place for, and how to train without; ``None`` for matrices alone."""
    others = [name for name, tensor in trained.tensors.items() if tensor.ndim != 2 or not name.endswith(".weight")]
    if not others:
        return None
    return (
        f"a LoRA holds changes of matrices, and {len(others)} of {len(trained.tensors)} trained parameters are none, "
        f"such as {others[0]}; train with model.parameters: keys_values"
    )


def trained_adapters(trained: TrainedWeights, rank: int | None) -> tuple[list[Adapter], Loss]:
    """The adapters of all trained layers, all of one rank, and what was lost, measured on the rounded factors.

    Each is the truncated singular value decomposition of its layer's change (Eckart and Young, 1936). Training changes
    a layer in all directions: without ``rank`` an exact LoRA is about as large as the layers themselves.

    Raises:
        ConfigurationError: for parameters that are no matrices.
    """
    problem = matrices_problem(trained)
    if problem is not None:
        raise ConfigurationError(f"--format: {problem}.")
    changes = [(name, trained.tensors[name].detach().cpu().double(), old.double()) for name, old in trained.original()]
    parts = {name: torch.linalg.svd(new - old, full_matrices=False) for name, new, old in changes}
    largest = max((float(values.max()) for _, values, _ in parts.values()), default=0.0)
    full = max([1, *(int((values > STORED * largest).sum()) for _, values, _ in parts.values())])
    chosen = full if rank is None else min(rank, full)
    stored = dict(trained.original())
    adapters, sums = list[Adapter](), torch.zeros(4, dtype=torch.float64)
    for name, new, old in changes:
        left, values, right = parts[name]
        count = min(chosen, len(values))
        root = values[:count].sqrt()
        up, down = torch.zeros(len(new), chosen), torch.zeros(chosen, new.shape[1])
        up[:, :count], down[:count] = (left[:, :count] * root).float(), (root[:, None] * right[:count]).float()
        adapters.append((name.removesuffix(".weight"), down, up))
        added = up.double() @ down.double()
        rounded = new.to(stored[name].dtype).double()
        differences = [new - old - added, old + added - rounded, new - old, new]
        sums += torch.stack([one.square().sum() for one in differences])
    lost, beside, *sizes = sums.tolist()
    return adapters, Loss(Error.of(lost, *sizes), Error.of(beside, *sizes), chosen)
