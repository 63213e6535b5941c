"""Time and peak memory of ``rece fit`` in published models' real shapes, beside the floor.

    python -m benchmarks.families.sizes --models flux1,sd35-large --folder FOLDER    # 20 GB at most, one at a time
    python -m benchmarks.families.sizes --models ''                                  # what was recorded, printed

A process of its own each: the whole command, and what cannot be left out of it: imports, loading the text encoders and
encoding the prompts, reading the readers, and the algebra with them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.families.shapes import MODELS, Published, write_folder
from benchmarks.harness import HERE, command, machine, plain_parser
from benchmarks.speed import CONFIG, measured_child
from rece_lightning.files import write_text

RECORD = "families_sizes.json"
EPOCHS = 2
PARTS = ("imports", "encoding", "reading", "algebra")
"""Of the floor."""
FLOOR = """
import json, sys, time
from pathlib import Path
parts, spent = {}, time.process_time()

def took(name):
    global spent
    now = time.process_time()
    parts[name], spent = now - spent, now

import diffusers, yaml
from torch.utils.tensorboard import SummaryWriter
import rece_lightning.cli.lightning
from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.data.concept_table import read_concepts
from rece_lightning.data.concepts import prompt_pairs, read_preserved
from rece_lightning.core.method import Method
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.text_space import edited_spaces
from benchmarks.speed import least_algebra
rece_lightning.cli.lightning.quiet()
took("imports")
data = yaml.safe_load((PACKAGE / "configs" / "nudity.yaml").read_text(encoding="utf-8"))["data"]
concepts = read_concepts(data["concepts"], data.get("target", " "), data.get("templates", ["{}"]))
prompts = [text for pair in prompt_pairs(concepts) for text in (pair.prompt, pair.target)]
prompts += read_preserved(data.get("preserve", [" "]))
base = find_base(sys.argv[1])
load_encoder(base).encode(list(dict.fromkeys(prompts)))
took("encoding")
spaces = edited_spaces(base.spaces, Method(spaces=json.loads(sys.argv[3]) or None))
weights = {space.name: [weight for _, weight in base.read_space(space)] for space in spaces}
took("reading")
if int(sys.argv[4]):
    for own in weights.values():
        least_algebra(own, int(sys.argv[4]))
took("algebra")
Path(sys.argv[2]).write_text(json.dumps(parts))
"""


def measure(name: str, model: Published, folder: Path, layers: int | None) -> dict[str, Any]:
    """The command and the floor on one model."""
    checkpoint = write_folder(folder / name, model, layers)
    here = str(HERE.parent / "cli.py")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        parts = Path(place) / "parts.json"
        spaces = json.dumps(["entry"] if model.arguments else [])
        floor = measured_child("-c", FLOOR, str(checkpoint), str(parts), spaces, str(EPOCHS), folder=HERE.parent)
        words = ("fit", "--config", CONFIG, "--model.pretrained", str(checkpoint), *model.arguments)
        whole = measured_child(here, *words, "--trainer.max_epochs", str(EPOCHS), folder=Path(place))
        took = json.loads(parts.read_text(encoding="utf-8"))
    stored = {part: sum(one.stat().st_size for one in (checkpoint / part).glob("*.safetensors"))
              for part in (model.denoiser[0], *model.encoders)}  # fmt: skip
    return {
        "title": model.title, "where": machine(), "layers": layers, "stored": stored, "floor": took,
        "floor_peak": floor.peak, "seconds": whole.cpu, "elapsed": whole.seconds, "peak": whole.peak,
    }  # fmt: skip


def lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of the page."""
    said = [
        "## Time and memory of `rece fit` in the real shapes",
        "",
        f"`python -m benchmarks.families.sizes`: `rece fit --config {CONFIG}` with {EPOCHS} epochs (one prompt erased, "
        "one preserved) on folders in the published shapes with random weights; what an erasure never reads is a hole "
        "in its file. Processor seconds of one core of a machine that did other work beside, once each; memory is the "
        "largest resident set, files that are read in place among it. *Floor*: a process that imports, loads the "
        "text encoders and encodes the same prompts, reads the readers, and does what cannot be left out of the "
        "algebra where `d × d` is formed: `G`, a factorisation with a solve for each edit and each derivation, `W M`.",
        "",
        "| | denoiser, GB | text encoders, GB | fit, s | peak, GB | floor, s | "
        + " | ".join(PARTS)
        + " | floor's peak, GB |",
        "|---" * 11 + "|",
    ]
    for name in MODELS:
        if name not in found:
            continue
        one = found[name]
        sizes = [size / 1e9 for size in one["stored"].values()]
        parts = one["floor"]
        cells = [
            one["title"] + ("" if one["layers"] is None else f" (text encoder of {one['layers']} layers)"),
            f"{sizes[0]:.1f}", f"{sum(sizes[1:]):.1f}", f"{one['seconds']:.0f}", f"{one['peak'] / 1000:.1f}",
            f"{sum(parts.values()):.0f}", *(f"{parts[part]:.1f}" for part in PARTS),
            f"{one['floor_peak'] / 1000:.1f}",
        ]  # fmt: skip
        said.append("| " + " | ".join(cells) + " |")
    missing = [model.title for name, model in MODELS.items() if name not in found]
    dear = [one["title"] for one in found.values() if one["seconds"] > 5 * sum(one["floor"].values())]
    if missing:
        said += ["", f"Not run: {', '.join(missing)}."]
    if dear:
        said += [
            "",
            f"What {', '.join(dear)} takes beyond the floor are mostly the figures of every epoch, as the stacks of a "
            "run show: one decomposition into eigenvectors of a matrix `d × d` (what an embedding of a bounded norm "
            "regains), the systems of the other attackers, and at the end what a LoRA of it costs.",
        ]
    return [
        *said,
        "",
        "No GPU was at hand: `python -m benchmarks.speed --device cuda` and FLUX.1's shapes on one, beside the 3.4 s "
        "that RECE's article names for five epochs of Stable Diffusion, were not run.",
    ]


def recorded(folder: Path) -> dict[str, Any]:
    """What was measured so far."""
    record = folder / RECORD
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, record and print."""
    parser = plain_parser("families.sizes", __doc__, RECORD)
    parser.add_argument("--models", default=",".join(MODELS), help="those to measure anew; the others stay")
    parser.add_argument("--folder", type=Path, default=Path("family-sizes"), help="of checkpoints")
    parser.add_argument("--layers", type=int, help="of T5 and language models, where memory is short")
    parser.add_argument("--keep", action="store_true", help="do not delete a checkpoint after its measurement")
    with command(parser, argv) as arguments:
        found = recorded(arguments.output)
        for name in filter(None, arguments.models.split(",")):
            if name not in MODELS:
                parser.error(f"--models: there is no {name!r}; choose from {', '.join(MODELS)}")
            arguments.folder.mkdir(parents=True, exist_ok=True)
            found[name] = measure(name, MODELS[name], arguments.folder, arguments.layers)
            write_text(arguments.output / RECORD, json.dumps(found, indent=1) + "\n")
            if not arguments.keep:
                shutil.rmtree(arguments.folder / name)
        print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
