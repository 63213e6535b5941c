"""Opens models of a hub as a program of its own: the hub's client reads its settings once.

    python -m tests.helpers.hub_client STEPS

Steps are JSON: ``["find", name, variant]`` and ``["load", name, variant]`` open a model and a pipeline,
``["embed", name]`` a network of a metric, ``["on"]`` and ``["off"]`` wake and silence the hub, ``["drop", name, file]``
removes a file from the cache, ``["forget", name]`` its list of the repository. The last line is what each said.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ReceError


def cached(name: str) -> Path:
    """Where the cache keeps a repository."""
    return Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"


def said(step: list[Any]) -> Any:
    """Do a step; the answer in plain types."""
    verb, *given = step
    if verb in ("on", "off"):
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/_/{verb}").read()
    elif verb == "drop":
        for file in cached(given[0]).glob(f"snapshots/*/{given[1]}"):
            file.unlink()
    elif verb == "forget":
        shutil.rmtree(cached(given[0]) / "trees", ignore_errors=True)
    elif verb == "find":
        from rece_lightning.models.find import find_base

        base = find_base(given[0], None, given[1])
        return [Path(one.where).name for one in (base.weights, *base.text)]
    elif verb == "load":
        from rece_lightning import load_pipeline

        pipeline = load_pipeline(given[0], variant=given[1])
        return sorted(name for name, part in pipeline.components.items() if part is not None)
    elif verb == "embed":
        from rece_lightning.metrics.pretrained import load_parts

        return [type(one).__name__ for one in load_parts("ClipScore.model", given[0], None, "CLIPTextModel")]
    return None


def main(steps: list[list[Any]]) -> None:
    """All steps; a step that is refused says why."""
    answers = []
    for step in steps:
        try:
            answers.append(said(step))
        except ReceError as error:
            answers.append(str(error))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
