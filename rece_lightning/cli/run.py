"""A verb of the LightningCLI from its words to its end: what was edited, or a baseline that is trained."""

from __future__ import annotations

import sys
from argparse import ArgumentError

from rece_lightning.cli.explain import explain
from rece_lightning.cli.flags import expand_attack_flags
from rece_lightning.cli.lightning import CLASSES, UNWRITABLE, ReceCLI, known_keys, quiet, resolve_configs
from rece_lightning.cli.protocols import expand_flags
from rece_lightning.cli.trained import TrainedCLI, trains_baseline
from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import ReceError


def run(argv: list[str]) -> None:
    """Run one verb; a user's mistake ends in one message and exit code 2."""
    quiet()
    try:
        arguments, name = resolve_configs(argv)
        arguments = expand_attack_flags(expand_flags(arguments))
        (TrainedCLI if trains_baseline(arguments) else ReceCLI)(name, arguments)
    except ReceError as error:
        fail(str(error))
    except ArgumentError as error:
        fail(explain(error, known_keys(), CLASSES))
    except OSError as error:
        # What loggers and Lightning write; our own files raise a ReceError.
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or "the run's folder"
        fail(
            f"trainer.default_root_dir: {place} cannot be written ({error.strerror}); "
            "free some space or choose another folder."
        )
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns an interrupt into an exit.
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        print(
            "interrupted; the last whole checkpoint, if there is one, is in the run's folder: "
            "go on with --ckpt_path last",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
