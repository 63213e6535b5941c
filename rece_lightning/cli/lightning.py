"""The LightningCLI: YAML in, a run out, and a clear message for every mistake."""

from __future__ import annotations

import errno
import inspect
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning_utilities.core.enums import StrEnum

from rece_lightning.attacks import LADDER
from rece_lightning.callbacks import DevicePlacement, ErasureCheckpoint, Evaluation, Export, PictureWriter, Report
from rece_lightning.callbacks.terminal import EpochBar
from rece_lightning.cli.explain import known_editors, method_keys, own_error, refused_object
from rece_lightning.cli.flags import ATTACK_FLAGS
from rece_lightning.cli.help import CALLBACKS, DETECTORS, LOGGERS, METRICS, HelpingParser
from rece_lightning.cli.protocols import FLAGS
from rece_lightning.cli.start import RunStart
from rece_lightning.cli.trainer import making, prepare, running, strategy_for
from rece_lightning.cli.verbs import PACKAGE, VERBS, shipped_configs
from rece_lightning.core.errors import ConfigurationError, ReceError, nearest
from rece_lightning.core.grid import EPOCHS
from rece_lightning.core.method import FIELD, Method
from rece_lightning.core.tuning import BALANCED, OFF
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.devices.strategy import DEFAULT_EPOCHS, check_trainer
from rece_lightning.module import RECE
from rece_lightning.runs.folder import CONFIG, version_of

SECTIONS = ("model", "data", "trainer")
CLASSES = {
    "trainer.callbacks": CALLBACKS,
    "trainer.logger": LOGGERS,
    "Evaluation.detector": DETECTORS,
    "Evaluation.metrics": METRICS,
    "RedTeam.detector": DETECTORS,
    "RedTeam.attacks": (*LADDER, *(kind.__name__ for kind in LADDER.values())),
    **{f"model.method.{name}": [kind.__name__ for kind in known_editors()] for name in ("editor", "first_editor")},
}
MAPPINGS = {FIELD: "{projections: v}", f"{FIELD}.derivation": "{scale: 0.1}"}
"""Settings that hold others → what they may look like."""
RANK_ZERO = "lightning.pytorch.utilities.rank_zero"
"""Logger of Python's through which all of Lightning speaks where it means one process."""
ASKED_FOR = ("lightning.pytorch.profilers", "lightning.pytorch.callbacks", RANK_ZERO)
"""Loggers of Python's that say what a user asked for: a profile, what a verbose callback does."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def resolve_configs(argv: list[str]) -> tuple[list[str], str]:
    """Replace bare names of shipped configurations by their paths; an existing path wins.

    Returns:
        The arguments, and the name of the last configuration for the run's folder.

    Raises:
        ConfigurationError: for a configuration that is nowhere, is no YAML, or is no mapping.
    """
    resolved, name, take = [], "run", False
    for argument in argv:
        value = argument
        prefix = ""
        if not take and argument.startswith(("--config=", "-c=")):
            prefix, value = argument.split("=", 1)[0] + "=", argument.split("=", 1)[1]
        if take or prefix:
            path = find_config(value)
            value, name = str(path), name_of_runs(path)
        resolved.append(prefix + value)
        take = argument in ("--config", "-c")
    if take:
        raise ConfigurationError("--config: give a path, or one of: " + ", ".join(shipped_configs()))
    return resolved, name


def name_of_runs(config: Path) -> str:
    """Name of the folder of a configuration's runs; a run's own ``config.yaml`` leads back to its folder."""
    whole = config.resolve()
    return whole.parent.parent.name if config.name == CONFIG and version_of(whole.parent) is not None else config.stem


def find_config(value: str) -> Path:
    """Path of a configuration: an existing file, or one that ships."""
    path = Path(value).expanduser()
    if not path.is_file():
        shipped = [PACKAGE / "configs" / name for name in (value, f"{value}.yaml")]
        found = [candidate for candidate in shipped if "/" not in value and candidate.is_file()]
        if not found:
            known = nearest(Path(value).name, shipped_configs(), suffix=".yaml")
            raise ConfigurationError(f"--config: there is no file {value!r}; {known}, or a path.")
        path = found[0]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--config: {path} is not UTF-8; save it as UTF-8.") from error
    except RecursionError as error:
        raise ConfigurationError(f"--config: {path} is nested too deeply; write it as the shipped ones.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--config: {path} is no valid YAML ({' '.join(str(error).split())}).") from error
    except OSError as error:
        raise ConfigurationError(f"--config: {path} cannot be read ({error.strerror}).") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"--config: {path} holds no settings; see `rece fit --print_config` for an example.")
    for section in SECTIONS:
        if section in content and not isinstance(content[section], dict):
            raise ConfigurationError(
                f"{section}: {content[section]!r} in {path} is no mapping; put its settings below it, or leave it out."
            )
    return path


class ReceCLI(LightningCLI):
    """LightningCLI with this project's loggers, callbacks and folders."""

    model_kind: ClassVar[type[LightningModule]] = RECE
    settings: ClassVar[Mapping[str, Any]] = {
        "trainer_defaults": {"max_epochs": None, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    }
    """Of LightningCLI, where another model wants others."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.run_name = name
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            self.model_kind,
            ConceptData,
            # before_fit and its like write it, once nothing stands against the run.
            save_config_callback=None,
            seed_everything_default=0,
            # An abbreviation would let a misspelt setting pass for another one.
            parser_kwargs={**strict, **{verb: dict(strict) for verb in VERBS}},
            parser_class=HelpingParser,
            auto_configure_optimizers=False,
            args=arguments,
            **self.settings,
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Checkpoints are opened without executing code; ``fit`` can be told to replace results."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        if isinstance(parser, HelpingParser):
            parser.for_verb(subcommand)
        if subcommand == "fit":
            parser.add_argument(
                "--overwrite", action="store_true", help="Replace results that are there: Export's ``overwrite``."
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; the hyper-parameters of a checkpoint never replace what the user asks for.

        Lightning would overwrite ``model.*`` with those in the checkpoint, so that a changed setting was
        ignored in silence. RECE compares them itself and refuses what differs.
        """
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        for key, example in MAPPINGS.items():
            check_mapping(key, self.config[self.config["subcommand"]][key], example)

    def _parse_ckpt_path(self) -> None:
        """See :meth:`parse_arguments`."""

    def before_instantiate_classes(self) -> None:
        """Say in so many words whether settings are chosen: a method that was given stands as it is."""
        section = self.config[self.config["subcommand"]]
        if self.model_kind is not RECE:
            return
        if section.model.tune is None:
            section.model.tune = OFF if given_method(section.model.method) else BALANCED
        if section.model.tune is False:  # a bare off, as YAML reads it
            section.model.tune = OFF
        if section.model.tune == OFF and section.trainer.max_epochs is None:
            section.trainer.max_epochs = EPOCHS

    def instantiate_classes(self) -> None:
        """Make module, data, callbacks and trainer; what one of them refuses is one message."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            # A class of the user's configuration refused its arguments, or one of ours did inside a union type.
            ours = own_error(error)
            if ours is not None:
                raise ours from error
            raise ConfigurationError(refused_object(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the default loggers, the run's folder and the callbacks that every run has."""
        settings = self._get(self.config_init, "trainer", default={})
        prepare(settings, str(self.subcommand))
        callbacks: list[Callback] = settings["callbacks"]
        for kind in (DevicePlacement, ErasureCheckpoint, Export, PictureWriter, Report):
            absent = not any(isinstance(callback, kind) for callback in callbacks)
            if absent and not (kind is ErasureCheckpoint and settings.get("enable_checkpointing") is False):
                callbacks.append(kind())
        measures = self.subcommand in ("validate", "test")
        if measures and not any(isinstance(callback, Evaluation) for callback in callbacks):
            callbacks.append(Evaluation())
        if settings.get("enable_progress_bar") is not False:
            callbacks += [] if any(isinstance(one, ProgressBar) for one in callbacks) else [EpochBar()]
        # The report tells what all others did.
        callbacks.sort(key=lambda callback: isinstance(callback, Report))
        settings["callbacks"] = callbacks
        for callback in callbacks:
            if self._overwrites and isinstance(callback, Export):
                callback.overwrite = True
        self.start = RunStart.choose(
            str(self.subcommand), self.run_name, settings, self._get(self.config_init, "ckpt_path")
        )
        self.config_init[self.subcommand]["ckpt_path"] = self.start.checkpoint
        if settings.get("enable_model_summary") is None:
            settings["enable_model_summary"] = False
        with making(settings):
            settings["strategy"] = strategy_for(settings)
            trainer = super().instantiate_trainer(**kwargs)
        # Before Lightning starts a process for every device.
        check_trainer(trainer, str(self.subcommand), chooses=settings["max_epochs"] == DEFAULT_EPOCHS)
        return trainer

    @property
    def _overwrites(self) -> bool:
        return bool(self._get(self.config_init, "overwrite"))

    def before_fit(self) -> None:
        """Refuse what can be refused, then open the run's folder and write the configuration into it."""
        self.start.check(self.trainer, self.model, self.datamodule)
        # How a run was started or resumed is no part of what it does.
        config = self.config[self.subcommand].clone()
        config.pop("overwrite", None)
        if self.subcommand == "fit":
            config["ckpt_path"] = None
        text = self._parser(self.subcommand).dump(config, skip_none=False)
        self.start.open(self.trainer, text, overwrite=self._overwrites)

    before_validate = before_test = before_predict = before_fit

    def _run_subcommand(self, subcommand: str) -> None:
        """What is refused before it did anything leaves no folder."""
        try:
            with running():
                super()._run_subcommand(subcommand)
        except ReceError:
            if self.trainer.is_global_zero:
                self.start.withdraw()
            raise


def given_method(method: Any) -> bool:
    """Whether a parsed ``model.method`` says anything but the defaults."""
    plain = method.as_dict() if isinstance(method, Namespace) else method
    return Method.from_plain(plain, trusted=True) != Method() if isinstance(plain, dict) else True


def check_mapping(key: str, value: Any, example: str) -> None:
    """Refuse a value where settings belong: jsonargparse would go on with the defaults of these.

    Raises:
        ConfigurationError: naming key, value and remedy.
    """
    if not isinstance(value, Namespace):
        raise ConfigurationError(f"{key}: {value!r} is no mapping; write one such as {example}, or leave it out.")


def known_keys() -> list[str]:
    """Names of all settings, for messages."""
    keys = ["seed_everything", "ckpt_path", "overwrite", *(flag.removeprefix("--") for flag in (*FLAGS, *ATTACK_FLAGS))]
    for section, part in (("model", RECE), ("data", ConceptData), ("trainer", Trainer)):
        keys += [f"{section}.{name}" for name in inspect.signature(part).parameters]
    return [*keys, *(key for key in method_keys() if key not in keys)]


# Lightning's enumerations, defaults of arguments that are text, are written into config.yaml as that text.
yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(str(value.value)))


def is_asked_for(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's is a callback's: those say what a user asked to be told."""
    return record.levelno > logging.INFO or "callbacks" in Path(record.pathname).parts


def quiet() -> None:
    """Silence what libraries say about matters that a user cannot act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for pattern in (
        ".*does not have many workers.*",
        ".*`IterableDataset` has `__len__` defined.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*Total length of .* across ranks is zero.*",
        ".*Couldn't infer the batch indices.*",
        ".*contains no parameters.*",
        ".*exists and is not empty.*",
        ".*Checkpoint directory.*",
        ".*dirpath has changed.*",
        ".*GPU available but not used.*",
        ".*was configured.* You have overridden.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ASKED_FOR:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger(RANK_ZERO).addFilter(is_asked_for)
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
