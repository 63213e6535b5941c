"""Whose checkpoint it is: the method, the base model and the concepts that it was made with, against those of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rece_lightning.core.errors import BaseModelError, ConfigurationError


def check_same(
    state: Mapping[str, Any], method: Mapping[str, Any], asked: Mapping[str, Any] | None, what: str = "ckpt_path"
) -> None:
    """Refuse a checkpoint of another method or of other concepts.

    Args:
        state: ``rece`` of the checkpoint.
        method: that is to go on, in plain types.
        asked: what the data asks to erase and to preserve (``ConceptData.summary``), where it is known.
        what: names the checkpoint in messages.

    Raises:
        ConfigurationError: saying what differs.
    """
    changed = ", ".join(differences("model.method", state["method"], method))
    if changed:
        raise ConfigurationError(
            f"{what}: the checkpoint was made with other settings ({changed}); take the config.yaml of its run."
        )
    if asked is not None and asked != state["concepts"]:
        raise ConfigurationError(
            f"{what}: the checkpoint erases other concepts or preserves other prompts than data.concepts and "
            f"data.preserve say now{_examples(state['concepts'], asked)}; start a new run for these."
        )


def check_same_base(state: Mapping[str, Any], fingerprint: Mapping[str, str], name: str) -> None:
    """Refuse a checkpoint of another base model.

    Args:
        state: ``rece`` of the checkpoint.
        fingerprint: of the model that is there.
        name: of that model.

    Raises:
        BaseModelError: saying what differs.
    """
    differing = [key for key in fingerprint if fingerprint[key] != state["fingerprint"].get(key)]
    if differing:
        raise BaseModelError(
            f"ckpt_path: the checkpoint was made from {state['base']!r}; {' and '.join(differing)} of "
            f"model.pretrained {name!r} differ. Give the base it was made from."
        )


def differences(where: str, before: Any, now: Any) -> Iterator[str]:
    """What differs between two plain settings: ``model.method.tokens: 'all' → 'last'``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            inner = where if key == "init_args" else f"{where}.{key}"
            yield from differences(inner, before.get(key), now.get(key))
    elif before != now:
        yield f"{where.removesuffix('.class_path')}: {before!r} → {now!r}"


def _examples(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first prompt that one erases and the other does not."""
    lists = [[str(row["prompt"]) for row in one.get("erased", [])] for one in (before, now)]
    gone, new = ([one for one in a if one not in b][:1] for a, b in (lists, lists[::-1]))
    told = [f"{gone[0]!r} is not among them any more"] if gone else []
    told += [f"{new[0]!r} is new"] if new else []
    return f" ({', '.join(told)})" if told else ""
