"""How the command makes its trainer: what it fills in, and what Lightning refuses with option, value and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import Precision

from rece_lightning.cli.help import TRAINER
from rece_lightning.core.errors import ConfigurationError, ReceError
from rece_lightning.devices.launcher import launched
from rece_lightning.devices.strategy import DEFAULT_EPOCHS, NAME, check_epochs, check_precision

SILENT: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Of a trainer that is made to find something out."""
LISTS = ("callbacks", "logger", "plugins")
"""Options that hold objects: none of them alone is what Lightning refuses."""
PLAIN = (bool, int, float, str, list, tuple, dict)
REFUSALS = (MisconfigurationException, ValueError, RuntimeError)
"""What Lightning raises on purpose once a run has begun."""


def prepare(settings: dict[str, Any], verb: str) -> None:
    """Check what Lightning would replace or misread, and fill in what the launcher knows.

    Args:
        settings: of the trainer; changed in place.
        verb: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ConfigurationError: naming option, value and remedy.
    """
    check_precision(settings.get("precision") or "32-true")
    if settings.get("max_epochs") is None:  # it is chosen; Lightning takes this in silence where it is told
        settings["max_epochs"] = DEFAULT_EPOCHS
    elif verb == "fit":
        check_epochs(settings["max_epochs"])
    if settings.get("barebones"):
        raise ConfigurationError(
            "trainer.barebones: True measures Lightning's own time, with no checkpoint and no figure; leave it out."
        )
    if settings.get("profiler") == "xla":
        raise ConfigurationError("trainer.profiler: 'xla' is for TPUs; give simple, advanced or pytorch.")
    plugins = settings.get("plugins") or []
    for one in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(one, Precision):
            check_precision(one.precision, f"trainer.plugins: {type(one).__name__}")
    place = str(settings.get("default_root_dir") or "")
    if "://" in place:
        raise ConfigurationError(
            f"trainer.default_root_dir: {place!r} is no folder of this machine; give one, and copy the run from there."
        )
    given = settings.get("callbacks")
    settings["callbacks"] = [given] if isinstance(given, Callback) else list(given or [])
    every = settings.get("val_check_interval")
    if isinstance(every, int) and not isinstance(every, bool) and every > 0:
        # It has no effect, and Lightning refuses more batches than an epoch has.
        settings["val_check_interval"] = None
    launch = launched()
    if launch is not None and launch.machines and settings.get("devices") in (None, "auto"):
        settings["devices"] = launch.here
        if launch.machines > 1 and (settings.get("num_nodes") or 1) == 1:
            settings["num_nodes"] = launch.machines


def strategy_for(settings: Mapping[str, Any]) -> Any:
    """The strategy that is given; for ``auto`` with several processes the one that works."""
    given = settings.get("strategy") or "auto"
    if given != "auto" or (settings.get("devices") in (1, "1") and (settings.get("num_nodes") or 1) == 1):
        return given
    asked: dict[str, Any] = {
        key: settings[key] for key in ("accelerator", "devices", "num_nodes", "plugins") if settings.get(key)
    }
    # Lightning counts devices, nodes and what torchrun or SLURM started.
    return NAME if Trainer(**asked, **SILENT).world_size > 1 else given


@contextmanager
def making(settings: Mapping[str, Any]) -> Iterator[None]:
    """Say what Lightning refuses while it makes a trainer of these settings.

    Raises:
        ConfigurationError: naming the option, its value, and what Lightning says.
    """
    try:
        yield
    except ReceError:
        raise
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        option, reason = refused_option(settings), " ".join(str(error).split())
        said = "trainer" if option is None else f"trainer.{option}: {_shown(settings[option])}"
        raise ConfigurationError(f"{said}: {reason} See `rece fit {TRAINER}`.") from error


def refused_option(settings: Mapping[str, Any]) -> str | None:
    """The option that Lightning refuses alone; ``None`` where it is how several go together, or the machine."""
    if not _can_be({}):
        return None
    base = {"accelerator": settings["accelerator"]} if settings.get("accelerator") else {}
    if not _can_be(base):
        return "accelerator"
    for name, value in settings.items():
        if value is not None and name not in (*LISTS, *SILENT, *base) and not _can_be({**base, name: value}):
            return name
    return None


def _can_be(settings: Mapping[str, Any]) -> bool:
    try:
        Trainer(**{**SILENT, **settings})
    except Exception:  # whatever it is: the option is named, and the error itself is told elsewhere
        return False
    return True


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, PLAIN) else type(value).__name__


@contextmanager
def running() -> Iterator[None]:
    """Say what Lightning refuses once a run has begun: a callback's option, a figure that nobody logs.

    Raises:
        ConfigurationError: with what Lightning says.
    """
    try:
        yield
    except ReceError:
        raise
    except REFUSALS as error:
        if not raised_by_lightning(error):
            raise
        raise ConfigurationError(f"trainer: {' '.join(str(error).split())} See `rece fit {TRAINER}`.") from error


def raised_by_lightning(error: BaseException) -> bool:
    """Whether an error was raised in a file of Lightning itself: not in a callback of somebody's, or in torch."""
    if isinstance(error, MisconfigurationException):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith("lightning.")
