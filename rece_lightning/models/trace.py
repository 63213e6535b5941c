"""Which linear maps of a running denoiser read the text, found by running it: what a family declares is held to it.

One denoising step is run with two texts, and another step with the first of them. A linear map reads the text alone
where its input differs between the texts and stays the same between the steps; of a map that reads other things
beside the text only some columns differ. The first of them in the order of the computation are the entries; with all
entries at zero the output depends on the text no more, or something gets around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a denoiser's forward."""
Inputs = dict[str, list[Tensor]]
"""Name of a module → its inputs, in the order of its calls."""


class _Enough(Exception):
    """Every call that was asked for was seen."""


@dataclass(frozen=True)
class Group:
    """Linear maps that read the same rows of text, and nothing else of which depends on it."""

    names: tuple[str, ...]
    """Of the modules, sorted."""
    columns: tuple[int, int] | None
    """Those of the input that are the text's, first and one past the last; all of them where ``None``."""


@dataclass(frozen=True)
class Trace:
    """What a denoiser reads its text with."""

    groups: tuple[Group, ...]
    """Every linear map that reads text alone, in the order of the computation."""
    entries: tuple[Group, ...]
    """The first of them: with these at zero nothing further reads the text."""
    around: tuple[str, ...]
    """Modules that get the text around the entries; empty where these are complete."""

    @property
    def complete(self) -> bool:
        """Whether an edit of the entries reaches all of the text."""
        return not self.around


def calls_of(pipeline: Any, denoiser: nn.Module, prompt: str, steps: int = 4, **arguments: Any) -> list[Call]:
    """The first two calls of a denoiser while a pipeline makes a picture: the same text at two steps.

    Args:
        pipeline: of diffusers.
        denoiser: part of it.
        prompt: the text.
        steps: of the whole run, so many that the denoiser is called twice.
        arguments: of the pipeline's call.
    """
    seen: list[Call] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((_copied(args), _copied(kwargs)))
        times = [_time_of(call) for call in seen]
        if len(set(times)) > 1:
            raise _Enough

    handle = denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        pipeline(
            prompt=prompt,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **arguments,
        )
    except _Enough:
        pass
    finally:
        handle.remove()
    return [seen[0], seen[-1]]


def with_text_of(first: Call, later: Call, other: Call) -> Call:
    """The arguments of ``first`` with the text of ``other``: what two steps share and the texts do not."""
    args = tuple(_exchanged(*values) for values in zip(first[0], later[0], other[0], strict=True))
    kwargs = {name: _exchanged(value, later[1].get(name), other[1].get(name)) for name, value in first[1].items()}
    return args, kwargs


def _exchanged(first: Any, later: Any, other: Any) -> Any:
    return other if _same(first, later) else first


def _time_of(call: Call) -> float:
    """The timestep of a call: what of its arguments names it."""
    named = call[1].get("timestep", call[1].get("timesteps", call[1].get("timestep_ratio", call[1].get("t"))))
    value = named if named is not None else call[0][1]
    return float(torch.as_tensor(value).flatten()[0])


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(one) for one in value)
    if isinstance(value, Mapping):
        return {name: _copied(one) for name, one in value.items()}
    return value


@torch.no_grad()
def trace(denoiser: nn.Module, first: Call, later: Call, other: Call) -> Trace:
    """Find what reads the text.

    Args:
        denoiser: in evaluation mode.
        first: its arguments at one step.
        later: at another step with the same text.
        other: those of ``first`` with another text.
    """
    watched = {name: module for name, module in denoiser.named_modules() if name and _is_linear(module)}
    inputs = [inputs_of(denoiser, call, watched) for call in (first, later, other)]
    groups = tuple(_grouped(*inputs))
    entries: list[Group] = []
    around: tuple[str, ...] = ()
    while True:
        with zeroed(denoiser, entries):
            if _same(_run(denoiser, first), _run(denoiser, other)):
                break
            one, another = (inputs_of(denoiser, call, watched) for call in (first, other))
        taken = {name for group in entries for name in group.names}
        rest = (
            group
            for group in groups
            if group.names[0] not in taken and not _same(one[group.names[0]], another[group.names[0]])
        )
        further = next(rest, None)
        if further is None:
            around = gets_around(denoiser, entries, first, other)
            break
        entries.append(further)
    return Trace(groups, tuple(entries), around)


@torch.no_grad()
def gets_around(denoiser: nn.Module, readers: Sequence[Group], first: Call, other: Call) -> tuple[str, ...]:
    """What still gets the text with these readers at zero; empty where nothing does.

    Args:
        denoiser: in evaluation mode.
        readers: that an edit would change, plain linear maps.
        first: arguments at one step.
        other: the same with another text.
    """
    with zeroed(denoiser, readers):
        if _same(_run(denoiser, first), _run(denoiser, other)):
            return ()
        return _first_readers(denoiser, first, other)


def _is_linear(module: nn.Module) -> bool:
    """A matrix product: a linear layer, whatever class it has."""
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) and isinstance(weight, Tensor) and weight.ndim == 2


def _grouped(first: Inputs, later: Inputs, other: Inputs) -> Iterator[Group]:
    """Maps that read text alone, those with equal inputs together, in the order of their first call."""
    found: list[tuple[list[str], list[Tensor], tuple[int, int] | None]] = []
    for name, own in first.items():
        if not _same(own, later.get(name)) or _same(own, other.get(name)):
            continue
        columns = _columns(own, other[name])
        for names, known, known_columns in found:
            if columns == known_columns and _same(known, own):
                names.append(name)
                break
        else:
            found.append(([name], own, columns))
    for names, _, columns in found:
        yield Group(tuple(sorted(names)), columns)


def _columns(own: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[int, int] | None:
    width = own[0].shape[-1]
    varies = torch.zeros(width, dtype=torch.bool)
    for one, another in zip(own, other, strict=False):
        rows = min(one.reshape(-1, width).shape[0], another.reshape(-1, width).shape[0])
        varies |= (one.reshape(-1, width)[:rows] != another.reshape(-1, width)[:rows]).any(dim=0).cpu()
    places = varies.nonzero().flatten()
    if not len(places) or (int(places[0]) == 0 and int(places[-1]) == width - 1):
        return None
    return int(places[0]), int(places[-1]) + 1


def _same(one: Any, other: Any) -> bool:
    """Whether two answers hold the same tensors, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        same_length = isinstance(other, (list, tuple)) and len(one) == len(other)
        return same_length and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and _same(list(one.values()), list(other.values()))
    return True


def _run(denoiser: nn.Module, call: Call) -> Any:
    args, kwargs = _copied(call)
    return denoiser(*args, **kwargs)


@torch.no_grad()
def inputs_of(denoiser: nn.Module, call: Call, watched: Mapping[str, nn.Module]) -> Inputs:
    """What some modules are given while a denoiser answers a call."""
    seen: Inputs = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = args[0] if args else next(iter(kwargs.values()))
            if isinstance(value, Tensor):
                seen.setdefault(name, []).append(value.detach().clone())

        return keep

    with ExitStack() as stack:
        for name, module in watched.items():
            handle = module.register_forward_pre_hook(keeper(name), with_kwargs=True)
            stack.callback(handle.remove)
        _run(denoiser, call)
    return seen


@contextmanager
def zeroed(denoiser: nn.Module, groups: Sequence[Group]) -> Iterator[None]:
    """Within the block the weights of these maps are zero, in the columns that read the text."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for group in groups:
            for name in group.names:
                weight = denoiser.get_submodule(name).weight
                assert isinstance(weight, Tensor)
                part = weight.data if group.columns is None else weight.data[:, slice(*group.columns)]
                kept.append((part, part.clone()))
                part.zero_()
        yield
    finally:
        for part, former in kept:
            part.copy_(former)


def _first_readers(denoiser: nn.Module, first: Call, other: Call) -> tuple[str, ...]:
    """Modules without parts of their own whose input still differs between two texts: the first few of them."""
    leaves = {
        name: module for name, module in denoiser.named_modules() if name and not any(True for _ in module.children())
    }
    one, another = (inputs_of(denoiser, call, leaves) for call in (first, other))
    found = [name for name, own in one.items() if not _same(own, another.get(name))]
    return tuple(found[:3]) or ("an operation outside of all modules",)
