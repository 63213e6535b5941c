"""The verbs of the command, the configurations that ship, and how it ends on a mistake. Loads no framework."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PACKAGE = Path(__file__).parent.parent
VERBS = {
    "fit": "erase: epoch 0 edits, later epochs derive and edit",
    "validate": "measure what is erased and what is preserved",
    "test": "the same on the test prompts, and attacks",
    "predict": "generate pictures for a prompt file",
}
# These need no trainer.
TOOLS = {
    "export": "write a finished erasure in another format",
    "apply": "put a finished erasure on another model",
    "inspect": "say how a model reads its text and what an erasure would take, without loading it",
    "compare": "put measured runs side by side on one page",
    "sweep": "rank hundreds of settings, measure the best, recommend one",
}


STATEMENTS = ("--certificate", "--scan")
"""Flags of ``validate`` and ``test`` that ask for what a checkpoint answers without a picture."""


def is_statement(argv: Sequence[str]) -> bool:
    """Whether a command asks for a statement in place of pictures."""
    return argv[0] in ("validate", "test") and any(word in STATEMENTS for word in argv)


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.name for path in (PACKAGE / "configs").glob("*.yaml"))


def overview() -> str:
    """What ``--help`` at the top says."""
    lines = ["usage: rece {" + ",".join(VERBS) + "} --config CONFIG [--model.KEY VALUE] [--data.KEY VALUE] ..."]
    lines += ["       rece {export,apply} --ckpt_path RUN --output PATH ..."]
    lines += ["       rece inspect --model.pretrained MODEL"]
    lines += ["       rece compare RUN RUN ... --output PAGE"]
    lines += ["       rece sweep --config CONFIG --grid KEY=VALUE,VALUE,... ...", ""]
    lines += [f"  {verb:<10}{text}" for verb, text in {**VERBS, **TOOLS}.items()]
    lines += ["", f"shipped configs: {', '.join(shipped_configs())}"]
    protocols = sorted(path.stem for path in (PACKAGE / "configs" / "protocols").glob("*.yaml"))
    lines += ["measure by a protocol: rece validate --config CONFIG --ckpt_path RUN --protocol " + "|".join(protocols)]
    lines += ["measure pictures that exist: rece validate --config CONFIG --images FOLDER [--prompts CSV]"]
    lines += ["attack a run: rece test --config CONFIG --ckpt_path RUN --attacks paraphrase,mma,derived,..."]
    lines += ["say what needs no picture: rece test --ckpt_path RUN --certificate --scan"]
    lines += ["every option of a verb: rece fit --help"]
    lines += ["go on with a stopped run: rece fit --config CONFIG --ckpt_path last"]
    lines += ["the configuration as it is: rece fit --config CONFIG --print_config"]
    return "\n".join(lines)


def fail(message: str) -> NoReturn:
    """One clear message, exit code 2."""
    from rece_lightning.data.texts import visible

    print(f"error: {visible(message)}", file=sys.stderr)
    raise SystemExit(2)
