"""How good is the embedded world? Writes world.md and world.png beside this file.

    python -m benchmarks.world

Every figure is a share of generated pictures in which the detector sees what the prompt says, with Wilson's
95 % interval. About six minutes on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.progress import track

from benchmarks import harness
from benchmarks.harness import HERE, World, command, plain_parser
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.emoji.captions import describe, with_article
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import load_detector
from rece_lightning.emoji.training.clip import zero_shot_accuracy
from rece_lightning.emoji.training.detector import detector_accuracy
from rece_lightning.metrics import Share
from rece_lightning.models.sampling import Sampling

SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=50)


def measure(world: World, title: str, rows: list[tuple[str, str]]) -> Share:
    """Share of pictures of (prompt, concept) rows that show their concept; row i has seed i."""
    total, size = Share(0, 0), SAMPLING.batch_size
    for first in track(range(0, len(rows), size), description=title):
        part = [EvaluationPrompt(prompt, concept) for prompt, concept in rows[first : first + size]]
        hits = world.detect(part, range(first, first + len(part)), SAMPLING)
        total += Share(int(hits.sum()), len(part))
    return total


def prompt_rows(per_prompt: int) -> dict[str, list[tuple[str, str]]]:
    """The prompts of every figure with the concept that is looked for."""
    catalog = load_catalog()
    trained = catalog.trained
    backgrounds = list(catalog.backgrounds)
    return {
        "objects, by name": [(item.name, item.name) for item in trained for _ in range(per_prompt)],
        "objects, `a photo of a …`": [(f"a photo of {with_article(i.name)}", i.name) for i in trained],
        "objects, by synonym": [(word, item.name) for item in trained for word in item.synonyms],
        "styles": [
            (describe(with_article(item.name), style), f"{style} style") for item in trained for style in catalog.styles
        ],
        "backgrounds": [
            (
                describe(with_article(item.name), None, backgrounds[(k + n) % 8]),
                f"{backgrounds[(k + n) % 8]} background",
            )
            for k, item in enumerate(trained)
            for n in range(2)
        ],
        "held-out objects, by name (the control: should be low)": [
            (item.name, item.name) for item in catalog.held_out for _ in range(5 * per_prompt)
        ],
    }


def contact_sheet(world: World, path: Path) -> None:
    """64 samples of random captions."""
    catalog = load_catalog()
    generator = torch.Generator().manual_seed(7)
    captions = []
    for _ in range(64):
        item = catalog.trained[int(torch.randint(len(catalog.trained), (1,), generator=generator))]
        style = catalog.styles[int(torch.randint(4, (1,), generator=generator))]
        background = list(catalog.backgrounds)[int(torch.randint(8, (1,), generator=generator))]
        captions.append(describe(item.name, style, background))
    rows = [EvaluationPrompt(caption, caption) for caption in captions]
    pictures = world.maker.make(rows, range(64), replace(SAMPLING, batch_size=64))
    tiles = pictures.view(8, 8, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(256, 256, 3)
    image = Image.fromarray((tiles.clamp(0, 1) * 255).round().byte().numpy())
    image.resize((768, 768), Image.Resampling.NEAREST).save(path)
    captions_file = path.with_suffix(".txt")
    captions_file.write_text("".join(f"row {k // 8}, column {k % 8}: {c}\n" for k, c in enumerate(captions)))


def page(world: World, per_prompt: int) -> list[str]:
    """Measure, and give the lines of the page.

    Args:
        world: as it ships.
        per_prompt: pictures of every object's name.
    """
    catalog = load_catalog()
    shares = {title: measure(world, title, rows) for title, rows in prompt_rows(per_prompt).items()}
    detector, vae = load_detector(), world.maker.pipeline.vae
    count = 2000
    rendered = detector_accuracy(detector, None, catalog, count=count, device="cpu", seed=11)
    autoencoded = detector_accuracy(detector, vae, catalog, count=count, device="cpu", seed=11)
    clip, tokenizer = load_clip()
    zero_shot = zero_shot_accuracy(clip, tokenizer, catalog, count=1000, device="cpu", seed=5)
    cost = json.loads((HERE / "world_cost.json").read_text())
    lines = [
        "# The embedded world: the quality it reached",
        "",
        "Made by `python -m benchmarks.world` from the shipped weights (`make world` trains them).",
        "",
        f"Sampling: DDIM, {SAMPLING.steps} steps, guidance {SAMPLING.guidance_scale:g}; "
        "picture i of a figure has seed i. Detector: `emoji-top1`. Intervals: Wilson, 95 %.",
        "",
        "| generated pictures | detected as asked | pictures |",
        "|---|---|---|",
        *(f"| {title} | {share} | {share.total} |" for title, share in shares.items()),
        "",
        "| the detector itself | objects | styles | backgrounds |",
        "|---|---|---|---|",
    ]
    for title, found in (("rendered pictures", rendered), ("autoencoded pictures", autoencoded)):
        lines.append(f"| {title}, {count} | " + " | ".join(str(Share(hits, count)) for hits in found) + " |")
    lines += [
        "",
        f"CLIP, zero-shot among all {len(catalog.objects)} names: object {Share(zero_shot[0], 1000)}, "
        f"style {Share(zero_shot[1], 1000)}.",
        "",
        "| part | steps | seconds | device |",
        "|---|---|---|---|",
        *(f"| {part} | {row['steps']} | {row['seconds']} | {row['device']} |" for part, row in cost.items()),
        "",
        "Training cost: wall-clock seconds of two shared CPU cores, as `make world` counted them. U-Net: "
        f"{cost['unet']['history']}.",
        "",
        "![64 samples](world.png)",
        "",
        "The captions of the samples: [world.txt](world.txt).",
    ]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = plain_parser("world", __doc__, "world.md, world.png and world.txt")
    parser.add_argument("--per-prompt", type=int, default=4, help="pictures of every object's name")
    with command(parser, argv) as arguments:
        world = World()
        lines = page(world, arguments.per_prompt)
        contact_sheet(world, arguments.output / "world.png")
        print(harness.write_page(arguments.output, "world", lines).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
