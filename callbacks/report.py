"""Report: one page that tells what was done, what it did, and what it did not."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from rece_lightning.callbacks.base import RunCallback, measures_existing
from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.callbacks.placement import DevicePlacement
from rece_lightning.callbacks.red_team import SHEET, TABLE, RedTeam
from rece_lightning.callbacks.terminal import print_tables
from rece_lightning.core.extras import extra
from rece_lightning.data.texts import fenced
from rece_lightning.evaluation.results.comparison import Comparison
from rece_lightning.evaluation.results.outcome import final_figures, grid_path
from rece_lightning.evaluation.results.sheets import sheet_path
from rece_lightning.exports.cost import Cost, export_costs
from rece_lightning.files import discard, write_text
from rece_lightning.models.published import published_setting
from rece_lightning.module import RECE
from rece_lightning.reporting.devices import Devices
from rece_lightning.reporting.ladder import read_ladder
from rece_lightning.reporting.ladder_section import ladder_section
from rece_lightning.reporting.page import next_steps, render_page
from rece_lightning.reporting.terminal import PlainConsole
from rece_lightning.reporting.words import words_section
from rece_lightning.runs.folder import TUNING, run_folder
from rece_lightning.runs.results import flattened

PAGE = "report.html"


class Report(RunCallback):
    """Write ``report.html`` at the end of ``fit`` and print the table and the paths; in ``validate`` and ``test`` too.

    The page is one file without network access: settings, curves, tables, the before/after grid, and where ``RedTeam``
    attacked the ladder of attacks. Figures that do not flatter the method stand in it like all others. Pictures that
    exist (``--images``) open no model, and get no page.

    Args:
        title: of the page; the erased concepts unless given.
        scan: whether the page lists the words of the vocabulary that still reach a concept; unless given, where the
            vocabulary is small. CLIP's takes minutes to encode without an accelerator, once: it is kept.
    """

    def __init__(self, title: str | None = None, scan: bool | None = None) -> None:
        self.title, self.scan = title, scan

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """The page, where a run with all its epochs has not written it: it is the last of its files."""
        page = folder / PAGE
        return None if page.exists() else page

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on makes its former page untrue; without one a stopped run knows that its end is missing."""
        if isinstance(pl_module, RECE) and trainer.is_global_zero:
            discard(run_folder(trainer) / PAGE)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page; every other callback has done its work by now."""
        if not isinstance(pl_module, RECE) or not trainer.is_global_zero or not pl_module.history:
            return
        folder, costs = run_folder(trainer), list[Cost]()
        with extra(f"what the export formats cost, in {PAGE},"):
            costs = export_costs(pl_module.erasure())
        with extra("what the loggers compare runs by"):
            self._log(trainer, pl_module)
        with extra(str(folder / TUNING)):
            _write_chosen(folder / TUNING, pl_module.session.tuned.choice)
        # The page is the very last file: where it is, nothing is missing.
        with extra(str(folder / PAGE)):
            self._write(folder, self._page(trainer, pl_module, "fit", costs))
        with extra("the table in the terminal"):
            self._print(_comparison(trainer), _ladder(trainer), folder)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The page of ``validate``; ``fit`` validates too, and has its own."""
        if trainer.state.fn == "validate":
            self._measured(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The page of ``test``, its attacks included."""
        self._measured(trainer, pl_module, "test")

    def _measured(self, trainer: Trainer, module: LightningModule, verb: str) -> None:
        """A page of what was measured, where anything was."""
        if not isinstance(module, RECE) or not trainer.is_global_zero or measures_existing(trainer):
            return
        if _comparison(trainer) is None and _ladder(trainer) is None:
            return
        page = run_folder(trainer) / PAGE
        with extra(str(page)):
            self._write(page.parent, self._page(trainer, module, verb, ()))
        if not page.exists():
            return
        PlainConsole().print(f"report: {page}", soft_wrap=True)

    @staticmethod
    def _write(folder: Path, html: str) -> None:
        write_text(folder / PAGE, html)

    def _page(self, trainer: Trainer, module: RECE, verb: str, exports: Sequence[Cost]) -> str:
        folder, comparison, devices = run_folder(trainer), _comparison(trainer), _devices(trainer)
        grid = grid_path(folder)
        scan = False if trainer.fast_dev_run else self.scan  # type: ignore[attr-defined]
        return render_page(
            title=self.title,
            description=module.session.description(),
            settings={key: published_setting(value) for key, value in _flat_settings(module).items()},
            change=module.session.change() if module.history else {},
            history=module.history,
            placement={} if devices is not None else _placement(module),
            devices=devices,
            comparison=comparison,
            exports=exports,
            grid=base64.b64encode(grid.read_bytes()).decode() if comparison and grid.exists() else None,
            run=folder,
            ladder=_ladder(trainer),
            verb=verb,
            words=words_section(module.session, scan) if module.history else None,
            tuning=_tuning(module) if module.history else None,
        )

    def _log(self, trainer: Trainer, module: RECE) -> None:
        """Configuration as text, and what TensorBoard's HParams tab compares runs by: settings and final figures."""
        comparison = _comparison(trainer)
        final = {**module.history[-1], **module.session.change(), **(final_figures(comparison) if comparison else {})}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                text = yaml.safe_dump({"model": dict(module.hparams), "concepts": module.session.concepts})
                logger.experiment.add_text("configuration", fenced(text, "yaml"), trainer.global_step)
                logger.log_hyperparams(_settings(module, trainer), {f"final/{k}": v for k, v in final.items()})
            logger.save()

    def _print(self, comparison: Comparison | None, section: dict[str, Any] | None, folder: Path) -> None:
        console = PlainConsole()
        counted = comparison is not None and any(column.hits is not None for column in comparison.columns.values())
        if comparison is not None and (counted or comparison.quality):
            print_tables(comparison, console, section["ladder"] if section else None)
            for sentence in comparison.verdict():
                console.print(f"• {sentence}")
        page, grid, weights = folder / PAGE, grid_path(folder), folder / "edited.safetensors"
        for name, path in (("report", page), ("grid", grid), ("weights", weights)):
            if path.exists():
                console.print(f"{name}: {path}", soft_wrap=True)
        for step in next_steps(folder):
            console.print(f"next: {step}", soft_wrap=True)


def _tuning(module: RECE) -> dict[str, Any] | None:
    """What was chosen; of settings that were given, what would have been."""
    with extra("what tuning chooses, in the report,"):
        tuned, spaces = module.session.tuned, module.session.erasers.spaces
        found = tuned.suggested({name: one.evidence for name, one in spaces.items()}, module.session.grams)
        return None if found is None else {**found, "took_effect": tuned.choice is not None}
    return None


def _write_chosen(path: Path, choice: Mapping[str, Any] | None) -> None:
    """Keep what was chosen beside the configuration, which says only that something is; runs are compared by both."""
    if choice is not None:
        write_text(path, json.dumps(choice, indent=1) + "\n")


def _settings(module: RECE, trainer: Trainer) -> dict[str, float | str | bool]:
    """What runs differ in. TensorBoard has no column for a list or a mapping: these are JSON."""
    erased = [row["prompt"] for row in module.session.concepts.get("erased", [])]
    devices = {f"device_of_{part}": device for part, device in _placement(module).items()}
    chosen = (module.session.tuned.choice or {}).get("chosen") or {}
    tuned = {f"method.{key}": value for key, value in (chosen.get("settings") or {}).items()}
    epochs = {"max_epochs": chosen.get("epochs", trainer.max_epochs)}
    known = {**_flat_settings(module), **tuned, **epochs, "concepts": erased, **devices}
    return {key: v if isinstance(v, (int, float, str, bool)) else json.dumps(v) for key, v in known.items()}


def _flat_settings(module: RECE) -> dict[str, Any]:
    """The module's settings, the method's one by one: ``method.editor`` and ``method.editor.lamb``."""
    found: dict[str, Any] = {}
    for key, value in module.hparams.items():
        found |= flattened(f"model.{key}", value)
    return {key.removeprefix("model."): value for key, value in found.items()}


def _comparison(trainer: Trainer) -> Comparison | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluation) and callback.comparison is not None and callback.comparison.columns:
            return callback.comparison
    return None


def _ladder(trainer: Trainer) -> dict[str, Any] | None:
    """From the run's files: a run that goes on may have attacked before it was stopped."""
    if not any(isinstance(callback, RedTeam) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return None
    folder = run_folder(trainer)
    ladder = read_ladder(folder / TABLE)
    return None if ladder is None else ladder_section(ladder, sheet_path(folder / "images", SHEET))


def _devices(trainer: Trainer) -> Devices | None:
    """The plan, where a callback made one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, DevicePlacement):
            return callback.devices()
    return None


def _placement(module: RECE) -> dict[str, Any]:
    plan = module.placement
    parts = ("text_encoder", "unet", "autoencoder", "algebra")
    return {part: str(plan.device_of(part, module.device)) for part in parts}
