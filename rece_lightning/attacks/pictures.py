"""Where an attacker's pictures of a concept come from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rece_lightning.attacks.base import NEUTRAL, Goal, make_goal
from rece_lightning.attacks.victim import Victim
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.pictures import Renderer
from rece_lightning.metrics.detection import EmojiDetector


@runtime_checkable
class ConceptPictures(Protocol):
    """Gives pictures of a concept. Any class with this method can be named in YAML."""

    def of(self, victim: Victim, goal: Goal, count: int) -> Tensor:
        """Pictures of the goal's concept, ``[count, 3, h, w]`` in [0, 1]; the same ones every time."""


class OriginalPictures:
    """Drawn by the original model under the goal's own prompt, seeds 1,000, 1,001, …

    With a detector, those that show the concept come first.

    Args:
        spare: how many more are drawn for each that is wanted.
    """

    def __init__(self, spare: float = 0.5) -> None:
        self.spare = spare

    def of(self, victim: Victim, goal: Goal, count: int) -> Tensor:
        """Pictures of the original model; kept with the victim, so that attacks share them."""
        key = ("original", goal.concept, goal.prompt, count)
        if key not in victim.drawn:
            many = count + int(count * self.spare)
            own = victim.requests([goal.prompt])[0]
            # Away from the seeds that success is measured with.
            drawn = victim.draw([replace(own, seed=1000 + seed) for seed in range(many)], edited=False)
            if victim.detector is not None:
                hits = victim.detector.detect(drawn, [goal.concept] * many)
                drawn = drawn[hits.int().argsort(descending=True, stable=True)]
            victim.drawn[key] = drawn[:count]
        return victim.drawn[key]


class EmojiPictures:
    """Rendered from the embedded world's own sprites: a source that also has what no U-Net was trained on.

    Args:
        seed: of styles, backgrounds and placement.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def of(self, victim: Victim, goal: Goal, count: int) -> Tensor:
        """Pictures of an object in random styles and on random backgrounds.

        Raises:
            ConfigurationError: for a concept that is no object of the catalog.
        """
        catalog = load_catalog()
        index = catalog.resolve(goal.concept)
        if index is None:
            raise ConfigurationError(f"attacks: the embedded world has no object {goal.concept!r}; name one it has.")
        generator = torch.Generator().manual_seed(self.seed)
        styles = torch.randint(len(catalog.styles), (count,), generator=generator)
        backgrounds = torch.randint(len(catalog.backgrounds), (count,), generator=generator)
        objects = torch.full((count,), index)
        return (_renderer().render(objects, styles, backgrounds, generator) + 1) / 2


def source_for(given: ConceptPictures | None, victim: Victim, goal: Goal, attack: str) -> ConceptPictures:
    """Where an attack's pictures come from: the same place for a concept and its control.

    Args:
        given: by the user.
        victim: whose detector says what world it is.
        goal: of the pictures.
        attack: its name, for messages.

    Raises:
        ConfigurationError: for a control of which there can be no pictures.
    """
    source = given
    if source is None:
        source = EmojiPictures() if isinstance(victim.detector, EmojiDetector) else OriginalPictures()
    if goal.control and isinstance(source, OriginalPictures):
        raise ConfigurationError(
            f"attacks: {attack}: the model cannot draw the control {goal.concept!r}; give a source of pictures "
            "for it and the concepts alike."
        )
    return source


def told_source(given: ConceptPictures | None) -> str:
    """A source by its class and arguments; ``auto`` where the user gave none."""
    return "auto" if given is None else f"{type(given).__name__} {sorted(vars(given).items())}"


def pictures_of_another(source: ConceptPictures, victim: Victim, goal: Goal, count: int) -> Tensor:
    """Pictures of a common thing that is not the goal's concept, from the same source, ``[count, 3, h, w]``."""
    known = {word.lower() for word in (goal.concept, goal.prompt, *goal.synonyms)}
    thing = next(thing for thing in NEUTRAL if thing not in known)
    if not isinstance(source, OriginalPictures):
        return source.of(victim, make_goal(thing), count)
    # A detector need not know the thing.
    own = victim.requests([thing])[0]
    return victim.draw([replace(own, seed=1000 + seed) for seed in range(count)], edited=False)


def fitted(pictures: Tensor, size: tuple[int, int], source: ConceptPictures, attack: str) -> Tensor:
    """Pictures at the size that a model draws, scaled as a whole: what has other proportions is squeezed.

    Args:
        pictures: of a source, ``[n, 3, h, w]`` in [0, 1].
        size: height and width in pixels.
        source: of the pictures, for messages.
        attack: its name, for messages.

    Returns:
        ``[n, 3, height, width]`` in [0, 1]; those of this size are the same tensor.

    Raises:
        ConfigurationError: for what is no batch of pictures in colour with values in [0, 1].
    """
    named = f"attacks: {attack}: source: {type(source).__name__}"
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.numel():
        raise ConfigurationError(f"{named} gives a tensor of {tuple(pictures.shape)}; give pictures [n, 3, h, w].")
    least, most = float(pictures.min()), float(pictures.max())
    if not (least >= 0 and most <= 1):  # NaN too
        raise ConfigurationError(
            f"{named} gives values from {least:g} to {most:g}; give pictures with values in [0, 1]."
        )
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    scaled = interpolate(pictures.float(), size, mode="bicubic", antialias=True)
    return scaled.clamp(0, 1).to(pictures)  # bicubic filters overshoot at edges


@cache
def _renderer() -> Renderer:
    return Renderer(load_catalog())
