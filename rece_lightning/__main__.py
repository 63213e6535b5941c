"""The command ``rece``: answers what needs no framework at once, hands the rest to the tools or the LightningCLI."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path

from rece_lightning.cli.verbs import PACKAGE, TOOLS, VERBS, fail, is_statement, overview


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    argv = sys.argv[1:] if arguments is None else arguments
    here = str(Path.cwd())
    if arguments is None and here not in sys.path:
        # A class path may name a module that lies here; at the end, so that it hides no installed one.
        sys.path.append(here)
    if not (PACKAGE / "callbacks").is_dir():
        fail(
            "rece_lightning/callbacks and rece_lightning/configs are symbolic links, and this clone holds them as "
            "text files. Clone again with `git clone -c core.symlinks=true`, or `pip install` the package."
        )
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return
    if argv[0] == "--version":
        from rece_lightning.version import __version__

        print(__version__)
        return
    known = {**VERBS, **TOOLS}
    if argv[0] not in known:
        close = difflib.get_close_matches(argv[0], known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        fail(f"unknown command {argv[0]!r}; {hint}Valid: {', '.join(known)}")
    # The progress bars of loading a few megabytes say nothing; ours show the long work.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # What a checkpoint answers without a picture needs no trainer either.
    statement = is_statement(argv)
    if argv[0] in TOOLS or statement:
        from rece_lightning.cli import tools

        tools.main(["statements", *argv] if statement else argv)
        return
    from rece_lightning.cli.run import run

    run(argv)


if __name__ == "__main__":
    main()
