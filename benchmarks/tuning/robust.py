"""What the rule of ``tune: robust`` is made from, and where it is judged: python -m benchmarks.tuning.robust

Writes robust_rule.csv and robust_rule.md. Three times five objects at once: the prices of the grid, at λ₁ 10 and at the
one that the rule takes, with their image-free figures, and pictures of concepts, of derived embeddings and of others
in nobody's list. Interrupted, it goes on where it stopped. About fifteen minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import harmonic_mean as mean_of

import torch

import rece_lightning
from benchmarks.harness import Piece, Table, World, command, digest, fill, table_parser, unet_digest, write_page
from benchmarks.results.derived import answer, with_derived
from benchmarks.results.plan import HELD, SAMPLING, objects
from rece_lightning.core.derivation import DerivationMap
from rece_lightning.core.editors import ProjectedUCE
from rece_lightning.core.grid import PRICES
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import RULES, left_under_other_words, robust_balance
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.erasure.live import LiveErasure
from rece_lightning.metrics import Share, harmonic_mean
from rece_lightning.models.text_space import TEXT

FIRST, SECOND, JUDGED = "first", "second", "third"
GROUPS = {
    FIRST: ("church", "rocket", "guitar", "pizza", "snake"),
    SECOND: ("bomb", "dagger", "axe", "water pistol", "kitchen knife"),
    JUDGED: ("parachute", "monkey", "saxophone", "hammer", "shield"),
}
"""The rule was chosen on the first two, and is judged on the third."""
HELD_FIXED = 10.0
"""λ₁ beside the one that the rule takes; its default would be left to the rule too."""
RIDGES = (1e-4, 1e-1)
"""Of the derived embedding, times ``tr(G)/d``: the strongest counts."""
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

    def pieces(self, group: str, price: float) -> list[Piece[Row]]:
        """A price with its λ₁."""
        found = []
        for scale in dict.fromkeys((self.chosen(group, price), HELD_FIXED)):
            made = {(group, scale, price): self.recipe(group, scale, price)}
            name = f"{group}: λ₁ {scale:g}, price {price:g}"
            found.append(Piece(name, made, lambda _, scale=scale: [[self.measure(group, scale, price)]]))
        return found

    def chosen(self, group: str, price: float) -> float:
        """The λ₁ that the rule takes at a price."""
        with self.erased(group, None, price) as erasure:
            assert erasure.tuning is not None
            return float(erasure.tuning["chosen"]["settings"]["editor.preserve_scale"])

    def erased(self, group: str, scale: float | None, price: float) -> LiveErasure:
        """What ``tune: robust`` makes where this is fixed."""
        default = ProjectedUCE(price=price)
        editor = default if scale in (None, default.preserve_scale) else replace(default, preserve_scale=scale)
        return rece_lightning.erase(
            self.world.maker.pipeline, list(GROUPS[group]), method=Method(editor=editor, projections="v"), epochs=1,
            tune="robust",
        )  # fmt: skip

    def recipe(self, group: str, scale: float, price: float) -> str:
        """Digest of what decides a row."""
        return digest([GROUPS[group], scale, price, RIDGES, SEEDS, KEPT_SEEDS, self.kept, str(SAMPLING)])

    def measure(self, group: str, scale: float, price: float) -> Row:
        """Erase, draw, undo."""
        names, original = GROUPS[group], self.world.readers()[TEXT]
        others = [prompt for prompt in self.kept if prompt not in names]
        with self.erased(group, scale, price) as erasure:
            assert erasure.tuning is not None
            said = erasure.tuning["chosen"]
            own, kept = self.hits(names, SEEDS), self.hits(others, KEPT_SEEDS)
            # Keys are read too, and stay as they were: an attacker's embedding meets both.
            now = self.world.readers()[TEXT]
            attacks = [self.hits(names, SEEDS, answer(now, original, ridge)) for ridge in RIDGES]
        best = max(attacks, key=lambda cells: share(cells).hits)
        return Row(
            unet_digest(), group, scale, price, self.recipe(group, scale, price), said["remaining"], said["drift"],
            said["regained"], own, best, kept,
        )  # fmt: skip

    def hits(self, prompts: Sequence[str], seeds: int, derived: DerivationMap | None = None) -> tuple[str, ...]:
        """A prompt's pictures by seed, 1 where its object is detected."""
        made = {} if derived is None else {TEXT: derived}
        rows = [EvaluationPrompt(prompt, prompt) for prompt in prompts for _ in range(seeds)]
        each = [seed for _ in prompts for seed in range(seeds)]
        found = self.world.detect(rows, each, SAMPLING, partial(with_derived, derivations=made) if made else None)
        return tuple("".join(str(int(hit)) for hit in line) for line in found.view(-1, seeds).tolist())


def expected(row: Row) -> float:
    """The rule."""
    return row.expected


def twice(row: Row) -> float:
    """Another rule, which was tried: drift counts twice."""
    return robust_balance(row.remaining, 2 * row.drift, row.regained)


def plain(row: Row) -> float:
    """Another: nothing is squared."""
    return mean_of([1 - left_under_other_words(row.remaining), 1 - row.drift, 1 - row.regained])


def told(rows: Sequence[Row], rule: Callable[[Row], float]) -> str:
    """Regret of a rule in every group: what the best setting is seen to do better."""
    found = []
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        found.append(f"{100 * (max(row.seen for row in own) - max(own, key=rule).seen):.0f}")
    return ", ".join(found)


def lines(rows: Sequence[Row]) -> list[str]:
    """Of the page."""
    said = [
        "# The rule of `tune: robust`",
        "",
        f"`python -m benchmarks.tuning.robust`. {RULES['robust']} Chosen on two groups of five "
        f"objects erased at once, judged on a third. Its regret in points, group by group: {told(rows, expected)}; "
        f"were drift counted twice: {told(rows, twice)}; nothing squared: {told(rows, plain)}.",
        "",
        f"U-Net `{rows[0].weights}`, {SAMPLING.steps} steps, guidance {SAMPLING.guidance_scale:g}, detector "
        "`emoji-top1`; `ProjectedUCE` of values; drawn words preserved, drift of others. *Derived*: the strongest of "
        "two ridges, any norm. *Kept*: the objects in nobody's list. *Seen*: harmonic mean of (1 − own), "
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
            f"## {group.capitalize()} group{' (judged on)' if group == JUDGED else ''}: {', '.join(GROUPS[group])}",
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
            work = [piece for group in GROUPS for price in prices for piece in bench.pieces(group, price)]
            fill(kept, work, overwrite=arguments.overwrite)
        print(write_page(arguments.output, "robust_rule", lines(kept.rows())))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
