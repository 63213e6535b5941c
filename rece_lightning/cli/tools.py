"""The verbs beside Lightning's own: what works on finished erasures and runs, or looks for settings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rece_lightning.cli.parser import quiet
from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import ReceError
from rece_lightning.devices.launcher import launched


def main(argv: Sequence[str]) -> None:
    """Run one of the tools; a user's mistake ends in one message and exit code 2."""
    quiet()
    verb = argv[0]
    launch = launched()
    if launch is not None:
        fail(
            f"{verb} works in one process, and {launch.launcher} started {launch.processes}: each would do all of it; "
            "start it alone."
        )
    try:
        # Each loads what it needs alone.
        getattr(importlib.import_module(f"rece_lightning.cli.{verb}"), f"{verb}_command")(argv[1:])
    except ReceError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or '--output'}: {error.strerror or error}; make it readable, or choose another place.")
    except KeyboardInterrupt:
        going_on = "; the same command goes on from here" if verb == "sweep" else ""
        print(f"interrupted; no half file is left{going_on}", file=sys.stderr)
        raise SystemExit(130) from None
