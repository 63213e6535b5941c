"""Another method beside an erasure: on the same model, the same prompts, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import BALANCED, ROBUST, Tuning
from rece_lightning.erasure.session import ErasureSession

FIELD = "Evaluation.beside"
AIMS = (BALANCED, ROBUST)


def check_beside(methods: Mapping[str, Method | str]) -> dict[str, Method | str]:
    """Methods under names that tables, files and loggers can carry.

    Raises:
        ConfigurationError: for a name or a method that makes no sense.
    """
    for name, method in methods.items():
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ConfigurationError(f"{FIELD}: {name!r}: give a name of letters, digits, - and _.")
        if isinstance(method, str):
            check_choice(f"{FIELD}.{name}", method, AIMS)
        elif not isinstance(method, Method):
            raise ConfigurationError(f"{FIELD}.{name}: {method!r}; give a Method, or one of {', '.join(AIMS)}.")
    return dict(methods)


def check_fits(name: str, method: Method | str, own: Method) -> None:
    """Refuse a method that what the run counts says nothing of.

    Raises:
        ConfigurationError: naming the setting.
    """
    if isinstance(method, str):
        return
    if method.tokens != own.tokens:
        raise ConfigurationError(
            f"{FIELD}.{name}.tokens: {method.tokens!r}: the run counts {own.tokens!r}, and all its methods share that; "
            "run this one on its own and use rece compare."
        )
    if method.editor.per_layer and not own.editor.per_layer:
        raise ConfigurationError(
            f"{FIELD}.{name}.editor: {type(method.editor).__name__} takes every prompt apart, which this run does not "
            "keep; run this one on its own and use rece compare."
        )


def erased_beside(session: ErasureSession, method: Method | str) -> ErasureSession:
    """The erasure of the same prompts by another method.

    Args:
        session: whose epochs were run.
        method: runs as many epochs; ``balanced`` or ``robust``: it is chosen, and so are its epochs.

    Raises:
        ConfigurationError: if a system is singular.
    """
    tuning = Tuning(method) if isinstance(method, str) else None
    other = ErasureSession(
        session.loaded, Method(tokens=session.method.tokens) if isinstance(method, str) else method,
        session.attacker_scale, tuning,
    )  # fmt: skip
    other.take_prompts({"concepts": session.concepts, "statistics": session.statistics.state_dict()})
    other.step()
    choice = other.tuned.choice
    for _ in range(1, len(session.history) if choice is None else int(choice["chosen"]["epochs"])):
        other.step()
    return other
