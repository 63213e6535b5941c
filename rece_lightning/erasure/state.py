"""What a checkpoint must hold: looked through before anything is computed with it, whoever wrote it.

``weights_only`` keeps a file from executing code. It does not keep it from holding a map of NaN, a million epochs, or
text where a matrix belongs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.embedding_map import LEFT, RIGHT, WHOLE, shape_in
from rece_lightning.core.method import Method
from rece_lightning.models.part_configs import LARGEST_WIDTH

FORMAT = 2
"""Of a checkpoint's ``rece``; 1 had no number."""
WIDEST_IN_FACTORS = 65_536
"""Of a map whose factors alone are stored: it takes no room that the file has not."""
FORMER = "0.1.0"
"""The version that reads the former layout."""
TOP = {"state_dict": Mapping, "hyper_parameters": Mapping, "callbacks": Mapping, "loops": Mapping, "rece": Mapping}
STATE = {
    "erasers": Mapping, "statistics": Mapping, "history": list, "base": str, "fingerprint": Mapping,
    "concepts": Mapping, "method": Mapping, "epochs": int,
}  # fmt: skip
NAMING: dict[str, type | tuple[type, ...]] = {
    "pretrained": str, "revision": (str, type(None)), "variant": (str, type(None)), "config": (str, type(None)),
    "attacker_scale": (int, float, type(None)),
}  # fmt: skip
PLAIN = ("base", "fingerprint", "concepts", "method")
"""What files of edited weights repeat."""
OTHER_KINDS = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, StopIteration)
"""What reading a value of another kind may raise; tensors without values and endless nesting are a RuntimeError."""
PAIRED = ("erased", "words", "found")
ROWS = ("preserved", "held_out", "neighbours")
PARTS = tuple(f"{name}.{part}" for name in ("first", "whole") for part in ("erased", "cross", "target"))


def fault(content: Mapping[str, Any]) -> str | None:
    """What is wrong with a checkpoint, in words; ``None`` for one as RECE writes them.

    Args:
        content: as ``torch.load`` gives it.
    """
    try:
        return _entries("", content, TOP) or _state(content["rece"]) or _others(content)
    except OTHER_KINDS as error:
        return f"an entry is missing or of another kind ({type(error).__name__}: {error})"


def former_layout(state: Mapping[str, Any]) -> str | None:
    """What to say of the ``rece`` of an earlier version; ``None`` for one of this layout."""
    layout = state.get("format")
    if isinstance(layout, int) and layout == FORMAT:
        return None
    if "map" in state and "settings" in state:
        return f"it is of the layout of rece-lightning {FORMER}, and that version reads it; erase anew with this one"
    return f"its layout {layout!r} is not known to this version; erase anew"


def _entries(where: str, content: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    for key, kind in kinds.items():
        if key not in content:
            return f"{where}{key} is missing"
        if not isinstance(content[key], kind) or isinstance(content[key], bool):
            return f"{where}{key} is a {type(content[key]).__name__}"
    return None


def _state(state: Mapping[str, Any]) -> str | None:
    wrong = _entries("rece.", state, STATE)
    if wrong:
        return wrong
    wrong = _concepts(state["concepts"]) or _plain(state)
    if wrong:
        return wrong
    if not state["erasers"]:
        return "rece.erasers is empty"
    widths: dict[str, int] = {}
    for name, eraser in state["erasers"].items():
        wrong = eraser_fault(f"rece.erasers.{name}", eraser, state["epochs"])
        if wrong:
            return wrong
        widths[name] = shape_in(eraser)[-1]
    # Every epoch is run again: a number alone would say nothing of how long that takes.
    if state["epochs"] < 1 or len(state["history"]) != state["epochs"]:
        return f"rece.epochs is {state['epochs']}, beside a history of {len(state['history'])} epochs"
    for row in state["history"]:
        for key, value in row.items():
            # A larger whole number is none that a logger takes.
            figure = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
            if not isinstance(key, str) or not figure:
                return "rece.history holds something other than figures"
    wrong = statistics_fault(state["statistics"], widths)
    if wrong:
        return wrong
    if state["statistics"]["probe"] is None:
        return "rece.statistics.probe is missing"
    named = state["concepts"].get("erased_prompts", len(state["concepts"]["erased"]))
    for name, space in state["statistics"]["spaces"].items():
        if not any(key in space for key in ("erased.concept", "erased.whole.erased")):
            return f"rece.statistics.{name} erases nothing"
        if int(space["erased.count"]) != named:
            return f"rece.statistics.{name} erases {int(space['erased.count'])} prompts, rece.concepts {named}"
    return None


def _concepts(concepts: Mapping[str, Any]) -> str | None:
    for row in concepts["erased"]:
        texts, weight = (row["prompt"], row["target"]), row["weight"]
        if not all(isinstance(text, str) for text in texts) or not isinstance(weight, (int, float)):
            return "rece.concepts.erased holds something other than prompts"
        if not 0 < weight < float("inf"):
            return f"rece.concepts.erased holds the weight {weight}"
    if not isinstance(concepts["preserved"], list) or not all(isinstance(one, str) for one in concepts["preserved"]):
        return "rece.concepts.preserved holds something other than prompts"
    return None


def _plain(state: Mapping[str, Any]) -> str | None:
    """Of what a file of edited weights repeats, and of the method; an editor is not looked up, let alone imported."""
    for key in PLAIN:
        try:
            json.dumps(state[key])
        except (TypeError, ValueError, RecursionError) as error:
            return f"rece.{key} holds more than plain values ({error})"
    method = dict(state["method"])
    for key in ("editor", "first_editor"):
        editor = method.pop(key, None)
        if editor is None and key == "first_editor":
            continue
        arguments = editor.get("init_args", {}) if isinstance(editor, Mapping) else None
        if not isinstance(arguments, Mapping) or not isinstance(editor["class_path"], str):
            return f"rece.method.{key} is no editor"
    Method.from_plain(method, "rece.method")
    return None


def eraser_fault(where: str, state: Mapping[str, Any], epochs: int) -> str | None:
    """What is wrong with what :meth:`Eraser.state_dict` gave, in words."""
    if state["epoch"] != epochs:
        return f"{where}.epoch is {state['epoch']}, beside {epochs} epochs"
    if WHOLE not in state:
        return _factors_fault(where, state)
    matrix = state[WHOLE]
    if not isinstance(matrix, Tensor) or matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2]:
        return f"{where}.map is no square matrix"
    if not 0 < matrix.shape[-1] <= LARGEST_WIDTH:
        return f"{where}.map is {matrix.shape[-1]} wide"
    return matrix_fault(f"{where}.map", matrix, matrix.shape, torch.float64)


def _factors_fault(where: str, state: Mapping[str, Any]) -> str | None:
    left, right = state[LEFT], state[RIGHT]
    if not all(isinstance(one, Tensor) and one.ndim == 2 for one in (left, right)):
        return f"{where} holds no factors of a map"
    width, rank = left.shape
    if not 0 < width <= WIDEST_IN_FACTORS or rank > WIDEST_IN_FACTORS:
        return f"{where}.{LEFT} is {width} wide, of rank {rank}"
    return matrix_fault(f"{where}.{LEFT}", left, (width, rank), torch.float64) or matrix_fault(
        f"{where}.{RIGHT}", right, (rank, width), torch.float64
    )


def statistics_fault(state: Any, widths: Mapping[str, int]) -> str | None:
    """What is wrong with what :meth:`ConceptStatistics.state_dict` gave, in words; ``None`` if nothing is.

    Args:
        state: whatever stands there.
        widths: text space → ``d``.
    """
    where = "rece.statistics"
    try:
        if set(state["spaces"]) != set(widths):
            return f"{where} is of the text spaces {sorted(state['spaces'])}, not {sorted(widths)}"
        for name, width in widths.items():
            wrong = space_fault(f"{where}.{name}", state["spaces"][name], width)
            if wrong:
                return wrong
        probe = state["probe"]
        if probe is None:
            return None
        if not isinstance(probe["prompt"], str):
            return f"{where}.probe.prompt is no text"
        first = next(iter(widths.values()))
        return matrix_fault(f"{where}.probe", probe["embedding"], (len(probe["embedding"]), first))
    except OTHER_KINDS as error:
        return f"{where} is damaged ({type(error).__name__}: {error})"


def space_fault(where: str, state: Mapping[str, Tensor], width: int) -> str | None:
    """What is wrong with the statistics of one text space, in words."""
    return next((wrong for wrong in _space_faults(where, state, width) if wrong), None)


def _space_faults(where: str, state: Mapping[str, Tensor], width: int) -> Iterator[str | None]:
    left = dict(state)
    for kind in (*PAIRED, *ROWS):
        names = [name for name in state if name.startswith(f"{kind}.")]
        own = {name.removeprefix(f"{kind}."): left.pop(name) for name in names}
        if not own:
            continue
        count = own.pop("count")
        if not isinstance(count, Tensor) or count.numel() != 1 or count.is_floating_point() or int(count) < 0:
            yield f"{where}.{kind}.count is no number"
        # Whose rows are gone is in the moments.
        held, alone = _rows_in(own), not any(name in own for name in ("first.erased", "moments"))
        yield from (_pair_faults if kind in PAIRED else _row_faults)(f"{where}.{kind}", own, width)
        if count.dtype == torch.bool or int(count) < held or (alone and int(count) != held):
            yield f"{where}.{kind}.count is {int(count)}, beside {held} rows{' and no moments' * alone}"
    if "invariants" in left:
        rows = left.pop("invariants")
        yield matrix_fault(f"{where}.invariants", rows, (len(rows), width))
    if left:
        yield f"{where} holds {next(iter(left))!r}, which nothing reads"


def _rows_in(own: Mapping[str, Tensor]) -> int:
    return next((len(own[name]) for name in ("concept", "rows") if name in own), 0)


def _pair_faults(where: str, own: dict[str, Tensor], width: int) -> Iterator[str | None]:
    if "concept" in own:
        concept, target = own.pop("concept"), own.pop("target")
        if not isinstance(concept, Tensor) or concept.ndim != 3:
            yield f"{where}.concept holds no rows"
            return
        count, positions = concept.shape[:2]
        for tensor in (concept, target):
            yield matrix_fault(where, tensor, (count, positions, width))
        places = [own.pop(name) for name in ("last", "target_last")]
        weight = own.pop("weight")
        yield matrix_fault(f"{where}.weight", weight, (count,), torch.float64)
        fits = all(isinstance(one, Tensor) and one.dtype == torch.int64 and one.shape == (count,) for one in places)
        if not fits or not bool((torch.stack(places) >= 0).all() and (torch.stack(places) < positions).all()):
            yield f"a position in {where} cannot be"
        if not bool((weight > 0).all()):
            yield f"a weight in {where} cannot be"
        more = own.pop("further", None)
        if more is not None and not _are_places(more, count, positions):
            yield f"a position in {where} cannot be"
    if any(name in own for name in PARTS):
        for name in PARTS:
            yield matrix_fault(f"{where}.{name}", own.pop(name, None), (width, width), torch.float64)
    if own:
        yield f"{where} holds {next(iter(own))!r}, which nothing reads"


def _are_places(more: Any, count: int, positions: int) -> bool:
    """Whether they say where rows of further text encoders begin and where their subjects end."""
    if not isinstance(more, Tensor) or more.dtype != torch.int64 or more.ndim != 3 or more.layout != torch.strided:
        return False
    return more.shape[0] == count and more.shape[2] == 3 and bool(((more >= 0) & (more < positions)).all())


def _row_faults(where: str, own: dict[str, Tensor], width: int) -> Iterator[str | None]:
    if "rows" in own:
        rows = own.pop("rows")
        yield matrix_fault(f"{where}.rows", rows, (*rows.shape[:2], width))
    if "moments" in own:
        yield matrix_fault(f"{where}.moments", own.pop("moments"), (width, width), torch.float64)
    if own:
        yield f"{where} holds {next(iter(own))!r}, which nothing reads"


def _others(content: Mapping[str, Any]) -> str | None:
    for key, value in content["callbacks"].items():
        if not isinstance(value, Mapping):
            return f"callbacks.{key} is a {type(value).__name__}"
    steps = content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    if not isinstance(steps, int) or steps < 0:
        return "loops count no batches"
    return _entries("hyper_parameters.", content["hyper_parameters"], NAMING)


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
