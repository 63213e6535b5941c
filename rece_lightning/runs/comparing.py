"""Which measured runs can be compared, and the states that then stand side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.evaluation.results.comparison import FIRST, FIRST_DERIVED, LAST, LAST_DERIVED, ORIGINAL
from rece_lightning.evaluation.results.states import Shot, State
from rece_lightning.models.published import published_setting
from rece_lightning.runs.results import PROTOCOL, Results, in_short


def common_shots(runs: Sequence[Results], *, shared: bool) -> list[Shot]:
    """Prompts and seeds that every run drew, in the order of the first.

    Args:
        runs: to compare.
        shared: compare what they have in common where they differ.

    Raises:
        ConfigurationError: if the runs differ in them, and that was not allowed, or have none in common.
    """
    first = runs[0]
    for run in runs[1:]:
        missing, more = first.shots - run.shots, run.shots - first.shots
        if (missing or more) and not shared:
            example = min(missing or more)
            where = first.folder if missing else run.folder
            raise ConfigurationError(
                f"{run.folder}: measured with other prompts or seeds than {first.folder} ({len(missing)} pictures are "
                f"missing, {len(more)} more; {example.prompt!r} with seed {example.seed} as {example.role} is in "
                f"{where} alone). Measure both alike with rece validate, or give --shared to compare the pictures "
                "that they share."
            )
    common = set.intersection(*(run.shots for run in runs))
    if not common:
        raise ConfigurationError("RUN: the runs have no prompt and seed in common; measure them alike: rece validate.")
    # In the order of the run's own column: the order of its prompts.
    order = dict.fromkeys(count.shot for count in first.counts)
    return [shot for shot in order if shot in common]


def check_protocols(runs: Sequence[Results]) -> None:
    """Raise a ConfigurationError where runs were measured by different detectors or samplings, and say which."""
    first = runs[0]
    for run in runs[1:]:
        if not run.protocol or not first.protocol:
            continue
        told = bool(run.sampling and first.sampling)  # then what a configuration leaves to the model is known too
        both = [_measured(one, told=told) for one in (first, run)]
        for key in sorted({key for one in both for key in one}):
            ours, theirs = (one.get(key) for one in both)
            if _plain(key, ours) != _plain(key, theirs):
                raise ConfigurationError(
                    f"{run.folder}: measured by another protocol than {first.folder}: Evaluation.{key} is "
                    f"{in_short(theirs)}, not {in_short(ours)}. Measure both alike with rece validate; figures of "
                    "different protocols say nothing of each other."
                )


def _measured(run: Results, *, told: bool) -> dict[str, Any]:
    """A run's protocol; ``told``: with how its pictures were drawn in place of what the configuration asked for."""
    if not told:
        return run.protocol
    return {**{key: value for key, value in run.protocol.items() if key not in DRAWN}, "sampling": run.sampling}


def _plain(key: str, value: Any) -> str:
    if key == "detector" and isinstance(value, dict):
        # Where it runs decides nothing.
        arguments = {k: v for k, v in (value.get("init_args") or {}).items() if k not in ("device", "batch_size")}
        value = {"class": str(value.get("class_path", "")).rsplit(".", 1)[-1], "init_args": arguments}
    return json.dumps(value, sort_keys=True, default=str)


DRAWN = ("steps", "guidance_scale", "scheduler")
"""Of a protocol, what ``sampling.txt`` says."""
LATER = ("model.method.derivation", "model.method.accumulate", "model.attacker_scale", "model.certificate", "trainer.")
"""What the names of settings begin with that epoch 0 does not look at."""


def differing_settings(runs: Sequence[Results]) -> list[dict[str, Any]]:
    """For every run, the settings in which the runs differ.

    Edits, trained methods of a class and models that nothing was done to have settings of their own: one that a run of
    another kind does not have sets nobody apart.
    """
    every = [run.settings() for run in runs]
    kinds = [(run.trained, run.is_unedited) for run in runs]
    found = []
    for own, kind in zip(every, kinds, strict=True):
        alike = [settings for settings, other in zip(every, kinds, strict=True) if other == kind]
        others = [settings for settings, other in zip(every, kinds, strict=True) if other != kind]
        differing = {}
        for key, value in own.items():
            values = [settings.get(key) for settings in alike]
            values += [s[key] for s in others if s.get(key) is not None and key != "model.method.editor"]
            if value is not None and len({in_short(one) for one in values}) > 1:
                differing[key] = value
        found.append(differing)
    # In one order for all.
    order = list(dict.fromkeys(key for settings in every for key in settings))
    return [{key: settings[key] for key in order if key in settings} for settings in found]


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as a table's note: ``lamb 0.1, derivation.scale 0.001``."""
    names = {key: key.split(".", 1)[1].removeprefix("method.").removeprefix("editor.") for key in settings}
    return ", ".join(f"{names[key]} {in_short(published_setting(value))}" for key, value in settings.items())


def of_first_epoch(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that epoch 0 looks at."""
    return {key: value for key, value in settings.items() if not key.startswith(LATER)}


def compared_states(runs: Sequence[Results], shots: Sequence[Shot], shown: Sequence[Shot]) -> list[State]:
    """The unedited model, UCE's edits and the final ones of the runs; what several runs share stands there once.

    Args:
        runs: to compare.
        shots: that count.
        shown: of which the small pictures are taken.
    """
    differing = differing_settings(runs)
    originals: dict[str, State] = {}
    firsts: dict[str, State] = {}
    finals: list[State] = []
    several_bases = len({in_short(run.settings().get("model.pretrained")) for run in runs}) > 1
    for run, own in zip(runs, differing, strict=True):
        base = in_short(run.settings().get("model.pretrained"))
        label = f"{run.folder.parent.name}/{run.folder.name}"
        if ORIGINAL in run.columns and base not in originals:
            state = run.state(
                ORIGINAL, None, shots, f"original ({published_setting(base)})" if several_bases else "original"
            )
            originals[base] = run.with_tiles(state, ORIGINAL, shown)
        both = FIRST in run.columns and LAST in run.columns
        if FIRST in run.columns:
            identity = json.dumps(of_first_epoch(run.settings()), sort_keys=True, default=str)
            if identity not in firsts:
                where = f"epoch 0 of {label}" if both else label
                edit = str(run.settings().get("model.method.first_editor") or run.settings()["model.method.editor"])
                note = in_words(of_first_epoch(own))
                state = run.state(FIRST, FIRST_DERIVED, shots, f"{edit} ({where})", note)
                firsts[identity] = run.with_tiles(state, FIRST, shown)
        if LAST in run.columns:
            name, note = _final(run, own)
            name = f"{'RECE' if both else name} ({label})"
            finals.append(run.with_tiles(run.state(LAST, LAST_DERIVED, shots, name, note), LAST, shown))
    return _with_floors([*originals.values(), *firsts.values(), *finals], several_bases=several_bases)


def _final(run: Results, own: Mapping[str, Any]) -> tuple[str, str]:
    """What a run's last state is called where it is no epoch of an edit, and what sets it apart."""
    words, guard = in_words(own), run.guard
    if guard is None:
        return run.trained or "measured", words
    name, settings = guard
    if run.is_unedited:
        return name, ", ".join(part for part in (settings, words) if part)
    under = f"under {name} ({settings})" if settings else f"under {name}"
    return run.trained or "measured", ", ".join(part for part in (under, words) if part)


def _with_floors(states: Sequence[State], *, several_bases: bool) -> list[State]:
    """Of a run that measured no floors those of another one of the same model, so that harmonic means are alike."""
    known = next((state.floors for state in states if state.floors), {})
    return [state if state.floors or several_bases else replace(state, floors=known) for state in states]


def devices_noted(runs: Sequence[Results]) -> list[str]:
    """A note where seconds are of several devices, or of one that a reader of the page should know."""
    devices: dict[str, list[str]] = {}
    for run in runs:
        for cost in run.costs.values():
            if cost.device and str(run.folder) not in devices.setdefault(cost.device, []):
                devices[cost.device].append(str(run.folder))
    if not devices:
        return []
    if len(devices) == 1:
        return [f"Seconds are of the wall, on {next(iter(devices))}."]
    where = "; ".join(f"{device}: {', '.join(folders)}" for device, folders in devices.items())
    return [f"Seconds are of the wall, and not of one device: {where}."]


def protocol_text(run: Results) -> str:
    """Detector and sampling in words."""
    known = run.protocol
    if not known:
        return "not known, for a run has no config.yaml"
    detector = known.get("detector")
    parts = [f"detector {in_short(detector)}" if detector else "no detector"]
    if run.sampling:
        parts.append(run.sampling)
    left = [key for key in PROTOCOL[1:] if key in known and not (run.sampling and key in DRAWN)]
    parts += [f"{key.replace('_', ' ')} {in_short(known[key])}" for key in left]
    return ", ".join(parts)
