"""What UCE and RECE do on the embedded world, over λ, published and accumulated, plain and attacked.

    python -m benchmarks.settings            # measures what is missing in settings.csv, then writes the page
    python -m benchmarks.settings --page     # writes the page alone

A line of ``settings.csv`` is one (task, setting, attack): detections of erased names, their synonyms and
kept prompts over five seeds. Interrupted, it goes on where it stopped. About a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.progress import track

from rece_lightning.core import diagnostics
from rece_lightning.core.derivation import Derivation, derive
from rece_lightning.core.editors.uce import EditScales
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.eraser import LoopSettings, RECELoop
from rece_lightning.core.gram import Gram
from rece_lightning.core.moments import Moments
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.emoji.captions import describe, with_article
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.encoding import encode_pairs, gather_evidence
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.metrics import EmojiDetector, Share
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling

HERE = Path(__file__).parent
SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=50)
SEEDS = range(5)
WEAPONS = ["bomb", "dagger", "axe", "water pistol", "kitchen knife"]
STYLE = "twemoji"
# The attacker's ridges as shares of tr(G)/d: a curve over the norm of the embedding that is given.
ATTACKS = [10.0, 1.0, 0.1, 1e-2, 1e-3]
FIELDS = [
    "task", "setting", "lamb", "preserve_scale", "regular_scale", "accumulate", "epochs", "attack", "norm_ratio",
    "erased_hits", "erased_total", "synonym_hits", "synonym_total", "kept_hits", "kept_total",
    "residual", "drift", "condition",
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One way to erase."""

    name: str
    epochs: int = 4
    lamb: float = 0.1
    preserve_scale: float = 0.1
    regular_scale: float = 0.1
    accumulate: bool = False

    def loop_settings(self) -> LoopSettings:
        """As the core takes it."""
        return LoopSettings(
            scales=EditScales(1.0, self.preserve_scale, self.lamb),
            regular_scale=self.regular_scale,
            accumulate=self.accumulate,
        )


def settings() -> list[Setting]:
    """The original model, UCE, and RECE over λ, published and accumulated; then other λ₂."""
    chosen = [Setting("original", epochs=0), Setting("UCE", epochs=1)]
    for accumulate in (False, True):
        kind = "RECE accumulated" if accumulate else "RECE"
        for scale in (1e-4, 1e-3, 1e-2, 0.1, 1.0):
            chosen.append(Setting(f"{kind}, λ {scale:g}", regular_scale=scale, accumulate=accumulate))
    # λ₂ on the scale of the moments, where the published 0.1 hardly holds anything.
    for lamb in (1.0, 10.0):
        chosen.append(Setting(f"UCE, λ₂ {lamb:g}", epochs=1, lamb=lamb))
    chosen.append(Setting("RECE accumulated, λ 0.1, λ₂ 10", lamb=10.0, accumulate=True))
    chosen.append(Setting("RECE, λ 0.001, λ₂ 10", lamb=10.0, regular_scale=1e-3))
    chosen.append(Setting("RECE accumulated, λ 0.001, λ₂ 10", lamb=10.0, regular_scale=1e-3, accumulate=True))
    chosen.append(Setting("UCE, λ₁ 1, λ₂ 10", epochs=1, lamb=10.0, preserve_scale=1.0))
    chosen.append(Setting("RECE, λ 0.001, λ₁ 1, λ₂ 10", lamb=10.0, preserve_scale=1.0, regular_scale=1e-3))
    return chosen


@dataclass(frozen=True)
class Task:
    """What is erased, kept and looked at."""

    name: str
    pairs: list[tuple[str, str]]
    preserved: list[str]
    erased: list[tuple[str, str]]
    synonyms: list[tuple[str, str]]
    kept: list[tuple[str, str]]


def tasks() -> list[Task]:
    """Weapons, and a designer's style."""
    catalog = load_catalog()
    others = [item for item in catalog.trained if item.name not in (*WEAPONS, "crossed swords", "firecracker")]
    preserved = [" ", *(item.name for item in others[::2])]
    held_out = [item.name for item in others[1::2]]
    synonyms = [(word, item.name) for item in catalog.trained if item.name in WEAPONS for word in item.synonyms]
    weapons = Task(
        "weapons",
        [(name, " ") for name in WEAPONS],
        preserved,
        [(name, name) for name in WEAPONS],
        synonyms,
        [(name, name) for name in held_out[::4]],
    )
    seen, unseen = others[::8], others[1::24]
    nouns = [with_article(item.name) for item in seen]
    rest = [style for style in catalog.styles if style != STYLE]
    style = Task(
        "style",
        [(describe(noun, STYLE), noun) for noun in nouns],
        [" ", *nouns, *(describe(noun, other) for noun in nouns for other in rest)],
        [(describe(with_article(item.name), STYLE), f"{STYLE} style") for item in unseen],
        [],
        [
            (describe(with_article(item.name), rest[place % 3]), f"{rest[place % 3]} style")
            for place, item in enumerate(unseen)
        ],
    )
    return [weapons, style]


class Bench:
    """The embedded world and everything that is computed once."""

    def __init__(self) -> None:
        self.base = find_base("emoji")
        self.encoder = load_encoder(self.base)
        self.maker = PictureMaker.load(self.base, self.encoder, Placement(), torch.device("cpu"))
        self.detector = EmojiDetector()
        self.names = list(self.base.projections)
        self.gram = Gram.of(self.base.read_projections())

    def loop(self, task: Task, setting: Setting) -> RECELoop:
        """Run a setting on a task."""
        prompts, targets = [pair[0] for pair in task.pairs], [pair[1] for pair in task.pairs]
        pairs = encode_pairs(self.encoder, prompts, targets, [1.0] * len(prompts))
        kept = list(self.encoder.encode(task.preserved).embeddings)
        loop = RECELoop(self.gram, gather_evidence(pairs, kept, "aligned", "cpu"), setting.loop_settings())
        loop.run(setting.epochs)
        return loop

    def put(self, maps: AnyMap) -> None:
        """Put edited weights into the pipeline."""
        weights = self.base.read_projections()
        self.maker.use((name, maps.applied_to(weight, k)) for k, (name, weight) in enumerate(weights))

    def count(self, rows: list[tuple[str, str]], derivation: Derivation | None = None) -> tuple[Share, float]:
        """Detections of (prompt, concept) rows over the seeds, and the mean norm ratio."""
        prompts = [EvaluationPrompt(prompt, concept) for prompt, concept in rows for _ in SEEDS]
        seeds = [seed for _ in rows for seed in SEEDS]
        if not prompts:
            return Share(0, 0), float("nan")
        attack = (lambda rows: derivation.apply(rows)) if derivation is not None else None
        pictures = self.maker.make(prompts, seeds, SAMPLING, derive=attack)
        hits = self.detector.detect(pictures, [row.concept for row in prompts])
        ratio = 1.0
        if derivation is not None:
            own = [request.embedding for request in self.maker.embed([prompt for prompt, _ in rows])]
            ratio = sum(float(derivation.apply(c).norm() / c.norm()) for c in own) / len(own)
        return Share(int(hits.sum()), len(prompts)), ratio


def measure(path: Path) -> None:
    """Measure every missing line."""
    done = set()
    if path.exists():
        with path.open(newline="") as stream:
            done = {(row["task"], row["setting"], row["attack"]) for row in csv.DictReader(stream)}
    else:
        path.write_text(",".join(FIELDS) + "\n")
    bench = Bench()
    for task in tasks():
        held_out = Moments.preserving(torch.cat(list(bench.encoder.encode([p for p, _ in task.kept]).embeddings)))
        for setting in track(settings(), description=task.name):
            missing = [a for a in ["none", *map(str, ATTACKS)] if (task.name, setting.name, a) not in done]
            if not missing:
                continue
            loop = bench.loop(task, setting)
            bench.put(loop.maps)
            size = diagnostics.map_figures(loop.maps)
            for attack in missing:
                row = {
                    "task": task.name, "setting": setting.name, "lamb": setting.lamb, "epochs": setting.epochs,
                    "preserve_scale": setting.preserve_scale, "regular_scale": setting.regular_scale,
                    "accumulate": int(setting.accumulate), "attack": attack,
                    "residual": diagnostics.regeneration_residual(bench.gram, loop.maps, loop.evidence.whole.erased),
                    "drift": diagnostics.preservation_drift(bench.gram, loop.maps, held_out.preserved),
                    "condition": size.condition,
                }  # fmt: skip
                derivation = None
                if attack != "none":
                    derivation = derive(bench.gram, loop.maps, float(attack) * bench.gram.scale)
                shares = {}
                shares["erased"], row["norm_ratio"] = bench.count(task.erased, derivation)
                plain = attack == "none"
                shares["synonym"] = bench.count(task.synonyms)[0] if plain else Share(0, 0)
                shares["kept"] = bench.count(task.kept)[0] if plain else Share(0, 0)
                for role, share in shares.items():
                    row |= {f"{role}_hits": share.hits, f"{role}_total": share.total}
                with path.open("a", newline="") as stream:
                    csv.DictWriter(stream, FIELDS).writerow(row)


def read(path: Path) -> list[dict[str, str]]:
    """The measured lines."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def share(row: dict[str, str], role: str) -> Share:
    """A line's detections of a role."""
    return Share(int(row[f"{role}_hits"]), int(row[f"{role}_total"]))


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Curves of detection under attack over the norm ratio; erased against kept."""
    figure = Figure(figsize=(12, 8))
    shown = ["original", "UCE", "RECE, λ 0.001", "RECE, λ 0.1", "RECE accumulated, λ 0.001", "RECE accumulated, λ 0.1"]
    for line, task in enumerate(("weapons", "style")):
        axes = figure.add_subplot(2, 2, 2 * line + 1)
        for name in shown:
            points = sorted(
                (float(row["norm_ratio"]), share(row, "erased"))
                for row in rows
                if row["task"] == task and row["setting"] == name and row["attack"] != "none"
            )
            if points:
                low = [max(0.0, s.rate - s.interval[0]) for _, s in points]
                high = [max(0.0, s.interval[1] - s.rate) for _, s in points]
                axes.errorbar([p for p, _ in points], [s.rate for _, s in points], [low, high], marker="o", label=name)
        axes.set(title=f"{task}: given the derived embedding", xlabel="‖c'‖/‖c‖", ylabel="detected", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        axes = figure.add_subplot(2, 2, 2 * line + 2)
        for row in rows:
            if row["task"] == task and row["attack"] == "none":
                x, y = share(row, "erased").rate, share(row, "kept").rate
                marker = "s" if row["accumulate"] == "1" else "o"
                axes.scatter([x], [y], marker=marker)
                axes.annotate(row["setting"], (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axes.set(title=f"{task}: own prompts", xlabel="erased, detected (lower is better)", ylabel="kept, detected")
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def page(path: Path) -> None:
    """Write settings.md from settings.csv."""
    rows = read(path)
    bench_gram = Gram.of(find_base("emoji").read_projections())
    lines = [
        "# UCE and RECE on the embedded world",
        "",
        "Made by `python -m benchmarks.settings`; the raw counts are in [settings.csv](settings.csv). "
        f"Five seeds a prompt, DDIM {SAMPLING.steps} steps, guidance {SAMPLING.guidance_scale:g}, "
        "detector `emoji-top1`, "
        "Wilson's 95 % intervals over pictures. Unless a row says otherwise λ₁ = λ₂ = 0.1, 3 RECE epochs after UCE.",
        "",
        f"`tr(G)/d` is {bench_gram.scale:.3g} on this model. "
        "Attack: the embedding derived with the attacker's own ridge "
        f"({', '.join(f'{a:g}' for a in ATTACKS)} times `tr(G)/d`); the table shows the strongest of these, "
        "with the norm ratio at which it was reached, and the smallest norm ratio at which half of that came back.",
        "",
    ]
    for task in ("weapons", "style"):
        lines += [
            f"## {task}",
            "",
            "| setting | erased | synonyms | kept | strongest derived embedding | at ‖c'‖/‖c‖ | half of it at "
            "| residual | drift |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row["task"] != task or row["attack"] != "none":
                continue
            attacked = [
                r for r in rows if r["task"] == task and r["setting"] == row["setting"] and r["attack"] != "none"
            ]
            best = max(attacked, key=lambda r: share(r, "erased").rate, default=None)
            cells = [row["setting"], *(str(share(row, role)) for role in ("erased", "synonym", "kept"))]
            if best is None:
                cells += ["–", "–", "–"]
            else:
                top = share(best, "erased").rate
                half = min(float(r["norm_ratio"]) for r in attacked if share(r, "erased").rate >= top / 2)
                cells += [str(share(best, "erased")), f"{float(best['norm_ratio']):.2f}", f"{half:.2f}"]
            cells += [f"{float(row['residual']):.4f}", f"{float(row['drift']):.3f}"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["![curves](settings.png)"]
    notes = HERE / "settings_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    (HERE / "settings.md").write_text("\n".join(lines) + "\n")
    draw(rows, HERE / "settings.png")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    arguments = parser.parse_args()
    path = HERE / "settings.csv"
    if not arguments.page:
        measure(path)
    page(path)
    print((HERE / "settings.md").read_text())


if __name__ == "__main__":
    main()
