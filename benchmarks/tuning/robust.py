"""What the rule of ``tune: robust`` is made from, and where it is judged: python -m benchmarks.tuning.robust

Writes robust_rule.csv and robust_rule.md. Five objects at once, then five weapons at once: every price and λ₁ of the
grid with its image-free figures, and pictures of concepts, of derived embeddings and of objects in nobody's list.
Interrupted, it goes on where it stopped. About twelve minutes on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import rece_lightning
from benchmarks.article.bench import answer
from benchmarks.harness import Piece, Table, World, command, digest, fill, table_parser, unet_digest, write_page
from benchmarks.results.plan import HELD, objects
from rece_lightning.core.editors import ProjectedUCE
from rece_lightning.core.grid import PRICES
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import RULES, robust_balance
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.metrics import Share, harmonic_mean
from rece_lightning.models.sampling import Request, Sampling

CHOSEN, JUDGED = "chosen on", "judged on"
GROUPS = {
    CHOSEN: ("church", "rocket", "guitar", "pizza", "snake"),
    JUDGED: ("bomb", "dagger", "axe", "water pistol", "kitchen knife"),
}
PRESERVES = (0.1, 10.0)
RIDGES = (1e-4, 1e-1)
"""Of the derived embedding, times ``tr(G)/d``: the strongest counts."""
SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=64)
SEEDS, KEPT_SEEDS = 3, 2


@dataclass(frozen=True)
class Row:
    """A setting on a group of objects; counts as ``hits/pictures`` by prompt."""

    weights: str
    group: str
    preserve_scale: float
    price: float
    recipe: str
    remaining: float
    drift: float
    regained: float
    own: tuple[str, ...]
    derived: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def key(self) -> tuple[str, float, float]:
        """What names it."""
        return self.group, self.preserve_scale, self.price

    @property
    def expected(self) -> float:
        """What the rule says."""
        return robust_balance(self.remaining, self.drift, self.regained)

    @property
    def seen(self) -> float:
        """What pictures say: harmonic mean of not drawn, not regained, kept."""
        own, derived, kept = (share(cells).rate for cells in (self.own, self.derived, self.kept))
        return harmonic_mean(own, kept, derived)


def share(cells: Sequence[str]) -> Share:
    """Of detections, with an interval over prompts."""
    return Share.over((cell.count("1"), len(cell)) for cell in cells)


class Bench:
    """Pictures of one world."""

    def __init__(self) -> None:
        self.world = World()
        self.kept = list(dict.fromkeys(row.prompt for erasure in objects() for row in erasure.groups[HELD]))

    def piece(self, group: str, scale: float, price: float) -> Piece[Row]:
        """A setting."""
        made = {(group, scale, price): self.recipe(group, scale, price)}
        return Piece(f"{group}: λ₁ {scale:g}, price {price:g}", made, lambda _: [[self.measure(group, scale, price)]])

    def recipe(self, group: str, scale: float, price: float) -> str:
        """Digest of what decides a row."""
        return digest([GROUPS[group], scale, price, RIDGES, SEEDS, KEPT_SEEDS, self.kept, str(SAMPLING)])

    def measure(self, group: str, scale: float, price: float) -> Row:
        """Erase, draw, undo."""
        names, pipeline = GROUPS[group], self.world.maker.pipeline
        original = self.weights()
        method = Method(editor=ProjectedUCE(preserve_scale=scale, price=price), projections="v")
        with rece_lightning.erase(pipeline, list(names), method=method, epochs=1, tune="robust") as erasure:
            assert erasure.tuning is not None
            said = erasure.tuning["chosen"]
            own, kept = self.hits(names, SEEDS), self.hits(self.kept, KEPT_SEEDS)
            # Keys are read too, and stay as they were: an attacker's embedding meets both.
            now = self.weights()
            attacks = [self.hits(names, SEEDS, answer(now, original, ridge)) for ridge in RIDGES]
        best = max(attacks, key=lambda cells: share(cells).hits)
        return Row(
            unet_digest(), group, scale, price, self.recipe(group, scale, price), said["remaining"], said["drift"],
            said["regained"], own, best, kept,
        )  # fmt: skip

    def weights(self) -> list[Tensor]:
        """What reads the text, as it is now."""
        parameters = dict(self.world.maker.pipeline.unet.named_parameters())
        names = self.world.loaded.base.spaces[0].readers
        return [parameters[name].detach().double().clone() for name in names]

    def hits(self, prompts: Sequence[str], seeds: int, matrix: Tensor | None = None) -> tuple[str, ...]:
        """A prompt's pictures by seed, 1 where its object is detected."""

        def derive(request: Request) -> Request:
            assert matrix is not None
            rows = (request.embedding.double() @ matrix.mT).to(request.embedding)
            return replace(request, embedding=rows)

        rows = [EvaluationPrompt(prompt, prompt) for prompt in prompts for _ in range(seeds)]
        each = [seed for _ in prompts for seed in range(seeds)]
        found = self.world.detect(rows, each, SAMPLING, None if matrix is None else derive)
        return tuple("".join(str(int(hit)) for hit in line) for line in found.view(-1, seeds).tolist())


def lines(rows: Sequence[Row]) -> list[str]:
    """Of the page."""
    said = [
        "# The rule of `tune: robust`",
        "",
        f"`python -m benchmarks.tuning.robust`. {RULES['robust']} Squares and factor were chosen on "
        f"{', '.join(GROUPS[CHOSEN])}, erased at once; they are judged on {', '.join(GROUPS[JUDGED])}.",
        "",
        f"U-Net `{rows[0].weights}`, {SAMPLING.steps} steps, guidance {SAMPLING.guidance_scale:g}, detector "
        "`emoji-top1`; `ProjectedUCE` of values; drawn words preserved, drift of others. *Derived*: the strongest of "
        "two ridges, any norm. *Kept*: twenty objects in nobody's list. *Seen*: harmonic mean of (1 − own), "
        "(1 − derived) and kept. "
        "95 % intervals over prompts.",
    ]
    for group in GROUPS:
        own = [row for row in rows if row.group == group]
        if not own:
            continue
        chosen, best = max(own, key=lambda row: row.expected), max(own, key=lambda row: row.seen)
        said += [
            "",
            f"## {group.capitalize()} {', '.join(GROUPS[group])}",
            "",
            f"The rule takes price {chosen.price:g} and λ₁ {chosen.preserve_scale:g}: own {share(chosen.own)}, derived "
            f"{share(chosen.derived)}, kept {share(chosen.kept)}. Best in hindsight by pictures: price {best.price:g}, "
            f"λ₁ {best.preserve_scale:g}; regret {100 * (best.seen - chosen.seen):.0f} points.",
            "",
            "| price | λ₁ | remaining | drift | regained | rule | own | derived | kept | seen |",
            "|---" * 10 + "|",
            *(
                f"| {row.price:g} | {row.preserve_scale:g} | {row.remaining:.2f} | {row.drift:.2f} | "
                f"{row.regained:.2f} | {row.expected:.3f} | {share(row.own)} | {share(row.derived)} | "
                f"{share(row.kept)} | {row.seen:.2f} |"
                for row in sorted(own, key=lambda row: -row.expected)
            ),
        ]
    return said


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("tuning.robust", __doc__, "robust_rule.csv and robust_rule.md")
    with command(parser, argv) as arguments:
        kept = Table(arguments.output / "robust_rule.csv", Row, digits=6)
        if not arguments.page:
            bench, prices = Bench(), [price for price in PRICES if price is not None]
            work = [bench.piece(g, scale, price) for g in GROUPS for scale in PRESERVES for price in prices]
            fill(kept, work, overwrite=arguments.overwrite)
        print(write_page(arguments.output, "robust_rule", lines(kept.rows())))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
