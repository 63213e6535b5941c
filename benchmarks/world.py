"""How good are the embedded worlds? Writes world.md beside this file, and for each world a sheet of samples.

    python -m benchmarks.world
    python -m benchmarks.world --worlds emoji-mmdit   # one of them anew; the other's figures stay

Every figure is a share of generated pictures in which the detector sees what the prompt says, with Wilson's
95 % interval. About twenty minutes on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from rich.progress import track

from benchmarks import harness
from benchmarks.harness import HERE, World, command, plain_parser, weights_digest
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.emoji.captions import describe, with_article
from rece_lightning.emoji.catalog import WEIGHTS, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import load_detector
from rece_lightning.emoji.training.clip import zero_shot_accuracy
from rece_lightning.emoji.training.detector import detector_accuracy
from rece_lightning.files import write_text
from rece_lightning.metrics import Share
from rece_lightning.models.sampling import Sampling

WORLDS = {
    "emoji": Sampling(steps=12, guidance_scale=4.0, batch_size=50),
    "emoji-mmdit": Sampling(steps=12, guidance_scale=4.0, batch_size=50),
}
DENOISERS = {"emoji": "U-Net, DDIM", "emoji-mmdit": "MMDiT, Euler"}
SHEETS = {"emoji": "world", "emoji-mmdit": "world_mmdit"}


def measure(world: World, sampling: Sampling, title: str, rows: list[tuple[str, str]]) -> Share:
    """Share of pictures of (prompt, concept) rows that show their concept; row i has seed i."""
    total, size = Share(0, 0), sampling.batch_size
    for first in track(range(0, len(rows), size), description=title):
        part = [EvaluationPrompt(prompt, concept) for prompt, concept in rows[first : first + size]]
        hits = world.detect(part, range(first, first + len(part)), sampling)
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
        "objects, with style and background": [
            (describe(with_article(item.name), catalog.styles[k % 4], backgrounds[k % 8]), item.name)
            for k, item in enumerate(trained)
        ],
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


def contact_sheet(world: World, sampling: Sampling, path: Path) -> None:
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
    pictures = world.maker.make(rows, range(64), replace(sampling, batch_size=64))
    tiles = pictures.view(8, 8, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(256, 256, 3)
    image = Image.fromarray((tiles.clamp(0, 1) * 255).round().byte().numpy())
    image.resize((768, 768), Image.Resampling.NEAREST).save(path)
    captions_file = path.with_name("world.txt")
    captions_file.write_text("".join(f"row {k // 8}, column {k % 8}: {c}\n" for k, c in enumerate(captions)))


def shared_figures() -> dict[str, Any]:
    """What both worlds share: the detector's right answers on 2,000 pictures, and CLIP's on 1,000."""
    catalog, detector = load_catalog(), load_detector()
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae")
    common = {"count": 2000, "device": "cpu", "seed": 11}
    clip, tokenizer = load_clip()
    return {
        "rendered pictures": detector_accuracy(detector, None, catalog, **common),
        "autoencoded pictures": detector_accuracy(detector, vae, catalog, **common),
        "zero-shot": zero_shot_accuracy(clip, tokenizer, catalog, count=1000, device="cpu", seed=5),
    }


def page(found: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Sequence[int]]) -> list[str]:
    """The lines of the page.

    Args:
        found: world → its ``figures``, each with hits and pictures.
        shared: of :func:`shared_figures`.
    """
    worlds = [name for name in WORLDS if name in found]
    titles = list(found[worlds[0]]["figures"])
    cost = json.loads((HERE / "world_cost.json").read_text(encoding="utf-8"))
    sampled = "; ".join(f"`{n}` ({DENOISERS[n]}) {WORLDS[n].steps} steps" for n in worlds)
    lines = [
        "# The embedded worlds: the quality they reached",
        "",
        "Made by `python -m benchmarks.world` from the shipped weights (`make world` trains them).",
        "",
        f"Sampling: {sampled}; guidance {WORLDS[worlds[0]].guidance_scale:g}; picture i of a figure has seed i. "
        "Detector: `emoji-top1`. Intervals: Wilson, 95 %.",
        "",
        "| generated pictures, detected as asked | " + " | ".join(f"`{name}`" for name in worlds) + " | pictures |",
        "|---|" + "---|" * (len(worlds) + 1),
    ]
    for title in titles:
        shares = [Share(*found[name]["figures"][title]) for name in worlds]
        lines.append(f"| {title} | " + " | ".join(map(str, shares)) + f" | {shares[0].total} |")
    lines += ["", "| the detector itself, 2000 pictures | objects | styles | backgrounds |", "|---|---|---|---|"]
    for title in ("rendered pictures", "autoencoded pictures"):
        lines.append(f"| {title} | " + " | ".join(str(Share(hits, 2000)) for hits in shared[title]) + " |")
    right_objects, right_styles = shared["zero-shot"]
    lines += [
        "",
        f"CLIP, zero-shot among all {len(load_catalog().objects)} names: object {Share(right_objects, 1000)}, "
        f"style {Share(right_styles, 1000)}.",
        "",
        "| part | steps | seconds | device |",
        "|---|---|---|---|",
        *(f"| {part} | {row['steps']} | {row['seconds']} | {row['device']} |" for part, row in cost.items()),
        "",
        "Training cost: wall-clock seconds of two shared CPU cores, as `make world` counted them; the MMDiT's of one. "
        f"U-Net: {cost['unet']['history']}. MMDiT: {cost['mmdit']['history']}.",
    ]
    for name in worlds:
        lines += ["", f"![64 samples of {name}]({SHEETS[name]}.png)"]
    return [*lines, "", "The captions of the samples: [world.txt](world.txt)."]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = plain_parser("world", __doc__, "world.json, world.md, world.txt and the sheets")
    parser.add_argument("--per-prompt", type=int, default=4, help="pictures of every object's name")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="those to measure anew; the other's figures stay")
    with command(parser, argv, trials=("per_prompt",)) as arguments:
        record = arguments.output / "world.json"
        kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        asked = [name for name in arguments.worlds.split(",") if name]
        if asked:
            kept["shared"] = shared_figures()
        for name in asked:
            if name not in WORLDS:
                parser.error(f"--worlds: there is no {name!r}; choose from {', '.join(WORLDS)}")
            world, sampling = World(name), WORLDS[name]
            shares = {
                title: measure(world, sampling, f"{name}: {title}", rows)
                for title, rows in prompt_rows(arguments.per_prompt).items()
            }
            kept[name] = {
                "weights": weights_digest(name),
                "figures": {title: [share.hits, share.total] for title, share in shares.items()},
            }
            contact_sheet(world, sampling, arguments.output / f"{SHEETS[name]}.png")
            write_text(record, json.dumps(kept, indent=1) + "\n")
        lines = page({name: kept[name] for name in WORLDS if name in kept}, kept["shared"])
        print(harness.write_page(arguments.output, "world", lines).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
