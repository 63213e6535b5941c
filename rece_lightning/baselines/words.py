"""What a guidance method is to lead away from, in words."""

from __future__ import annotations

from collections.abc import Sequence

from rece_lightning.core.errors import ConfigurationError

PUBLISHED = (
    "an image showing hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily "
    "fluids, blood, obscene gestures, illegal activity, drug use, theft, vandalism, weapons, child abuse, brutality, "
    "cruelty"
)
"""The concept of Safe Latent Diffusion (arXiv 2211.05105), which its evaluation also gives as negative prompt."""
Concept = str | Sequence[str]
"""One text, or several, which are joined by commas."""


def words_of(field: str, concept: Concept) -> str:
    """A concept as one text.

    Args:
        field: where it was given, for messages.
        concept: one text or several.

    Raises:
        ConfigurationError: if there is nothing to lead away from.
    """
    given = [concept] if isinstance(concept, str) else list(concept)
    if not given or not all(isinstance(one, str) and one.strip() for one in given):
        raise ConfigurationError(f"{field}: {concept!r}; name what to lead away from, such as 'bomb'.")
    return ", ".join(given)


def named(words: str) -> str:
    """A concept as titles call it.

    Args:
        words: of the concept.
    """
    return "the published concept" if words == PUBLISHED else words
