"""Speed of generation: ``python -m benchmarks.evaluation`` writes ``benchmarks/evaluation.md`` (15 minutes).

Ours against plain diffusers, from prompts to pictures in [0, 1] on the CPU, and the peak memory of ``rece predict``
over the number of pictures. ``--device cuda`` runs the same on a GPU, larger, and writes ``evaluation_cuda.md``.
``--checkpoint FOLDER`` says where the full-size checkpoint with random weights lies (2 GB, made once).
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.full_size import write_checkpoint
from benchmarks.harness import HERE, Section, check_sections, command, fill_sections, machine, section_parser
from benchmarks.speed import child, seconds
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.emoji.captions import describe
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling

REPEATS = 9
REPEATS_FULL_SIZE = 3  # on two cores a way takes about twenty seconds
MEMORY = "Memory of `rece predict`"
FEW, MANY = 200, 2000
"""Pictures of the memory's two runs."""
FLAT = 1.05
"""The most that ten times the pictures may need of the memory."""
OURS, BATCHED, PLAIN = "ours", "diffusers, the same batch", "diffusers, one prompt at a time"


@dataclass(frozen=True)
class Scene:
    """What is generated."""

    title: str
    model: str
    prompts: int
    seeds: int
    """Pictures of each prompt."""
    batch: int
    steps: int
    latent: int | None = None
    """Edge of the latents where it is not the model's own."""
    guidance: float = 4.0

    def __str__(self) -> str:
        count = self.prompts * self.seeds
        told = f"{count} pictures ({self.prompts} prompts, {self.seeds} seeds)"
        return f"{told}, batches of {self.batch}, {self.steps} steps"


def scenes(device: str, checkpoint: Path) -> dict[str, Scene]:
    """The embedded world, and Stable Diffusion 1.4's shapes as large as the device allows."""
    sd1 = "Stable Diffusion 1.4's shapes, random weights"
    if device == "cpu":
        return {
            "emoji": Scene("The embedded world, 32×32 pictures", "emoji", 8, 2, 16, 6),
            # A step of the whole 64×64 latents takes the better part of a minute on two cores.
            "sd1": Scene(f"{sd1}, latents 16×16 in place of 64×64", str(checkpoint), 2, 2, 4, 2, 16),
        }
    return {
        "emoji": Scene("The embedded world, 32×32 pictures", "emoji", 40, 5, 100, 12),
        "sd1": Scene(f"{sd1}, latents 64×64", str(checkpoint), 4, 4, 8, 10),
    }


class Stage:
    """One pipeline and the three ways to get the same pictures from it.

    Args:
        scene: model, prompts and seeds.
        device: of the whole pipeline, text encoder included.
    """

    def __init__(self, scene: Scene, device: str) -> None:
        base = find_base(scene.model)
        place = torch.device(device)
        self.scene = scene
        self.encoder = load_encoder(base, place)
        self.pipeline: Any = PictureMaker.load(base, self.encoder, Placement(), place).pipeline
        if scene.latent is not None:
            self.pipeline.unet.register_to_config(sample_size=scene.latent)
        names = [item.name for item in load_catalog().trained[: scene.prompts]]
        self.prompts = [name for name in names for _ in range(scene.seeds)]
        self.seeds = [seed for _ in names for seed in range(scene.seeds)]

    def ours(self, guidance: float) -> Tensor:
        """Prompts encoded once, batches over prompts and seeds; a maker that has encoded nothing yet."""
        maker = PictureMaker(self.pipeline, self.encoder, {})
        sampling = Sampling(self.scene.steps, guidance, self.scene.batch)
        return maker.make([EvaluationPrompt(prompt, prompt) for prompt in self.prompts], self.seeds, sampling)

    def diffusers(self, guidance: float, batch: int) -> Tensor:
        """The pipeline called with so many prompts at a time."""
        made = []
        for first in range(0, len(self.prompts), batch):
            part = slice(first, first + batch)
            pictures = self.pipeline(
                self.prompts[part],
                generator=[torch.Generator().manual_seed(seed) for seed in self.seeds[part]],
                num_inference_steps=self.scene.steps,
                guidance_scale=guidance,
                output_type="pt",
            ).images
            made.append(pictures.float().cpu())
        return torch.cat(made)

    def ways(self, guidance: float) -> dict[str, Callable[[], Tensor]]:
        """Ours and both of diffusers."""
        return {
            OURS: lambda: self.ours(guidance),
            BATCHED: lambda: self.diffusers(guidance, self.scene.batch),
            PLAIN: lambda: self.diffusers(guidance, 1),
        }


def alternate(
    ways: dict[str, Callable[[], Tensor]], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of each in every turn, and the pictures of a first turn, not counted.

    Ours and the same batch take turns in being first; a run between the plain loop and them is not counted, so that
    neither pays for the other shapes.
    """
    drawn = {name: way() for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        ways[BATCHED]()
        for name in ((OURS, BATCHED), (BATCHED, OURS))[turn % 2] + (PLAIN,):
            times[name].append(seconds(ways[name], device))
        print(f"  {turn + 1}/{repeats} { ({name: round(each[-1], 3) for name, each in times.items()}) }", flush=True)
    return times, drawn


def speed_lines(scene: Scene, device: str, repeats: int) -> list[str]:
    """Pictures a second with and without guidance."""
    stage = Stage(scene, device)
    count = scene.prompts * scene.seeds
    lines = [f"{scene}.", "", "| | pictures a second | ours is faster by |", "|---|---|---|"]
    reached = []
    for guidance in (scene.guidance, 1.0):
        times, drawn = alternate(stage.ways(guidance), repeats, device)
        error = max(float((drawn[OURS] - other).abs().max()) for other in drawn.values())
        told = f"guidance {guidance:g}" if guidance > 1 else "no guidance"
        for name, each in times.items():
            spent = statistics.median(each)
            lines.append(f"| {name}, {told} | {count / spent:.3g} | {spent / statistics.median(times[OURS]):.2f} |")
        reached.append(verdict(told, times, error))
    return [*lines, "", "\n\n".join(reached)]


def verdict(told: str, times: dict[str, list[float]], error: float) -> str:
    """Whether ours is as fast as diffusers in the same batch."""
    factor = statistics.median(times[BATCHED]) / statistics.median(times[OURS])
    turns = [other / own for own, other in zip(times[OURS], times[BATCHED], strict=True)]
    goal = "reached" if factor >= 1 else "within the turns' scatter" if max(turns) >= 1 else "missed"
    return (
        f"With {told}: {factor:.2f} times the speed of diffusers in the same batch ({min(turns):.2f} to "
        f"{max(turns):.2f} in single turns; goal 1.0: {goal}). The three ways' pictures differ by at most "
        f"{255 * error:.2f}/255."
    )


def memory_lines(device: str, few: int = FEW, many: int = MANY) -> list[str]:
    """Peak memory of ``rece predict`` with few and with many pictures."""
    peaks, took = {}, {}
    for count in (few, many):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            took[count], peaks[count] = child(*predict(folder, count, device), folder=folder)
            made = len(list(folder.rglob("*.png")))
        if made != count:
            raise SystemExit(f"rece predict made {made} of {count} pictures")
        print(f"  {count} pictures: {took[count]:.0f} s, {peaks[count]:.0f} MB", flush=True)
    factor = peaks[many] / peaks[few]
    return [
        "| pictures | seconds | peak MB |",
        "|---|---|---|",
        *(f"| {count:,} | {took[count]:.0f} | {peaks[count]:.0f} |" for count in (few, many)),
        "",
        f"{many / few:.0f} times the pictures take {factor:.2f} times the memory (goal: at most {FLAT}, "
        f"{'reached' if factor <= FLAT else 'missed'}). A prompt of its own each, one step, no guidance, batches "
        "of 50; imports included.",
    ]


def predict(folder: Path, count: int, device: str) -> Sequence[str]:
    """Arguments of Python that run ``rece predict`` for so many pictures of the embedded world."""
    writer = {"class_path": "PictureWriter", "init_args": {"steps": 1, "guidance_scale": 1.0, "batch_size": 50}}
    config = {
        "model": {"pretrained": "emoji"},
        "data": {"concepts": ["bomb"]},
        "trainer": {"accelerator": "cpu" if device == "cpu" else "gpu", "devices": 1, "callbacks": [writer]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    catalog = load_catalog()
    contexts = itertools.product(catalog.styles, catalog.backgrounds, catalog.trained)
    prompts = [describe(item.name, style, background) for style, background, item in contexts]
    rows = [f"{prompts[k % len(prompts)]},{k}" for k in range(count)]
    (folder / "prompts.csv").write_text("\n".join(["prompt,seed", *rows]) + "\n")
    given = ("--config", str(folder / "config.yaml"), "--data.predict", str(folder / "prompts.csv"))
    return (str(HERE.parent / "cli.py"), "predict", *given)


def heading(said: str) -> list[str]:
    """The page's first lines."""
    return [
        "# Speed and memory of generation",
        "",
        f"Written by `{said}` (`--sections` measures some of them anew). One process, one pipeline in float32 and "
        "its own scheduler for all three ways; from prompts to pictures on the CPU, text encoding included. A "
        "prompt's pictures are an evaluation's: several seeds of each.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sections asked for and write the page of all."""
    titles = {**{name: scene.title for name, scene in scenes("cpu", Path()).items()}, "memory": MEMORY}
    parser = section_parser("evaluation", __doc__, titles, REPEATS)
    with command(parser, argv) as arguments:
        check_sections(parser, arguments.sections, titles)
        device, found = arguments.device, scenes(arguments.device, arguments.checkpoint)

        def measure(section: str) -> Section:
            if section == "memory":
                return Section(machine(device), memory_lines(device))
            repeats = arguments.repeats
            if section == "sd1":
                write_checkpoint(arguments.checkpoint)
                repeats = min(repeats, REPEATS_FULL_SIZE)
            where = f"{machine(device)}, medians of {repeats} alternating runs"
            return Section(where, speed_lines(found[section], device, repeats))

        titles |= {name: scene.title for name, scene in found.items()}
        print(fill_sections("evaluation", titles, arguments, measure, heading))


if __name__ == "__main__":
    main()
