"""Build the embedded world's data from four public icon sets and the Unicode names.

Needed only to make ``sprites.webp`` and ``catalog.json`` anew; training and evaluation read those two
files. The icon sets come from npm, the renderer from the extra ``world``::

    npm install @iconify-json/noto @iconify-json/twemoji @iconify-json/fluent-emoji-flat \\
        @iconify-json/fluent-emoji-high-contrast emojibase-data
    pip install -e '.[world]'
    python -m rece_lightning.emoji.build_sprites --node-modules node_modules
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SPRITE_SIZE = 64
OBJECTS = 210  # ten of them held out

# Style name in captions → npm package of the icon set.
ICON_SETS = {
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "fluent": "@iconify-json/fluent-emoji-flat",
    "ink": "@iconify-json/fluent-emoji-high-contrast",
}
# Light enough that black ink stays visible on each, apart enough that a detector tells them.
BACKGROUNDS = {
    "white": (250, 250, 250),
    "gray": (150, 150, 155),
    "red": (235, 105, 100),
    "orange": (250, 170, 80),
    "yellow": (250, 235, 110),
    "green": (130, 205, 120),
    "blue": (110, 170, 240),
    "purple": (185, 130, 220),
}
GROUPS = {3, 4, 5, 6, 7}  # animals, food, places, activities, objects (emojibase's numbers)
EXCLUDED_SUBGROUPS = {49, 57, 58}  # maps and globes, hotel, clocks and hourglasses
CAPTION_WORDS = {"a", "an", "in", "on", "style", "background", "the", "of", "and"}
# What the configurations and the paper's tasks need, whatever the selection below would take.
REQUIRED = [
    "bomb", "dagger", "axe", "water pistol", "kitchen knife", "crossed swords", "church", "parachute",
    "firecracker", "hammer", "shield", "rocket", "airplane", "guitar", "violin", "pizza", "banana",
]  # fmt: skip
# Known to the text encoder and the detector, never shown to the U-Net: the control of attacks.
HELD_OUT = [
    "trumpet", "owl", "pineapple", "sailboat", "cactus", "teapot", "scissors", "penguin", "candle", "helicopter",
]  # fmt: skip


def render(svg_body: str, width: int, height: int) -> Image.Image:
    """Render an icon's SVG body to a square RGBA sprite."""
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{svg_body.replace("currentColor", "#111111")}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE, height=SPRITE_SIZE)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


class IconSet:
    """An icon set in the npm JSON format: code points → SVG."""

    def __init__(self, folder: Path) -> None:
        self.chars: dict[str, str] = json.loads((folder / "chars.json").read_text())
        self.data: dict[str, Any] = json.loads((folder / "icons.json").read_text())

    def name_of(self, hexcode: str) -> str | None:
        for code in (hexcode.lower(), hexcode.lower().replace("-fe0f", "")):
            if code in self.chars:
                return self.chars[code]
        return None

    def sprite(self, hexcode: str) -> Image.Image:
        name = self.name_of(hexcode)
        assert name is not None
        name = self.data.get("aliases", {}).get(name, {}).get("parent", name)
        icon = {"width": 16, "height": 16, **self.data, **self.data["icons"][name]}
        return render(icon["body"], icon["width"], icon["height"])


def candidates(entries: list[dict[str, Any]], icon_sets: dict[str, IconSet]) -> list[dict[str, Any]]:
    """The emoji with a usable name that all four sets draw."""
    taken_words = CAPTION_WORDS | set(ICON_SETS) | set(BACKGROUNDS) | {"face", "black", "brown"}
    found = []
    for entry in entries:
        label = entry["label"]
        if entry.get("group") not in GROUPS or entry.get("subgroup") in EXCLUDED_SUBGROUPS:
            continue
        if not re.fullmatch(r"[a-z]+( [a-z]+)?", label) or set(label.split()) & taken_words:
            continue
        if all(icons.name_of(entry["hexcode"]) for icons in icon_sets.values()):
            found.append(entry)
    return found


def select(found: list[dict[str, Any]], sprites: dict[str, dict[str, Image.Image]]) -> tuple[list[str], list[str]]:
    """Choose names round-robin over the subgroups, skipping pictures that look like a chosen one."""
    by_name = {entry["label"]: entry for entry in found}
    missing = [name for name in REQUIRED + HELD_OUT if name not in by_name]
    if missing:
        raise SystemExit(f"not drawn by all sets: {missing}")

    def pixels(name: str) -> np.ndarray:
        views = []
        for sprite in sprites[name].values():
            canvas = Image.new("RGBA", sprite.size, (200, 200, 200, 255))
            canvas.alpha_composite(sprite)
            views.append(np.asarray(canvas.convert("RGB").resize((16, 16), Image.Resampling.BOX), dtype=np.float32))
        return np.stack(views) / 255

    chosen: dict[str, np.ndarray] = {name: pixels(name) for name in REQUIRED + HELD_OUT}
    queues: dict[int, list[str]] = defaultdict(list)
    # One-word names first: they make the shorter prompts.
    for entry in sorted(found, key=lambda e: (" " in e["label"], e["order"])):
        if entry["label"] not in chosen:
            queues[entry["subgroup"]].append(entry["label"])
    while len(chosen) < OBJECTS and any(queues.values()):
        for queue in queues.values():
            while queue and len(chosen) < OBJECTS:
                name = queue.pop(0)
                mine = pixels(name)
                nearest = min(float(np.sort(np.abs(mine - other).mean(axis=(1, 2, 3)))[1]) for other in chosen.values())
                if nearest > 0.075:
                    chosen[name] = mine
                    break
    order = [entry["label"] for entry in found if entry["label"] in chosen]
    return [name for name in order if name not in HELD_OUT], [name for name in order if name in HELD_OUT]


def synonyms_of(names: list[str], found: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Keywords that belong to one chosen object only and to no object's name."""
    by_name = {entry["label"]: entry for entry in found}
    name_words = {word for name in by_name for word in name.split()} | set(by_name)
    forbidden = name_words | CAPTION_WORDS | set(ICON_SETS) | set(BACKGROUNDS)
    owners = Counter(tag for name in names for tag in set(by_name[name].get("tags", [])))
    spread = Counter(tag for entry in found for tag in set(entry.get("tags", [])))
    fitting = {tag for tag in spread if spread[tag] <= 3 and tag not in forbidden and re.fullmatch(r"[a-z]{2,}", tag)}
    fitting &= {tag for tag in owners if owners[tag] == 1}
    return {name: [tag for tag in by_name[name].get("tags", []) if tag in fitting] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-modules", type=Path, required=True, help="folder with the npm packages")
    parser.add_argument("--output", type=Path, default=HERE, help="where sprites.webp and catalog.json go")
    arguments = parser.parse_args()
    icon_sets = {style: IconSet(arguments.node_modules / package) for style, package in ICON_SETS.items()}
    entries = json.loads((arguments.node_modules / "emojibase-data/en/data.json").read_text())
    found = candidates(entries, icon_sets)
    by_name = {entry["label"]: entry for entry in found}
    sprites = {
        name: {style: icons.sprite(entry["hexcode"]) for style, icons in icon_sets.items()}
        for name, entry in by_name.items()
    }
    trained, held_out = select(found, sprites)
    names = trained + held_out
    synonyms = synonyms_of(names, found)
    sheet = Image.new("RGBA", (SPRITE_SIZE * len(ICON_SETS), SPRITE_SIZE * len(names)))
    for row, name in enumerate(names):
        for column, style in enumerate(ICON_SETS):
            sheet.paste(sprites[name][style], (column * SPRITE_SIZE, row * SPRITE_SIZE))
    sheet.save(arguments.output / "sprites.webp", lossless=True, quality=100, method=6)
    catalog = {
        "styles": list(ICON_SETS),
        "backgrounds": {name: list(color) for name, color in BACKGROUNDS.items()},
        "objects": [
            {"name": name, "emoji": by_name[name]["emoji"], "synonyms": synonyms[name], "trained": name in trained}
            for name in names
        ],
    }
    (arguments.output / "catalog.json").write_text(json.dumps(catalog, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(found)} candidates, {len(trained)} trained, {len(held_out)} held out,", end=" ")
    print(f"{sum(map(len, synonyms.values()))} synonyms")


if __name__ == "__main__":
    main()
