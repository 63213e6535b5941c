"""What a denoiser is given for other texts than the pipeline's own: the pipeline itself is run up to there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.baselines.guard import guidance_argument, unguided
from rece_lightning.baselines.text_arguments import without_texts
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.beside import is_control_net, unwrapped
from rece_lightning.models.denoisers import denoisers_of, known_family

TIMES = ("timestep", "timesteps", "timestep_ratio", "t")
"""What denoisers call the time of a step."""


class _Enough(Exception):
    """What was asked for was seen."""


@dataclass(frozen=True)
class Branch:
    """What a denoiser is given for some texts, one a picture, but for latents and time."""

    call: Mapping[str, Any]
    """By the names of its forward's parameters."""
    rows: int
    """Pictures."""


def branch_of(pipeline: Any, arguments: Mapping[str, Any], texts: Mapping[str, Any]) -> Branch:
    """What the denoiser is given under other texts: the pipeline is run up to there, without guidance.

    Args:
        pipeline: of diffusers; neither its generators nor torch's are moved.
        arguments: of its own call.
        texts: in place of the call's, as it takes them.
    """
    name, family = guidance_argument(pipeline), known_family(pipeline)
    off = {name: unguided(family)} if name in inspect.signature(pipeline.__call__).parameters else {}
    # A guidance that the model is given is one of its inputs, and stays.
    if family is not None and not family.negative and name == family.guidance:
        off = {}
    calls = _first_calls(pipeline, {**without_texts(arguments), **texts, **off}, lambda calls: True)
    if not calls:
        raise ConfigurationError(
            f"guard: {type(pipeline).__name__} did not ask its denoiser for anything; call it with one step or more."
        )
    return _branch(calls[0])


def unconditional_of(pipeline: Any, arguments: Mapping[str, Any], rows: int) -> Branch | None:
    """What the denoiser is given in a call of its own without the prompt; ``None`` where both are one batch.

    Args:
        pipeline: of diffusers.
        arguments: of its call.
        rows: pictures.

    Raises:
        ConfigurationError: if there is no such call: guidance is off.
    """
    calls = _first_calls(pipeline, arguments, lambda calls: len(calls) > 1 or rows_of(calls[0]) != rows)
    if rows_of(calls[0]) == 2 * rows:
        return None
    if len(calls) < 2 or not same_step(calls[0], calls[1]):
        raise ConfigurationError(
            f"guard: {type(pipeline).__name__} asks its denoiser for no prediction without the prompt: guidance is "
            f"off; give {guidance_argument(pipeline)} above 1 (and a negative_prompt where the pipeline wants one)."
        )
    return _branch(calls[1])


def _first_calls(
    pipeline: Any, arguments: Mapping[str, Any], enough: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(arguments_of(module, args, kwargs))
        if enough(calls):
            raise _Enough

    run = own_lists(arguments)
    if run.get("generator") is not None:
        run["generator"] = _copied(run["generator"])
    shown = dict(getattr(pipeline, "_progress_bar_config", {}))
    with ExitStack() as stack:
        for denoiser in denoisers_under(pipeline):
            stack.enter_context(hooked(denoiser.register_forward_pre_hook(keep, with_kwargs=True)))
        stack.enter_context(torch.random.fork_rng())
        pipeline.set_progress_bar_config(**{**shown, "disable": True})
        stack.callback(pipeline.set_progress_bar_config, **shown)
        with suppress(_Enough):
            pipeline(**run)
    return calls


def _copied(generator: Any) -> Any:
    if isinstance(generator, (list, tuple)):
        return [_copied(one) for one in generator]
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy


@contextmanager
def hooked(handle: Any) -> Iterator[None]:
    """A hook that is gone after the block.

    Args:
        handle: of torch.
    """
    try:
        yield
    finally:
        handle.remove()


def denoisers_under(pipeline: Any) -> list[nn.Module]:
    """Those of a pipeline, refused where what a guard does would not reach them.

    Raises:
        ConfigurationError: for a compiled denoiser, and for a ControlNet, which reads the texts too.
    """
    found = denoisers_of(pipeline)
    if not found:
        raise ConfigurationError(f"guard: {type(pipeline).__name__} has no denoiser that is known; load it whole.")
    for name, module in found.items():
        part = getattr(pipeline, name)
        if part is not module or getattr(module, "_compiled_call_impl", None) is not None:
            raise ConfigurationError(
                f"guard: pipeline.{name} is compiled, and a compiled denoiser does not notice what is put around it; "
                "give the pipeline as it was before torch.compile."
            )
    for name, part in vars(pipeline).items():
        if is_control_net(unwrapped(part)):
            raise ConfigurationError(
                f"guard: pipeline.{name}: a ControlNet tells the denoiser of the prompt alone; give a pipeline "
                "without it."
            )
    return list(found.values())


def arguments_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a denoiser's call by the names of its forward's parameters, lists copied."""
    signature = inspect.signature(module.forward)
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, one in signature.parameters.items():
        if one.kind is one.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return own_lists(arguments)


def own_lists(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with lists of their own: Z-Image's pipeline writes its template into the list of prompts."""
    return {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}


def moving_of(call: Mapping[str, Any]) -> tuple[str, str]:
    """Names of a call's latents, always the first parameter, and of its time."""
    return next(iter(call)), next(name for name in TIMES if name in call)


def rows_of(call: Mapping[str, Any]) -> int:
    """How many predictions a call asks for."""
    return len(call[moving_of(call)[0]])


def _branch(call: dict[str, Any]) -> Branch:
    latents, time = moving_of(call)
    return Branch({name: value for name, value in call.items() if name not in (latents, time)}, len(call[latents]))


def same_step(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two calls are of the same latents at the same time: the two halves of guidance."""
    return all(_equal(first[name], second[name]) for name in moving_of(first))


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.shape == second.shape and bool((first == second).all())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)
