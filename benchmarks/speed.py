"""Speed and memory of the erasure: ``python -m benchmarks.speed`` writes ``benchmarks/speed.md`` (about 20 minutes).

Every ratio is of medians of alternating runs in one process. ``--device cuda`` runs the same on a GPU and writes
``speed_cuda.md``. ``--checkpoint FOLDER`` says where the full-size checkpoint with random weights lies (2 GB).

    python -m benchmarks.speed --against FOLDER    # this checkout and another one, paired; prints, and writes no page

The loops, the imports and the whole command of both checkouts in turns; ``--sections`` names those of them that are
wanted (``loop-sd1,loop-sdxl,imports,command``).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import against
from benchmarks.full_size import projection_shapes, random_projections, write_checkpoint
from benchmarks.harness import HERE, Section, check_sections, command, fill_sections, machine, section_parser
from benchmarks.layerwise import best_layerwise, published_order
from rece_lightning.core import Eraser, Evidence, Gram, Method
from rece_lightning.core.embedding_map import apply_to_weight
from rece_lightning.erasure.encoding import EncodedPair, gather_evidence, scatter

POSITIONS = 77
REPEATS = 5
REPEATS_XL = 3  # a layer at a time these take minutes each
CONFIG = "nudity.yaml"


class Problem:
    """Weights of a model's shapes, one concept, the empty prompt as target and as what is kept.

    Args:
        shapes: of the projections.
        device: of everything.
        concepts: how many prompts are erased.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], device: str, concepts: int = 1) -> None:
        self.weights = random_projections(list(shapes), device)
        generator = torch.Generator().manual_seed(1)
        width = shapes[0][1]
        rows = torch.randn(concepts * POSITIONS, width, generator=generator)
        self.concept = rows.to(device)
        self.target = torch.randn(POSITIONS, width, generator=generator).repeat(concepts, 1).to(device)
        self.kept = self.target[:POSITIONS]
        self.device = device

    def evidence(self) -> Evidence:
        """The moments of the prompts."""
        pairs = [EncodedPair(concept, self.kept, 0, 0, 1.0) for concept in self.concept.split(POSITIONS)]
        preserved = scatter([self.kept], self.kept.shape[1], self.device)
        return gather_evidence(pairs, preserved, "all", self.device)

    def gram(self) -> Gram:
        """``G``."""
        return Gram.of(((str(index), weight) for index, weight in enumerate(self.weights)), device=self.device)

    def ours(self, epochs: int) -> list[Tensor]:
        """The loop, from embeddings and weights to edited weights."""
        maps = Eraser(Method(), self.evidence(), self.gram()).run(epochs).maps
        return [maps.applied_to(weight, 0) for weight in self.weights]

    def floor(self, epochs: int) -> None:
        """What cannot be left out: ``G``, applying ``M``, a factorisation and a solve for each edit and derivation."""
        least_algebra(self.weights, epochs)


def least_algebra(weights: Sequence[Tensor], epochs: int) -> None:
    """``G`` of weights, ``M`` applied to them, a factorisation and a solve for each edit and derivation."""
    gram = Gram.of(((str(index), weight) for index, weight in enumerate(weights)), device=weights[0].device).total
    system = gram + gram.trace() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(2 * epochs - 1):
        torch.cholesky_solve(gram, torch.linalg.cholesky(system))
    for weight in weights:
        apply_to_weight(weight, gram)


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Of one run."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def paired(works: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Medians of alternating runs, the first of which is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            # What takes half a minute needs no warm-up.
            spent = seconds(work, device) if turn or name in ("ours", "floor") else 0.0
            if turn:
                times[name].append(spent)
        print(
            f"  {turn}/{repeats} { ({name: round(each[-1], 3) for name, each in times.items() if each}) }", flush=True
        )
    return {name: statistics.median(each) for name, each in times.items()}


def loop_table(kind: str, device: str, repeats: int) -> list[str]:
    """Ours against both layer-at-a-time versions, three edits."""
    problem = Problem(projection_shapes(kind), device)
    same = problem.concept, problem.target, problem.kept
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: problem.ours(3),
        "plain": lambda: best_layerwise(problem.weights, *same, 3),
    }
    count = len(problem.weights)
    # For every layer edited the published order evaluates all layers: its time is linear in the layers edited.
    sample = count if kind == "sd1" else 2
    works["published"] = lambda: published_order(problem.weights, *same, 3, layers=sample)
    median = paired(works, repeats, device)
    published = median["published"] * count / sample
    ours, plain = problem.ours(3), best_layerwise(problem.weights, *same, 3)
    error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, plain, strict=True))
    note = "" if sample == count else f" ({sample} of {count} layers timed, times {count / sample:.0f})"
    return [
        f"| plain, a layer at a time, float64 | {median['plain']:.3f} | {median['plain'] / median['ours']:.1f} |",
        f"| published order of work, float32{note} | {published:.1f} | {published / median['ours']:.0f} |",
        f"| ours, float64 | {median['ours']:.3f} | 1 |",
        "",
        f"Largest relative difference of a layer between ours (float32 weights) and the plain formulas: {error:.1e}.",
    ]


def floor_table(kind: str, device: str, repeats: int) -> list[str]:
    """Six edits against what cannot be left out."""
    problem = Problem(projection_shapes(kind), device)
    median = paired({"ours": lambda: problem.ours(6), "floor": lambda: problem.floor(6)}, repeats, device)
    return [f"| {median['ours']:.3f} | {median['floor']:.3f} | {median['ours'] / median['floor']:.2f} |"]


def epoch_table(device: str, repeats: int) -> list[str]:
    """One epoch of the loop against the numbers of concepts and of layers."""
    shapes = projection_shapes("sd1")
    rows = []
    for concepts, layers in ((1, 32), (10, 32), (100, 32), (1000, 32), (1, 8), (1, 128)):
        problem = Problem((shapes * 4)[:layers], device, concepts)
        gram, evidence = problem.gram(), problem.evidence()
        eraser = Eraser(Method(), evidence, gram).run(1)
        spent = statistics.median(seconds(eraser.step, device) for _ in range(repeats))
        building = statistics.median(seconds(problem.evidence, device) for _ in range(3))
        rows.append(f"| {concepts:,} | {layers} | {1000 * spent:.0f} | {1000 * building:.0f} |")
        print(rows[-1], flush=True)
    return rows


# What an erasure must do before it can compute: imports; with a folder one text encoder and the prompts' encoding too.
FLOOR = """
import sys
import diffusers, yaml
from torch.utils.tensorboard import SummaryWriter
from transformers import CLIPTextModel
import rece_lightning.cli.lightning
from rece_lightning.cli.verbs import PACKAGE
from rece_lightning.data.concept_table import read_concepts
from rece_lightning.data.concepts import prompt_pairs, read_preserved
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
rece_lightning.cli.lightning.quiet()
if len(sys.argv) > 1:
    data = yaml.safe_load((PACKAGE / "configs" / "nudity.yaml").read_text(encoding="utf-8"))["data"]
    concepts = read_concepts(data["concepts"], data.get("target", " "), data.get("templates", ["{}"]))
    prompts = [text for pair in prompt_pairs(concepts) for text in (pair.prompt, pair.target)]
    prompts += read_preserved(data.get("preserve", [" "]))
    load_encoder(find_base(sys.argv[1])).encode(list(dict.fromkeys(prompts)))
"""
# A process starts with the peak of the one that forked it, so a small one must start what is measured.
LAUNCHER = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime); "
    "sys.exit(code)"
)


@dataclass(frozen=True)
class Used:
    """What a process took."""

    seconds: float
    """From its start to its end."""
    cpu: float
    """Seconds of processors."""
    peak: float
    """Resident megabytes at most."""


def measured_child(*arguments: str, folder: Path) -> Used:
    """Run a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *arguments]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{arguments} failed: {answer.stderr}")
    peak, cpu = map(float, answer.stdout.split())
    return Used(time.perf_counter() - started, cpu, peak)


def child(*arguments: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a process of its own."""
    used = measured_child(*arguments, folder=folder)
    return used.seconds, used.peak


def command_table(checkpoint: Path, repeats: int) -> list[str]:
    """The whole command on a full-size checkpoint, beside imports, one text encoder and the encoding."""
    here = str(HERE.parent / "cli.py")
    times: dict[str, list[tuple[float, float]]] = {"command": [], "floor": [], "imports": []}
    for turn in range(repeats):
        with tempfile.TemporaryDirectory() as place:
            runs = {
                "command": (here, "fit", "--config", CONFIG, "--model.pretrained", str(checkpoint)),
                "floor": ("-c", FLOOR, str(checkpoint)),
                "imports": ("-c", FLOOR),
            }
            for name, arguments in runs.items():
                folder = Path(place) if name == "command" else HERE.parent
                times[name].append(child(*arguments, folder=folder))
        print(f"  {turn + 1}/{repeats} { ({name: each[-1] for name, each in times.items()}) }", flush=True)
    took = {name: statistics.median(each[0] for each in runs) for name, runs in times.items()}
    peak = {name: statistics.median(each[1] for each in runs) for name, runs in times.items()}
    from rece_lightning.models.find import find_base

    base = find_base(str(checkpoint))
    projections = sum(weight.numel() * weight.element_size() for _, weight in base.read_projections()) / 2**20
    text = 4 * sum(torch.Size(shape).numel() for weights in base.text for shape in weights.shapes().values()) / 2**20
    bound = peak["imports"] + text + 2 * projections
    return [
        "| | seconds | peak MB |",
        "|---|---|---|",
        f"| imports | {took['imports']:.1f} | {peak['imports']:.0f} |",
        f"| imports, text encoder, encoding the prompts | {took['floor']:.1f} | {peak['floor']:.0f} |",
        f"| `rece fit --config {CONFIG}`, 4 epochs, exports, report | {took['command']:.1f} | {peak['command']:.0f} |",
        "",
        f"The command takes {took['command'] / took['floor']:.2f} times the second row (goal: at most 2). Imports, "
        f"text encoder in float32 ({text:.0f} MB) and twice the stored projections ({projections:.0f} MB) are "
        f"{bound:.0f} MB; the command's peak is {peak['command']:.0f} MB "
        f"({'within' if peak['command'] <= bound else 'above'} the goal).",
    ]


def tuning_table(checkpoint: Path, repeats: int) -> list[str]:
    """Erasures in memory with settings that are given, and with settings that choose themselves."""
    import rece_lightning
    from benchmarks.robust.plan import shipped_list

    lines = ["| model | preserved | given, s | balanced, s | robust, s |", "|---|---|---|---|---|"]
    for title, model in (("embedded world", "emoji"), ("Stable Diffusion 1.4's size", str(checkpoint))):
        pipeline = rece_lightning.load_pipeline(model)
        data = {"preserve": [one for one in shipped_list() if one.strip()]}

        def erased(tune: str, data: dict[str, list[str]] = data, pipeline: Any = pipeline) -> None:
            rece_lightning.erase(pipeline, "bomb", tune=tune, **data).undo()

        took = paired({tune: partial(erased, tune) for tune in ("off", "balanced", "robust")}, repeats, "cpu")
        shares = [f"{took[tune]:.3g} ({took[tune] / took['off']:.2f} ×)" for tune in ("balanced", "robust")]
        cells = [title, f"{len(data['preserve'])} prompts", f"{took['off']:.3g}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


SD1, SDXL = "Stable Diffusion 1.4's shapes (32 projections, 768 wide)", "SDXL's shapes (140 projections, 2,048 wide)"
TITLES = {
    "sd1": f"The loop, UCE and 2 RECE epochs: {SD1}",
    "sdxl": f"The loop, UCE and 2 RECE epochs: {SDXL}",
    "floor-sd1": f"UCE and 5 RECE epochs against the floor: {SD1}",
    "floor-sdxl": f"UCE and 5 RECE epochs against the floor: {SDXL}",
    "epochs": "One epoch",
    "command": "The whole command, Stable Diffusion 1.4's size in float16, no evaluation",
    "tuning": "Settings that choose themselves beside settings that are given",
}


def measure(section: str, device: str, repeats: int, checkpoint: Path) -> list[str]:
    """The lines of one section."""
    if section == "epochs":
        heading = ["| concepts | projections | ms an epoch | ms for the moments, once |", "|---|---|---|---|"]
        return heading + epoch_table(device, max(repeats, 9))
    if section in ("command", "tuning"):
        table = command_table if section == "command" else tuning_table
        return table(write_checkpoint(checkpoint), repeats)
    count = min(repeats, REPEATS_XL) if section.endswith("sdxl") else repeats
    if section.startswith("floor"):
        says = "The floor: `G`, applying `M`, and a factorisation with a solve for each edit and each derivation."
        return [says, "", "| ours, s | floor, s | ratio |", "|---|---|---|", *floor_table(section[6:], device, count)]
    return ["| | seconds | ÷ ours |", "|---|---|---|", *loop_table(section, device, count)]


def heading(said: str) -> list[str]:
    """The page's first lines."""
    return [
        "# Speed and memory",
        "",
        f"Written by `{said}` (`--sections` measures some of them anew). Medians of {REPEATS} alternating runs in "
        f"one process ({REPEATS_XL} of SDXL's); random weights in the real shapes; one concept of 77 positions, the "
        "empty prompt as target and as what is kept, unless said otherwise.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sections asked for and write the page of all; or compare with another checkout."""
    parser = section_parser("speed", __doc__, TITLES, REPEATS)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout: compare, and write no page")
    with command(parser, argv) as arguments:
        device, checkpoint = arguments.device, arguments.checkpoint
        if arguments.against is not None:
            compared(parser, arguments)
            return
        check_sections(parser, arguments.sections, TITLES)

        def measured(section: str) -> Section | None:
            if section in ("command", "tuning") and device != "cpu":
                return None
            return Section(machine(device), measure(section, device, arguments.repeats, checkpoint))

        print(fill_sections("speed", TITLES, arguments, measured, heading))


def compared(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Print this checkout beside another one."""
    said = arguments.sections
    sections = ",".join(against.SECTIONS) if said == parser.get_default("sections") else said
    check_sections(parser, sections, against.SECTIONS)
    if not (arguments.against / "cli.py").is_file():
        parser.error(f"--against: {arguments.against} is no checkout: there is no cli.py in it")
    chosen = sections.split(",")
    if "command" in chosen:
        write_checkpoint(arguments.checkpoint)
    lines = against.compare(arguments.against, chosen, arguments.device, arguments.repeats, arguments.checkpoint, child)
    print("", f"On {machine(arguments.device)}; medians of {arguments.repeats} turns.", "", *lines, sep="\n")


if __name__ == "__main__":
    main()
