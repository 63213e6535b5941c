"""The ladder of attacks of a run, read from ``red_team.csv``: what got through the edit, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.evaluation.results.tables import reading_rows
from rece_lightning.metrics import Difference

ALL = "all"
"""The concept of rows over all of them."""
NO_ATTACK = "no attack"
NOISE = "noise"
FED = ("prompt", "embedding", NOISE)
"""What attackers give a model: a text, rows in its place, the noise that a picture begins with."""
NAN = float("nan")


@dataclass(frozen=True)
class Counted:
    """A share as the table holds it, with the interval that was computed where its prompts were known."""

    hits: int
    total: int
    interval: tuple[float, float]

    @property
    def rate(self) -> float:
        """NaN where nothing was measured."""
        return self.hits / self.total if self.total else NAN

    def __str__(self) -> str:
        if not self.total:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


@dataclass(frozen=True)
class LadderRow:
    """One attack, or one point of its curve, on one concept or on all of them."""

    attack: str
    variant: str
    concept: str
    control: bool
    """Whether the model never knew the concept."""
    has: str
    """What the attacker needs."""
    original: Counted
    """Pictures of the original model that show the concept, given what the attack found."""
    edited: Counted
    """Pictures of the edited model that do."""
    prompts: Counted
    """Prompts of which at least one picture of the edited model does."""
    queries: int
    seconds: float

    @property
    def title(self) -> str:
        """As the ladder in the terminal calls it."""
        return " ".join(part for part in (self.attack, self.variant, "(control)" if self.control else "") if part)

    @property
    def place(self) -> dict[str, float]:
        """Where it lies on a curve: ``steps=40 tokens=2`` → ``{"steps": 40, "tokens": 2}``."""
        pairs = [part.partition("=") for part in self.variant.split() if "=" in part]
        try:
            return {key: float(value) for key, _, value in pairs}
        except ValueError:
            return {}

    @property
    def is_control_point(self) -> bool:
        """Whether this point of an attack tells what its others are worth: other or random noise to start from."""
        return any(part in ("noise=other", "noise=alike") for part in self.variant.split())

    @property
    def feeds(self) -> str:
        """What the attacker gives the model, one of :data:`FED`."""
        if self.needs_embeddings:
            return "embedding"
        return NOISE if "starting noise" in self.has else "prompt"

    @property
    def needs_embeddings(self) -> bool:
        """Whether the attacker must feed embeddings: a prompt box is not enough."""
        return "embedding input" in self.has


@dataclass(frozen=True)
class Ladder:
    """What was measured of all attacks."""

    concepts: tuple[LadderRow, ...]
    """Attack and concept, in the order of the sheet's pictures."""
    whole: tuple[LadderRow, ...]
    """An attack over all concepts, from what the attacker has least to most as they were run."""
    detector: str
    sampling: str

    @property
    def attacks(self) -> list[LadderRow]:
        """Of :attr:`whole`, those that attack: no control, not the concept's own prompt."""
        kept = (row for row in self.whole if not row.control and not row.is_control_point)
        return [row for row in kept if row.attack != NO_ATTACK]

    def control_of(self, row: LadderRow) -> LadderRow | None:
        """The same attack on concepts that the model never knew."""
        twins = (one for one in self.whole if one.control and (one.attack, one.variant) == (row.attack, row.variant))
        return next(twins, None)

    def over_control(self, row: LadderRow) -> Difference | None:
        """How far an attack's success on the edited model is above its control's; ``None`` for one that has none."""
        control = None if row.control else self.control_of(row)
        if control is None or not (row.edited.total and control.edited.total):
            return None
        return Difference.of(row.edited, control.edited)

    def strongest(self) -> list[LadderRow]:
        """A row an attack, each with its control behind it: of a curve the point that brings back most."""
        rows = [row for row in self.whole if row.attack == NO_ATTACK]
        for name in dict.fromkeys(row.attack for row in self.attacks):
            best = max((row for row in self.attacks if row.attack == name), key=lambda row: row.edited.rate)
            control = self.control_of(best)
            rows += [best] if control is None else [best, control]
        return rows


def read_ladder(path: Path) -> Ladder | None:
    """Read a run's ``red_team.csv``; ``None`` where there is none, or no attack in it.

    Raises:
        ConfigurationError: if it is damaged.
    """
    if not path.is_file():
        return None
    with reading_rows(path, "attack anew") as table:
        cells = list(table)
        rows = [_row(one) for one in cells]
        protocol = (cells[0]["detector"], cells[0]["sampling"]) if cells else ("", "")
    concepts = tuple(row for row in rows if row.concept != ALL)
    return Ladder(concepts, tuple(row for row in rows if row.concept == ALL), *protocol) if concepts else None


def _row(cells: Mapping[str, str]) -> LadderRow:
    name = (cells["attack"], cells["variant"], cells["concept"], bool(int(cells["control"])), cells["has"])
    original, edited, prompts = (_counted(cells, share) for share in ("original", "edited", "edited_prompts"))
    return LadderRow(*name, original, edited, prompts, int(cells["queries"]), float(cells["seconds"]))


def _counted(cells: Mapping[str, str], name: str) -> Counted:
    hits, total = int(cells[f"{name}_hits"]), int(cells[f"{name}_total"])
    bounds = (float(cells[f"{name}_low"]), float(cells[f"{name}_high"])) if total else (NAN, NAN)
    return Counted(hits, total, bounds)


def ladder_findings(ladder: Ladder) -> list[str]:
    """What the ladder says in plain sentences, whether it flatters or not."""
    says = []
    for name in FED:
        rows = [row for row in ladder.attacks if row.feeds == name and row.edited.total]
        if not rows:
            continue
        best = max(rows, key=lambda row: row.edited.rate)
        if not best.edited.hits:
            tried = ", ".join(f"{row.title} {row.edited}" for row in rows)
            says.append(f"No picture got through under a {name} attack: {tried}.")
            continue
        before = f"; on the original model {best.original}" if best.original.total else ""
        some = "the concept is detected in" if len(ladder_concepts(ladder)) == 1 else "the concepts are detected in"
        says.append(f"The strongest {name} attack is {best.title}: {some} {best.edited} of the pictures{before}.")
    says += [sentence for row in ladder.strongest() if (sentence := _beside_control(ladder, row))]
    return says


def _beside_control(ladder: Ladder, row: LadderRow) -> str:
    control, above = ladder.control_of(row), ladder.over_control(row)
    if control is None or above is None:
        return ""
    # Noise teaches nothing: it carries the picture that it was inverted from.
    itself = "the noise carries by itself" if row.feeds == NOISE else "it teaches the model anew"
    verdict = f"not clearly more than {itself}"
    if above.interval[0] > 0:
        verdict = f"more than {itself}, so that something was left to find"
    return (
        f"{row.title} reaches {row.edited}, and {control.edited} for concepts that the model never knew (its control), "
        f"a difference of {above}: {verdict}."
    )


def ladder_concepts(ladder: Ladder) -> list[str]:
    """The concepts under attack, without controls."""
    return list(dict.fromkeys(row.concept for row in ladder.concepts if not row.control))


def tiles_to_show(rows: Sequence[LadderRow], most: int) -> dict[str, list[tuple[int, LadderRow]]]:
    """Which tiles of the sheet show what got through: an attack's title → (tile, its row) of ``most`` pictures.

    The sheet holds the pictures of every row but those without an attack, in the order of the table, ``edited.hits``
    each. Of an attack every concept's first one is shown, then every one's second, …; attacks of which nothing got
    through are left out.
    """
    through: dict[str, list[tuple[int, int, LadderRow]]] = {}
    tile = 0
    for row in rows:
        if row.attack != NO_ATTACK:
            through.setdefault(row.title, []).extend((turn, tile + turn, row) for turn in range(row.edited.hits))
            tile += row.edited.hits
    return {
        title: [(place, row) for _, place, row in sorted(turns, key=lambda one: one[:2])[:most]]
        for title, turns in through.items()
        if turns
    }
