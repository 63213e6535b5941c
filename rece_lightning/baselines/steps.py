"""A denoising step with more texts than the pipeline's own: what a guard adds to it and makes of it.

A pipeline with classifier-free guidance asks its denoiser for two predictions a step, under the prompt and without it:
as one batch, or one after the other. :func:`steps_changed` runs the denoiser on further texts with the latents of the
same step, and puts another prediction in the place of the prompt's. The pipeline does the rest, whatever its formula of
guidance, its scheduler and its kind of prediction (noise, velocity, flow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rece_lightning.baselines.branches import (
    Branch,
    arguments_of,
    denoisers_under,
    hooked,
    moving_of,
    own_lists,
    rows_of,
    same_step,
)
from rece_lightning.baselines.reweighing import Reweighing
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import known_family

Change = Callable[[Tensor, Tensor | None, list[Tensor]], Tensor]
"""Prediction under the prompt, without it (``None`` where no guidance runs), under further texts → what takes the
first one's place; all of one shape, a picture a row."""


@contextmanager
def steps_changed(
    pipeline: Any,
    branches: Sequence[Branch],
    change: Change,
    unconditional: Branch | None = None,
    *,
    guided: bool,
    steps: int | None = None,
    reweighing: Reweighing | None = None,
) -> Iterator[None]:
    """Within the block, a prediction under the prompt is exchanged for what ``change`` makes of it.

    Args:
        pipeline: of diffusers, called within the block once.
        branches: further texts.
        change: gives what takes the prediction's place; called once a step, in their order.
        unconditional: of a pipeline that asks for the prediction without the prompt in a call of its own.
        guided: whether ``change`` needs that prediction.
        steps: how many of the first steps are changed; all of them unless given.
        reweighing: of the features under the further texts, beside those under the prompt.

    Raises:
        ConfigurationError: if guidance that is needed does not run, or the denoiser was not asked at all.
    """
    family = known_family(pipeline)
    prompt_first = family is not None and family.prompt_first
    hooks = _Steps(
        branches, change, unconditional, guided=guided, prompt_first=prompt_first, most=steps, reweighing=reweighing
    )
    with ExitStack() as stack:
        for denoiser in denoisers_under(pipeline):
            stack.enter_context(hooked(denoiser.register_forward_pre_hook(hooks.asked, with_kwargs=True)))
            stack.enter_context(hooked(denoiser.register_forward_hook(hooks.answered, with_kwargs=True)))
            if reweighing is not None:
                stack.enter_context(reweighing.listening(denoiser))
        yield
    if not hooks.count:
        raise ConfigurationError(
            f"guard: {type(pipeline).__name__} drew without asking the denoiser that it holds; give the pipeline as "
            "diffusers loads it."
        )


class _Steps:
    """The hooks; one object for all denoisers of a pipeline, which take turns."""

    def __init__(
        self,
        branches: Sequence[Branch],
        change: Change,
        unconditional: Branch | None,
        *,
        guided: bool,
        prompt_first: bool,
        most: int | None,
        reweighing: Reweighing | None,
    ) -> None:
        self._branches, self._change, self._unconditional = branches, change, unconditional
        self._guided, self._prompt_first, self._most = guided, prompt_first, most
        self._reweighing = reweighing
        self._call: dict[str, Any] = {}
        self._last: dict[str, Any] | None = None
        self._batched = False
        self.count = 0

    def asked(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what a denoiser is given, before it works on it."""
        self._call = arguments_of(module, args, kwargs)
        if self._reweighing is not None:
            self._reweighing.heard = self._most is None or self.count < self._most

    def answered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """What goes back to the pipeline; ``None`` leaves the answer as it is."""
        if self._most is not None and self.count >= self._most:
            return None
        call, rows = self._call, self._branches[0].rows
        asked = rows_of(call)
        if asked == 2 * rows:
            self._batched = True
            return self._both(module, call, output, rows)
        if asked != rows:
            raise ConfigurationError(
                f"guard: the denoiser is asked for {asked} predictions a step for {rows} pictures, neither one nor two "
                "for each; give a pipeline with plain classifier-free guidance."
            )
        if self._batched:
            return None  # guidance beside guidance: a prediction with layers left out
        if self._last is not None and same_step(self._last, call):
            return None  # the prediction without the prompt
        self._last = call
        return self._alone(module, call, output)

    def _both(self, module: nn.Module, call: dict[str, Any], output: Any, rows: int) -> Any:
        halves = slice(0, rows), slice(rows, 2 * rows)
        own, other = halves if self._prompt_first else halves[::-1]
        moving = {name: _part(call[name], own, rows) for name in moving_of(call)}
        whole = _prediction(output)
        changed = whole.clone()
        changed[own] = self._changed(module, moving, own, whole[own], whole[other])
        return _with(output, changed)

    def _alone(self, module: nn.Module, call: dict[str, Any], output: Any) -> Any:
        moving = {name: call[name] for name in moving_of(call)}
        without = None
        if self._guided:
            if self._unconditional is None:
                raise ConfigurationError(
                    "guard: the denoiser is asked for no prediction without the prompt: guidance is off; give "
                    "guidance_scale above 1."
                )
            without = _run(module, self._unconditional, moving)
        return _with(output, self._changed(module, moving, slice(None), _prediction(output), without))

    def _changed(
        self, module: nn.Module, moving: Mapping[str, Any], rows: slice, own: Tensor, without: Tensor | None
    ) -> Tensor:
        self.count += 1
        with nullcontext() if self._reweighing is None else self._reweighing.damping(rows):
            further = [_run(module, branch, moving) for branch in self._branches]
        return self._change(own, without, further)


def _run(module: nn.Module, branch: Branch, moving: Mapping[str, Any]) -> Tensor:
    # Not through the module itself: hooks are for the pipeline's own calls.
    return _prediction(module.forward(**own_lists({**branch.call, **moving})))


def _part(value: Any, rows: slice, count: int) -> Any:
    """Rows of latents or times of two halves; one time for all is whole."""
    if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != 2 * count):
        return value
    return value[rows] if isinstance(value, (Tensor, list, tuple)) else value


def _prediction(output: Any) -> Tensor:
    """What a denoiser's answer holds, ``[rows, …]``; Z-Image gives a list, one picture each."""
    first = output[0]
    return torch.stack(list(first)) if isinstance(first, (list, tuple)) else first


def _with(output: Any, prediction: Tensor) -> Any:
    """The same answer with another prediction."""
    given: Any = list(prediction.unbind()) if isinstance(output[0], (list, tuple)) else prediction
    if isinstance(output, tuple):
        return (given, *output[1:])
    return type(output)(**{**output, next(iter(output)): given})
