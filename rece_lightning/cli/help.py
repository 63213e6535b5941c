"""``rece fit --help``: this project's settings first, and where Lightning's are."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import fields
from textwrap import fill
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from rece_lightning import callbacks
from rece_lightning.cli.explain import known_editors
from rece_lightning.cli.verbs import VERBS
from rece_lightning.core.method import FIELD

CALLBACKS = ("DevicePlacement", "ErasureCheckpoint", "Evaluation", "Export", "PictureWriter", "RedTeam", "Report")
"""What a configuration names by its class alone."""
LOGGERS = ("CSVLogger", "CometLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger")
DETECTORS = (
    "EmojiDetector", "ImageClassifier", "NudeNetRece", "NudeNetSpeed", "NudeNetUnlearnDiffAtk", "SafetyChecker",
    "VisionLanguage", "ZeroShot",
)  # fmt: skip
METRICS = ("ArtistScore", "ClipScore", "FrechetDistance", "KernelDistance", "PerceptualDistance")
"""What ``Evaluation.metrics`` takes."""
TRAINER = "--help.trainer"
OURS = ("--model", "--data")
USAGE = "rece {verb} --config CONFIG [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE] ..."
OFTEN = (
    ("--trainer.max_epochs N", "1 + the number of RECE epochs; 1 is UCE alone"),
    ("--trainer.accelerator NAME", "cpu, cuda, …; with --trainer.devices N it runs on N of them"),
    ("--trainer.default_root_dir FOLDER", "of all runs; runs/CONFIG unless given"),
)
SAID_BETTER = {
    "ckpt_path": "a run's folder, a checkpoint, or last, the newest run; fit goes on with it, the others measure it",
    "weights_only": "Checkpoints are opened without executing code.",
    "config": "a shipped configuration, or the path of a YAML file; of several the later ones win",
}
"""Option → what it means here, in place of Lightning's words."""
WIDTH, COLUMN = 100, 24


class HelpingParser(LightningArgumentParser):
    """The parser of a verb, whose help begins with what belongs to this project."""

    verb: str | None = None
    """``fit`` and its like; ``None`` for the parser of all verbs, and of a single class."""

    def for_verb(self, verb: str) -> None:
        """Answer ``--help`` for a verb, and ``--help.trainer`` with Lightning's options."""
        self.verb = verb
        self.add_argument(TRAINER, action=TrainerHelp, help="Show Lightning's options of the trainer and exit.")
        for group in self._action_groups:
            # Lightning's word for the last group is what the Trainer does in this verb.
            group.title = "checkpoint" if "--ckpt_path" in _options(group) else _without_roles(group.title)
        for action in self._actions:
            action.help = SAID_BETTER.get(action.dest) or _without_roles(action.help)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Model, data, the verb's own options, and where the trainer's are."""
        if self.verb is None:
            return super().format_help(formatter)
        groups = sorted((group for group in self._action_groups if not _is_trainer(group)), key=_place)
        return self._help_of(groups, VERBS[self.verb]) + "\n" + "\n".join(_of_trainer(self.verb)) + "\n"

    def format_trainer_help(self) -> str:
        """Lightning's options of the trainer alone."""
        return self._help_of([group for group in self._action_groups if _is_trainer(group)], "Lightning's Trainer")

    def _help_of(self, groups: Sequence[Any], description: str) -> str:
        """The help of some groups of options; the usage names no single one."""
        former = self._action_groups, self.usage, self.description
        self._action_groups, self.usage, self.description = list(groups), USAGE.format(verb=self.verb), description
        try:
            return super().format_help()
        finally:
            self._action_groups, self.usage, self.description = former


class TrainerHelp(argparse._HelpAction):
    """``--help.trainer``."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Print and exit."""
        print(parser.format_trainer_help(), end="")
        parser.exit()


def _options(group: Any) -> list[str]:
    return [option for action in group._group_actions for option in action.option_strings]


def _is_trainer(group: Any) -> bool:
    return any(option.startswith("--trainer.") for option in _options(group))


def _place(group: Any) -> int:
    """Model and data first, then the options of the command itself."""
    sections = [option.split(".")[0] for option in _options(group)]
    return next((place for place, section in enumerate(OURS) if section in sections), len(OURS))


def _without_roles(text: str | None) -> str | None:
    """``UCE`` of ``:class:`UCE```."""
    return re.sub(r":\w+:`~?(?:\w+\.)*([^`]+)`", r"\1", text) if text else text


def _of_trainer(verb: str) -> list[str]:
    """Editors and callbacks, each in a line, what of the trainer is said most often, and where the rest is."""
    lines = [f"editors (--{FIELD}.editor NAME, and its arguments as --{FIELD}.editor.lamb 0.5):"]
    for kind in known_editors():
        lines += _entry(kind.__name__, ", ".join(f"{one.name}={one.default}" for one in fields(kind)))
    lines += _entry("of your own", "package.module.Class")
    lines += ["", "callbacks (--trainer.callbacks+=NAME, or a list at trainer.callbacks in the YAML):"]
    for name in CALLBACKS:
        lines += _entry(name, (inspect.getdoc(getattr(callbacks, name)) or "").split("\n\n")[0])
    lines += ["", "trainer:"]
    for option, text in OFTEN:
        lines += _entry(option, text)
    return [*lines, "", f"All options of Lightning's Trainer: rece {verb} {TRAINER}"]


def _entry(name: str, text: str) -> list[str]:
    """A name with what is said of it, beside it where there is room and below it where not."""
    indent = " " * COLUMN
    beside = len(name) + 4 <= COLUMN
    first = f"  {name}".ljust(COLUMN) if beside else indent
    lines = fill(" ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=indent).split("\n")
    return lines if beside else [f"  {name}", *lines]
