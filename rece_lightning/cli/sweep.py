"""``rece sweep``: many settings ranked without pictures, the front measured with, one recommended."""

from __future__ import annotations

import shlex
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rece_lightning.callbacks import Evaluation
from rece_lightning.cli.explain import explain
from rece_lightning.cli.grid import EXAMPLE, parse_grid, settings_of
from rece_lightning.cli.lightning import CLASSES, ReceCLI, known_keys, resolve_configs
from rece_lightning.cli.lightning import quiet as quiet_lightning
from rece_lightning.cli.parser import Parser
from rece_lightning.cli.protocols import expand_flags
from rece_lightning.cli.verbs import TOOLS
from rece_lightning.core.errors import ConfigurationError, nearest
from rece_lightning.core.grid import EPOCHS
from rece_lightning.core.tuning import OFF
from rece_lightning.models.adapter import check_adapter
from rece_lightning.reporting.terminal import PlainConsole
from rece_lightning.sweep.choice import ERASED_BY
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.parts import Measure, Parts
from rece_lightning.sweep.run import run_sweep
from rece_lightning.sweep.table import PAGE, RECOMMENDED, TABLE
from rece_lightning.vocabulary.choice import draw

OPTIONS = ("--grid", "--measure", "--erased-by", "--output", "--config", "--protocol")
OF_FIT = ("-c", "--seed_everything", "--protocol", "--model", "--data", "--trainer")


def sweep_command(argv: Sequence[str]) -> None:
    """Check what was asked, run the sweep, say what it found."""
    quiet_lightning()
    asked, rest = _parse(argv)
    grid = parse_grid(asked.grid)
    parts = configured([*(f"--config={config}" for config in asked.config), *rest]).parts()
    settings = settings_of(grid, parts.base())
    folder = Path(asked.output).expanduser() if asked.output else parts.root / "sweep"
    command = shlex.join(["rece", "sweep", *argv])
    found = run_sweep(
        parts, settings, folder, measure=asked.measure, erased_by=asked.erased_by, command=command
    )  # fmt: skip
    console = PlainConsole()
    ranked, front = len(found.choice.ranked), len(found.choice.front)
    console.print(f"{ranked} settings ranked, {front} on the front, {len(found.refused)} without figures")
    recommended = found.recommended
    itself = recommended.identity == found.base.identity
    changes = "" if itself else f": {recommended.describe(found.base)}"
    console.print(f"recommended: {found.name(recommended)}{changes}")
    console.print(found.finding)
    for what, name in (("page", PAGE), ("settings", TABLE), ("configuration", RECOMMENDED)):
        console.print(f"{what}: {folder / name}", soft_wrap=True)


def _parse(argv: Sequence[str]) -> tuple[Any, list[str]]:
    parser = Parser(
        prog="rece sweep",
        description=f"{TOOLS['sweep']}. Options of `rece fit` set what the grid leaves alone.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, help="as of fit: shipped, or a path")
    parser.add_argument(
        "--grid", action="append", required=True, metavar="KEY=VALUE,VALUE,…", help=f"such as {EXAMPLE.split()[-1]}"
    )
    parser.add_argument("--measure", type=int, default=8, metavar="N", help="settings of the front to measure (8)")
    parser.add_argument(
        "--erased-by", choices=ERASED_BY, default="remaining", help="the front's erased-side figure (remaining)"
    )
    parser.add_argument("--output", help="folder; runs/CONFIG/sweep unless given. The same command goes on in it")
    asked, rest = parser.parse_known_args(argv)
    if asked.measure < 0:
        raise ConfigurationError(f"--measure: {asked.measure}; give 0 or more.")
    for word in rest:
        option = word.split("=")[0]
        if option.startswith("--") and option.split(".")[0] not in OF_FIT:
            raise ConfigurationError(f"{option}: no such option; {nearest(option, OPTIONS)}.")
    return asked, rest


class Configured(ReceCLI):
    """The parts of a ``fit``, made and checked, and nothing run."""

    def _run_subcommand(self, subcommand: str) -> None:
        """The sweep runs the loop itself."""

    def parts(self) -> Parts:
        """What the sweep works on.

        Raises:
            ConfigurationError: for a prompt that the detector does not know.
            BaseModelError: if the base model is not found.
        """
        self.model.to(self.trainer.strategy.root_device)
        check_adapter(self.model.hparams["adapter"], "fit")
        session = self.model.session
        _ = session.names
        section = self.config["fit"]
        draw(session, self.datamodule)
        return Parts(
            loaded=session.loaded,
            method=session.tuned.asked,
            attacker_scale=session.attacker_scale,
            data=self.datamodule,
            arguments=section["data"].as_dict(),
            epochs=section["trainer"]["max_epochs"] or EPOCHS,
            measure=self._measure(section["trainer"]["callbacks"] or []),
            root=self.start.root,
            configuration=self.configuration,
        )

    def _measure(self, described: Sequence[Any]) -> Measure | None:
        found = [one for one in self.trainer.callbacks if isinstance(one, Evaluation)]  # type: ignore[attr-defined]
        if not found:
            return None
        evaluation = found[0]
        evaluation.take_sampling(self.model)
        evaluation.check_prompts(self.datamodule, "fit")
        comparison, detector = evaluation.comparison, evaluation.detector
        if comparison is None or not comparison.prompts or detector is None:
            return None
        arguments = [dict(one.as_dict()["init_args"]) for one in described if "Evaluation" in one["class_path"]]
        return Measure(
            comparison=replace(comparison, columns={}),
            detector=detector,
            described=arguments[0].get("detector"),
            sampling=evaluation.sampling,
            seeds=tuple(range(evaluation.pictures_per_prompt)),
            pictures=lambda: self.model.pictures,
            floors=evaluation.floors,
        )

    def configuration(self, setting: Setting) -> str:
        """The whole configuration with a setting in it, as YAML for ``fit``."""
        config = self.config["fit"].clone()
        config.pop("overwrite", None)
        config["ckpt_path"] = None
        plain = yaml.safe_load(self._parser("fit").dump(config, skip_none=False))
        plain["model"] |= {"method": setting.method.plain(), "tune": OFF, "drift_budget": None}
        if self.datamodule.draws:
            plain["data"]["preserve"] = list(self.datamodule.preserved)
        plain["trainer"]["max_epochs"], plain["data"]["target"] = setting.epochs, setting.target
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def configured(arguments: Sequence[str]) -> Configured:
    """Parse and check as ``fit`` does.

    Raises:
        ConfigurationError: for every mistake that ``fit`` refuses.
    """
    resolved, name = resolve_configs(["fit", *arguments])
    try:
        return Configured(name, expand_flags(resolved))
    except ArgumentError as error:
        raise ConfigurationError(explain(error, known_keys(), CLASSES)) from error
