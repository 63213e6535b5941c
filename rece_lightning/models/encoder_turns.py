"""Several text encoders of which one is in memory at a time: each has all prompts for itself, and is let go.

A pipeline's ``encode_prompt`` calls its encoders one after another for every prompt. Here they take turns: in a turn
one encoder really runs, for prompt after prompt; what it answers is kept, and is its answer when ``encode_prompt`` is
asked again in the turns of the others. The rows are the same bits. Peak memory is that of the largest encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Answer = TypeVar("Answer")
ROOM = 512 << 20
"""Bytes of answers that are kept for the turns of the others; prompts beyond it wait for another round."""


class _NotYet(Exception):
    """An encoder was called that is not in this turn."""


class EncoderTurns:
    """Puts encoders into memory and lets go of them, one at a time, whoever calls them.

    Args:
        encoders: by the name of their part; with one there is nothing to take turns.
        load: gives a part anew, from the files that it came from.
        device: where they run.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], load: Callable[[str], nn.Module], device: torch.device | str
    ) -> None:
        self.encoders, self.device = dict(encoders), torch.device(device)
        self._load = load
        self._here = set(self.encoders) if self.device.type == "cpu" else set()
        """Whose weights are here. On the CPU files are mapped: what nobody has read takes no memory."""
        self._ran: set[str] = set()
        self._all = False
        self._turn: str | None = None
        self._given: dict[str, list[Any]] | None = None
        self._kept: dict[str, list[Any]] = {}
        for name, module in self.encoders.items():
            module.forward = partial(self._forward, name, module.forward)

    def hold(self) -> None:
        """All of them stay here from now on: somebody works on their weights."""
        if not self._all:
            self._all = True
            for name in self.encoders:
                self._wake(name)

    def answers(self, prompts: Sequence[str], ask: Callable[[str], Answer]) -> Iterator[Answer]:
        """What ``ask`` gives of each prompt, in their order.

        Args:
            prompts: any number.
            ask: calls the encoders, each at most once it has what the others answered, and the same ones every time.
        """
        if self._all or len(self.encoders) == 1:
            yield from map(ask, prompts)
            return
        left = list(prompts)
        while left:
            done = self._round(left, ask)
            left = left[len(done) :]
            yield from done

    def _round(self, prompts: Sequence[str], ask: Callable[[str], Answer]) -> list[Answer]:
        """Answers of as many prompts as there is room for, at least one."""
        given: list[dict[str, list[Any]]] = []
        room = ROOM
        while True:
            found: list[Answer] = []
            self._turn = None
            for place, prompt in enumerate(prompts[: len(given) or None]):
                if place == len(given):  # in the first turn
                    given.append({})
                self._given, self._kept = {name: list(outputs) for name, outputs in given[place].items()}, {}
                try:
                    found.append(ask(prompt))
                except _NotYet:
                    for name, outputs in self._kept.items():
                        given[place].setdefault(name, []).extend(outputs)
                        room -= sum(map(_bytes, outputs))
                finally:
                    self._given = None
                if room < 0 and place + 1 == len(given):
                    break
            if len(found) == len(given):
                return found

    def _forward(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._given is None:
            self._take(name)
            return original(*args, **kwargs)
        if self._given.get(name):
            return self._given[name].pop(0)
        if self._turn not in (None, name):
            raise _NotYet
        self._turn = name
        self._take(name)
        answer = original(*args, **kwargs)
        self._kept.setdefault(name, []).append(answer)
        return answer

    def _take(self, name: str) -> None:
        """Have one here, and no other."""
        if self._all:
            return
        for other in (self._here & self._ran) - {name}:
            _let_go(self.encoders[other], self.device)
            self._here.remove(other)
        self._wake(name)
        self._ran.add(name)

    def _wake(self, name: str) -> None:
        if name not in self._here:
            _put_into(self.encoders[name], self._load(name).to(self.device))
            self._here.add(name)


def _let_go(module: nn.Module, device: torch.device) -> None:
    """Keep names, shapes, dtypes and the device of the weights alone: pipelines ask for them.

    Each is one number in memory. It is NaN, so that an encoder that ran without its weights would be heard of.
    """
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            nothing = torch.full((), torch.nan, dtype=weight.dtype, device=device).expand(weight.shape)
            setattr(part, name, nn.Parameter(nothing, requires_grad=False))


def _put_into(module: nn.Module, loaded: nn.Module) -> None:
    """Give a module another one's weights and buffers: the same objects, so that what is tied stays tied."""
    for part, other in zip(module.modules(), loaded.modules(), strict=True):
        for name, weight in list(other.named_parameters(recurse=False)):
            setattr(part, name, weight.requires_grad_(False))
        for name, buffer in list(other.named_buffers(recurse=False)):
            setattr(part, name, buffer)


def _bytes(value: Any) -> int:
    """Of all tensors in what an encoder answered."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0
