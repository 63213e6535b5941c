"""A denoiser that somebody trains: whatever is read out of it to be kept is erased, what is trained is not."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.adapters import CarriedErasure
from rece_lightning.erasure.lora_training import LoraTraining
from rece_lightning.erasure.undo import digest
from rece_lightning.models.pipelines import put_weights

Edit = Callable[[Mapping[str, Tensor], Mapping[str, Any], bool], dict[str, Tensor]]
"""Weights that read the text, under their names in the denoiser; what was saved beside them, under its names in the
module around it; and whether every rank does this now → those weights erased."""

NOTHING: Mapping[str, Any] = {}

_held: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()
"""One hook a denoiser: a training that was interrupted leaves its own behind, and the next one takes it off."""

Saved = TypeVar("Saved")


class DenoiserInTraining:
    """The erasures of a denoiser that is being trained, in their order, and which of them its weights hold already.

    Several can be added; each edits what the one before it left. The weights are compared by content, since an average
    of weights or a user's own code may be copied over them at any moment.

    Args:
        denoiser: that is trained.
        root: the module whose state dict goes into checkpoints; the denoiser may lie in it or outside.
        names: gives the names of the denoiser's parameters that what reads the text is computed from.
        loras: of the denoiser, where some are trained.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        root: nn.Module,
        names: Callable[[], list[str]],
        loras: LoraTraining | None = None,
    ) -> None:
        self.denoiser, self.root, self.names = denoiser, root, names
        self.loras = loras or LoraTraining(denoiser, "Erase")
        self._edits: dict[object, Edit] = {}
        self._in_weights: set[object] = set()
        self._left: dict[str, str] = {}
        self._handed_out: deque[dict[str, str]] = deque(maxlen=8)
        self._hook: RemovableHandle | None = None

    # Whose erasures

    def add(self, owner: object, edit: Edit) -> None:
        """Add an erasure after those that are there."""
        self._edits[owner] = edit

    def forget(self, owner: object) -> bool:
        """Take an erasure off; whether none is left."""
        self._edits.pop(owner, None)
        self._in_weights.discard(owner)
        if not self._edits:
            self.release()
        return not self._edits

    # The live weights

    def trained(self) -> None:
        """The live weights may have been trained on: they hold no erasure any more."""
        self._in_weights.clear()

    def edit(self, owner: object = None) -> None:
        """Put the erasures into the live weights that they do not hold: one, or every one in order; on every rank."""
        missing = self._missing_in(self._live())
        wanted = [one for one in missing if owner is None or one is owner]
        if wanted:
            put_weights(self.denoiser, self._edited(self._live(), wanted, together=True))
            self._in_weights = {one for one in self._edits if one not in missing or one in wanted}
            self._left = marks(self._live())

    def carry(self) -> CarriedErasure | None:
        """Have a LoRA that was trained carry the erasures that the live weights hold, in place of its base."""
        if self._missing_in(self._live()):
            return None
        added = self.loras.carry()
        if added is not None:
            self._left = marks(self._live())
        return added

    def _live(self) -> dict[str, Tensor]:
        return {name: self.denoiser.get_parameter(name).detach() for name in self.names()}

    # What is read out of it

    @property
    def holds(self) -> bool:
        """Whether ``state_dict()`` of the denoiser gives erased weights."""
        return self._hook is not None and _held.get(self.denoiser) is self._hook

    def hold(self) -> None:
        """From here on ``state_dict()`` gives erased weights: checkpoints, ``save_pretrained``, ``torch.save``.

        They are copies that cannot be written to: PyTorch refuses it, where a write would be lost without a word.
        """
        if not self.holds:
            if self.denoiser in _held:
                _held.pop(self.denoiser).remove()
            self._hook = _held[self.denoiser] = self.denoiser.register_state_dict_post_hook(self)

    def release(self) -> None:
        """From here on ``state_dict()`` gives the weights as they are."""
        if self.holds:
            _held.pop(self.denoiser).remove()

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        """The hook itself; ``module`` is the denoiser, or a copy of it: a copy takes its hooks along."""
        if module is not self.denoiser and not self._is_copy_of_now(module):
            return
        found = {name: state.get(f"{prefix}{name}") for name in self.names()}
        # Parameters themselves are asked for (keep_vars) to compute with them, not to keep them.
        weights = {name: weight for name, weight in found.items() if type(weight) is Tensor}
        if not weights:
            return
        edited = self._edited(weights, self._missing_in(self._live()))
        self._handed_out.append(marks(weights | edited))
        # The state of the denoiser itself is what a LoRA is taken out of (peft's get_peft_model_state_dict).
        wide = {} if prefix else self.loras.wide(weights | edited)
        if wide:
            self._handed_out.append(marks(weights | edited | wide))
        with torch.inference_mode():
            for name, weight in (edited | wide).items():
                state[f"{prefix}{name}"] = weight.clone()

    def _is_copy_of_now(self, module: nn.Module) -> bool:
        """Whether a copy holds the live weights, in whatever dtype; one that went its own way is not ours to change."""
        theirs = dict(module.named_parameters())
        return all(
            name in theirs and theirs[name].is_meta == mine.is_meta and torch.equal(theirs[name], mine.to(theirs[name]))
            for name, mine in self._live().items()
        )

    def _missing_in(self, weights: Mapping[str, Tensor]) -> list[object]:
        """Whose erasures weights do not hold: all, unless they are what the last edit left."""
        holding = self._in_weights if marks(weights).items() <= self._left.items() else set()
        return [owner for owner in self._edits if owner not in holding]

    def _edited(
        self,
        weights: Mapping[str, Tensor],
        owners: Sequence[object],
        beside: Mapping[str, Any] = NOTHING,
        *,
        together: bool = False,
    ) -> dict[str, Tensor]:
        """Weights after some erasures, where they were, in their dtype; those alone that were edited."""
        edited: dict[str, Tensor] = {}
        for owner in owners:
            done = self._edits[owner](dict(weights) | edited, beside, together)
            edited |= {name: weight.to(weights[name]) for name, weight in done.items() if name in weights}
        return edited

    def __deepcopy__(self, memo: dict[int, Any]) -> DenoiserInTraining:
        return self

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            "Erase: a pickled module holds the weights of the training, which are not erased; save its state_dict(), "
            "or use save_pretrained()."
        )

    # What was read out of something else

    def erased(self, saved: Saved) -> Saved:
        """What is about to be written, with every copy of the denoiser's weights in it erased.

        A copy is a dictionary, at any depth, that holds weights of the denoiser's shapes under the names that they have
        in the denoiser or in the module around it, with whatever wrapper's name before (``module.``). So are an average
        of the weights that another callback keeps, and the trained weights beside it; another denoiser of the module
        is not. What :meth:`hold` had handed out stays as it is. Nothing is changed in place.
        """
        shapes = {name: weight.shape for name, weight in self._live().items()}
        parts = self.root.named_modules(remove_duplicate=False)
        return self._erased_in(saved, shapes, {name: part is self.denoiser for name, part in parts if name})

    def loadable(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint that was read, with LoRAs of the shapes that are trained: what one carried is in its base."""
        state = loaded.get("state_dict")
        if not isinstance(state, Mapping) or not self.loras.is_remembered:
            return loaded
        parts = self.root.named_modules(remove_duplicate=False)
        for place in (*(f"{name}." for name, part in parts if name and part is self.denoiser), ""):
            narrow, gone = self._narrow_in(state, place)
            if narrow:
                state = {name: weight for name, weight in state.items() if name not in gone} | narrow
        return {**loaded, "state_dict": state}

    def _narrow_in(self, saved: Mapping[str, Any], place: str) -> tuple[dict[str, Tensor], list[str]]:
        changed, gone = self.loras.narrow(
            {
                name.removeprefix(place): weight
                for name, weight in saved.items()
                if isinstance(name, str) and name.startswith(place) and isinstance(weight, Tensor)
            }
        )
        return {f"{place}{name}": weight for name, weight in changed.items()}, [f"{place}{name}" for name in gone]

    def _wide_of(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is saved of a LoRA without its base, so that it erases."""
        live = self._live()
        whole = live | self._edited(live, self._missing_in(live))
        if not marks(weights).items() <= marks(whole).items():  # another copy than the one that was handed out
            whole = live | dict(weights)
            whole |= self._edited(whole, self._missing_in(whole))
        return {name: weight for name, weight in self.loras.wide(whole).items() if name in weights}

    def _erased_in(self, saved: Any, shapes: Mapping[str, torch.Size], parts: Mapping[str, bool]) -> Any:
        """The same, once the names of the module's parts are known, and which of them are the denoiser."""
        if not isinstance(saved, Mapping):
            return saved
        changed: dict[Any, Any] = {}
        gone: list[str] = []
        for (wrapper, path), weights in copies_in(saved, shapes, parts).items():
            place = f"{wrapper}{path}"
            if self.loras.is_alone(weights):
                changed |= {f"{place}{name}": weight for name, weight in self._wide_of(weights).items()}
                continue
            narrow, dropped = self._narrow_in(saved, place) if self.loras.is_wide else ({}, [])
            if narrow:
                changed, gone = changed | narrow, [*gone, *dropped]
                continue
            known = marks(weights).items()
            if any(known <= handed.items() for handed in self._handed_out):
                continue
            beside = {str(key).removeprefix(wrapper): value for key, value in saved.items()} if path else NOTHING
            edited = self._edited(weights, self._missing_in(weights), beside)
            changed |= {f"{place}{name}": weight for name, weight in edited.items()}
        for key, value in saved.items():
            inside = self._erased_in(value, shapes, parts)
            if inside is not value:
                changed[key] = inside
        if not changed:
            return saved
        result = copy.copy(saved)
        result.update(changed)  # type: ignore[attr-defined]
        for name in gone:
            del result[name]  # type: ignore[attr-defined]
        return result


def copies_in(
    saved: Mapping[Any, Any], shapes: Mapping[str, torch.Size], parts: Mapping[str, bool]
) -> dict[tuple[str, str], dict[str, Tensor]]:
    """Copies of a denoiser's weights in a dictionary.

    Args:
        saved: to look in.
        shapes: of its weights, by name.
        parts: names of the parts of the module around it; whether each is the denoiser.

    Returns:
        Wrapper's name and the denoiser's within it, both with their dots → its weights by name.
    """
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, weight in saved.items():
        if not isinstance(key, str) or not isinstance(weight, Tensor) or not weight.is_floating_point():
            continue
        name = next((end for end in endings(key) if end in shapes), None)
        if name is None or weight.shape != shapes[name]:
            continue
        place = key.removesuffix(name)
        part = next((end for end in endings(place.removesuffix(".")) if end in parts), None)
        if part is None or parts[part]:
            path = "" if part is None else f"{part}."
            found.setdefault((place.removesuffix(path), path), {})[name] = weight
    return found


def endings(name: str) -> Iterator[str]:
    """A name with dots, and what is left of it from each of its parts on, the longest first."""
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(len(parts)))


def marks(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each weight's dtype and bytes."""
    return {name: digest(weight) for name, weight in weights.items()}


@contextmanager
def lent(root: nn.Module, part: nn.Module, saved: Mapping[str, Any]) -> Iterator[None]:
    """A part of a module holds what was saved of it for as long as the block lasts.

    Args:
        root: that was saved.
        part: of it.
        saved: name in ``root`` → tensor; what is not in it stays.
    """
    places = [f"{name}." for name, one in root.named_modules(remove_duplicate=False) if name and one is part]
    own = {name: weight for name, weight in part.named_parameters() if any(f"{p}{name}" in saved for p in places)}
    before = {name: weight.detach().clone() for name, weight in own.items()}
    try:
        put_weights(part, {name: next(saved[f"{p}{name}"] for p in places if f"{p}{name}" in saved) for name in own})
        yield
    finally:
        put_weights(part, before)
