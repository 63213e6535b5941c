"""A guard: what stands around a pipeline and changes its pictures, not its weights."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ClassVar

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.models.denoisers import known_family
from rece_lightning.models.families import family_named
from rece_lightning.models.families.base import Family

TRUE_GUIDANCE = "true_cfg_scale"
"""Argument of a pipeline whose ``guidance_scale`` is a number that the model is given."""


class Guard(ABC):
    """Changes how a pipeline draws, and leaves its weights as they are.

    A subclass is a frozen dataclass: its fields are the settings. :func:`guard` puts it around a pipeline, the setting
    ``Evaluation.guard`` around whatever is measured.
    """

    needs_guidance: ClassVar[bool] = True
    """Whether it works through the unconditional branch of classifier-free guidance."""
    reads_words: ClassVar[bool] = False
    """Whether it reads a prompt's words: who gives embeddings passes it by."""

    @property
    @abstractmethod
    def title(self) -> str:
        """As tables call it: the method with what decides its pictures."""

    @abstractmethod
    def draw(self, pipeline: Any, arguments: Mapping[str, Any], texts: Sequence[str | None]) -> Any:
        """Call a pipeline under the guard.

        Args:
            pipeline: of diffusers, without the guard.
            arguments: of its call, by name.
            texts: what each picture's embeddings were made from, or ``None`` where nobody knows; of prompts themselves.

        Returns:
            What the pipeline returns.

        Raises:
            ConfigurationError: if it cannot stand around this pipeline, or guidance is off that it needs.
        """

    def check_guidance(self, field: str, scale: float, off: float = 1.0) -> None:
        """Refuse a guidance scale that switches guidance off.

        Args:
            field: where it was given, for messages.
            scale: of the guidance.
            off: up to which scale it is off; most pipelines' is 1.

        Raises:
            ConfigurationError: with the remedy.
        """
        if self.needs_guidance and scale <= off:
            raise ConfigurationError(
                f"{field}: {scale:g} switches guidance off, and {self.title} works through it; give more than {off:g}."
            )

    def check_asked(self, field: str, name: str, scales: Iterable[float | None]) -> None:
        """Refuse a model or prompts that it cannot work with, before a model is loaded.

        Args:
            field: where the guard was given, for messages.
            name: of the model's family, as ``BaseModel.family`` has it.
            scales: of guidance that prompts bring themselves.

        Raises:
            ConfigurationError: with the remedy.
        """
        family = family_named(name)
        if self.needs_guidance and family is not None and not family.negative:
            raise ConfigurationError(f"{field}: {self.no_branch(family.title)}")
        for scale in scales:
            if scale is not None:
                self.check_guidance(f"{field}: a prompt's guidance_scale", scale)

    def check_call(self, pipeline: Any, arguments: Mapping[str, Any]) -> None:
        """Refuse a call of a pipeline without guidance, where it is needed.

        Args:
            pipeline: that is called.
            arguments: of the call.

        Raises:
            ConfigurationError: with the remedy.
        """
        if not self.needs_guidance:
            return
        name = guidance_argument(pipeline)
        taken = inspect.signature(pipeline.__call__).parameters
        family = known_family(pipeline)
        if name not in taken:
            raise ConfigurationError(
                f"guard: {type(pipeline).__name__} takes no {name}, and {self.title} works through guidance; give a "
                "pipeline with classifier-free guidance."
            )
        scale = arguments.get(name, taken[name].default)
        if family is not None and not family.negative and (name != TRUE_GUIDANCE or name not in arguments):
            raise ConfigurationError(f"guard: {self.no_branch(family.title)}")
        self.check_guidance(f"guard: {name}", float(scale), unguided(family))

    def no_branch(self, title: str) -> str:
        """Why it cannot work with a model, and what to do.

        Args:
            title: of the model's family or pipeline.
        """
        return (
            f"{self.title} works through the unconditional branch of guidance, and {title} is drawn without one "
            f"(its guidance is a number that the model is given); take OutputFilter or SAFREE, or call a pipeline that "
            f"takes {TRUE_GUIDANCE} with a negative prompt yourself."
        )


def guidance_argument(pipeline: Any) -> str:
    """Name of the argument that scales classifier-free guidance.

    Args:
        pipeline: of diffusers.
    """
    if TRUE_GUIDANCE in inspect.signature(pipeline.__call__).parameters:
        return TRUE_GUIDANCE
    family = known_family(pipeline)
    return "guidance_scale" if family is None else family.guidance


def unguided(family: Family | None) -> float:
    """The scale that switches a pipeline's guidance off.

    Args:
        family: of the pipeline; ``None`` for a U-Net of Stable Diffusion's kind.
    """
    return 1.0 if family is None else family.unguided


def guard(pipeline: Any, how: Guard) -> Any:
    """A pipeline that draws under a guard; the one that was given is left as it is, and shares all parts with it.

    The guarded pipeline is of the same class and is called as before. There is nothing to undo: let go of it and use
    the first one. Guards can be put around one another::

        guarded = rece_lightning.guard(pipeline, SLD("strong", concept="bomb"))
        guarded("a bomb", num_inference_steps=20)

    Args:
        pipeline: of diffusers.
        how: the guard.

    Raises:
        ConfigurationError: for something that is no guard.
    """
    if not isinstance(how, Guard):
        raise ConfigurationError(f"guard: {how!r} is no guard; give one such as SLD('strong', concept='bomb').")
    kind = type(pipeline)

    @wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(inspect.signature(kind.__call__).bind(self, *args, **kwargs).arguments)
        more = [one for one in inspect.signature(kind.__call__).parameters.values() if one.kind is one.VAR_KEYWORD]
        for one in more:
            arguments |= arguments.pop(one.name, {})
        arguments.pop(next(iter(inspect.signature(kind.__call__).parameters)))
        return how.draw(_alike(self, kind), arguments, texts_of(arguments))

    # It saves itself under the name of the pipeline's own class.
    guarded = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__, "__doc__": kind.__doc__})
    return _alike(pipeline, guarded)


def _alike(pipeline: Any, kind: type) -> Any:
    """An object of another class with the same parts."""
    other: Any = object.__new__(kind)
    other.__dict__.update(vars(pipeline))
    return other


def texts_of(arguments: Mapping[str, Any]) -> list[str | None]:
    """The prompts of a pipeline's call, one a picture; ``None`` for each where it is given embeddings.

    Args:
        arguments: of the call.
    """
    prompt = arguments.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if prompt is not None:
        return list(prompt)
    # Of HiDream's several layers the batch is not the first axis.
    rows = [
        value
        for name, value in arguments.items()
        if "prompt_embeds" in name and not name.startswith("negative") and value is not None and "llama" not in name
    ]
    return [None] * (len(rows[0]) if rows else 0)
