"""The command ``rece``: answers what needs no framework at once, hands the rest to the LightningCLI."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
VERBS = {
    "fit": "erase: epoch 0 edits, later epochs derive and edit",
    "validate": "measure what is erased and what is kept",
    "test": "the same on the test prompts",
    "predict": "generate pictures for a prompt file",
}


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.name for path in (PACKAGE / "configs").glob("*.yaml"))


def overview() -> str:
    """What ``--help`` at the top says."""
    lines = ["usage: rece {" + ",".join(VERBS) + "} --config CONFIG [--model.KEY VALUE] [--data.KEY VALUE] ...", ""]
    lines += [f"  {verb:<10}{text}" for verb, text in VERBS.items()]
    lines += ["", f"shipped configs: {', '.join(shipped_configs())}"]
    lines += ["every option of a verb: rece fit --help"]
    lines += ["the configuration as it is: rece fit --config CONFIG --print_config"]
    return "\n".join(lines)


def fail(message: str) -> None:
    """One clear message, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    argv = sys.argv[1:] if arguments is None else arguments
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
    if argv[0] not in VERBS:
        close = difflib.get_close_matches(argv[0], VERBS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        fail(f"unknown command {argv[0]!r}; {hint}Valid: {', '.join(VERBS)}")
    # The progress bars of loading a few megabytes say nothing; ours show the long work.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from rece_lightning.cli import run

    run(argv)


if __name__ == "__main__":
    main()
