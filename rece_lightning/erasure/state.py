"""What a checkpoint must hold: looked through before anything is computed with it, whoever wrote it.

``weights_only`` keeps a file from executing code. It does not keep it from holding a map of NaN, a million epochs, or
text where a matrix belongs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.moments import Moments, RowPairs
from rece_lightning.erasure.encoding import EncodedPair
from rece_lightning.models.part_configs import LARGEST_WIDTH

TOP = {"state_dict": Mapping, "hyper_parameters": Mapping, "callbacks": Mapping, "loops": Mapping, "rece": Mapping}
STATE = {
    "evidence": Mapping, "probe": Mapping, "history": list, "epoch": int, "base": str, "fingerprint": Mapping,
    "concepts": Mapping, "settings": Mapping,
}  # fmt: skip
SETTINGS: dict[str, type | tuple[type, ...]] = {
    "pretrained": str, "revision": (str, type(None)), "variant": (str, type(None)), "config": (str, type(None)),
    "technique": str, "projections": str, "first_edit": (Mapping, type(None)),
}  # fmt: skip
MOMENTS = tuple(field.name for field in fields(Moments))


def fault(content: Mapping[str, Any]) -> str | None:
    """What is wrong with a checkpoint, in words; ``None`` for one as RECE writes them.

    Args:
        content: as ``torch.load`` gives it.
    """
    try:
        return _entries("", content, TOP) or _state(content["rece"]) or _others(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"an entry is missing or of another kind ({type(error).__name__}: {error})"


def _entries(where: str, content: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    for key, kind in kinds.items():
        if key not in content:
            return f"{where}{key} is missing"
        if not isinstance(content[key], kind) or isinstance(content[key], bool):
            return f"{where}{key} is a {type(content[key]).__name__}"
    return None


def _state(state: Mapping[str, Any]) -> str | None:
    matrix = state.get("map")
    if not isinstance(matrix, Tensor) or matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2]:
        return "rece.map is no square matrix"
    width = matrix.shape[-1]
    if not 0 < width <= LARGEST_WIDTH:
        return f"rece.map is {width} wide"
    wrong = matrix_fault("rece.map", matrix, matrix.shape, torch.float64) or _entries("rece.", state, STATE)
    if wrong:
        return wrong
    # Every epoch is run again: a number alone would say nothing of how long that takes.
    if state["epoch"] < 1 or len(state["history"]) != state["epoch"]:
        return f"rece.epoch is {state['epoch']}, beside a history of {len(state['history'])} epochs"
    for row in state["history"]:
        if not all(isinstance(key, str) and isinstance(value, (int, float)) for key, value in row.items()):
            return "rece.history holds something other than figures"
    probe = state["probe"]
    if not isinstance(probe["prompt"], str):
        return "rece.probe.prompt is no text"
    if "invariants" in state:
        wrong = matrix_fault("rece.invariants", state["invariants"], (len(state["invariants"]), width))
        if wrong:
            return wrong
    rows = len(probe["embedding"])
    return matrix_fault("rece.probe", probe["embedding"], (rows, width)) or _evidence(state["evidence"], width)


def _evidence(stored: Mapping[str, Any], width: int) -> str | None:
    if "pairs" in stored:
        wrong = pairs_fault("rece.evidence.pairs", stored["pairs"], width)
        if wrong:
            return wrong
        kept: Sequence[Tensor] = [*stored["kept"], *stored["held_out"]]
        found = (matrix_fault("rece.evidence.kept", rows, (len(rows), width)) for rows in kept)
        return next((wrong for wrong in found if wrong), None if stored["pairs"] else "rece.evidence erases nothing")
    square = (width, width)
    wrong = matrix_fault("rece.evidence.held_out_moments", stored["held_out_moments"], square, torch.float64)
    for part in ("first", "whole"):
        for name in MOMENTS:
            wrong = wrong or matrix_fault(f"rece.evidence.{part}.{name}", stored[part][name], square, torch.float64)
    for part in ("first_rows", "whole_rows"):
        if part in stored:
            rows = RowPairs(**stored[part])
            shape = (len(rows.weights), width)
            wrong = wrong or matrix_fault(f"rece.evidence.{part}.weights", rows.weights, shape[:1])
            wrong = wrong or matrix_fault(f"rece.evidence.{part}.concept", rows.concept, shape)
            wrong = wrong or matrix_fault(f"rece.evidence.{part}.target", rows.target, shape)
    return wrong


def _others(content: Mapping[str, Any]) -> str | None:
    for key, value in content["callbacks"].items():
        if not isinstance(value, Mapping):
            return f"callbacks.{key} is a {type(value).__name__}"
    steps = content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    if not isinstance(steps, int) or steps < 0:
        return "loops count no batches"
    for row in content["rece"]["concepts"]["erased"]:
        if not isinstance(row["prompt"], str):
            return "rece.concepts.erased holds something other than prompts"
    return _entries("hyper_parameters.", content["hyper_parameters"], SETTINGS)


def pairs_fault(
    where: str, pairs: Sequence[Mapping[str, Any]], width: int, dtype: torch.dtype | None = None
) -> str | None:
    """What is wrong with stored encoded pairs, in words; ``None`` if nothing is.

    Args:
        where: the pairs stand, for the words.
        pairs: fields of :class:`EncodedPair` each.
        width: of the embeddings.
        dtype: float32 or float64 unless given.
    """
    for pair in pairs:
        read = EncodedPair(**pair)
        count = len(read.concept)
        if not (0 <= read.last < count and 0 <= read.target_last < count and 0 < read.weight < float("inf")):
            return f"a position or a weight in {where} cannot be"
        for tensor in (read.concept, read.target):
            wrong = matrix_fault(where, tensor, (count, width), dtype)
            if wrong:
                return wrong
    return None


def matrix_fault(where: str, tensor: Any, shape: Sequence[int], dtype: torch.dtype | None = None) -> str | None:
    """What is wrong with a stored tensor of finite numbers, in words; ``None`` if nothing is.

    Args:
        where: it stands, for the words.
        tensor: whatever stands there.
        shape: that it should have.
        dtype: float32 or float64 unless given.
    """
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != tuple(shape):
        found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        return f"{where} is {found}, not {list(shape)}"
    if tensor.dtype not in ((dtype,) if dtype else (torch.float32, torch.float64)):
        return f"{where} is stored as {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or not bool(tensor.isfinite().all()):
        return f"{where} holds NaN, infinity, or no values at all"
    return None
