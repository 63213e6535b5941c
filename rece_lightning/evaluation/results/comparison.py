"""What an evaluation found: prompts, columns of pictures, detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.table import Table
from torch import Tensor

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.evaluation.results.costs import StateCost
from rece_lightning.evaluation.results.figures import QualityLine
from rece_lightning.evaluation.results.states import UNWANTED, Shot
from rece_lightning.metrics import Difference, PairedTest, Share, paired_test

ORIGINAL, FIRST, FIRST_DERIVED, LAST, LAST_DERIVED = "original", "uce", "uce_derived", "rece", "rece_derived"
TITLES = {
    ORIGINAL: "original",
    FIRST: "UCE (epoch 0)",
    FIRST_DERIVED: "UCE, given the derived embedding",
    LAST: "RECE (last epoch)",
    LAST_DERIVED: "RECE, given the derived embedding",
}


BESIDE, GIVEN = "beside_", "_derived"
"""What the keys of other methods' columns begin with, and end with where the derived embedding was given."""


def beside_key(name: str, *, derived: bool = False) -> str:
    """Key of the column of another method, by its name."""
    return f"{BESIDE}{name}{GIVEN * derived}"


def epoch_of(key: str, epochs: int) -> int:
    """The epoch that a column of a ``fit`` of so many epochs is of; the original's is the first one's too."""
    if key.startswith("epoch_"):
        return int(key.removeprefix("epoch_"))
    return epochs - 1 if key in (LAST, LAST_DERIVED) or key.startswith(BESIDE) else 0


@dataclass(frozen=True)
class Column:
    """One model state (and attack): its pictures and what was detected in them."""

    key: str
    title: str
    rows: tuple[int, ...]
    """Index of the prompt of every picture."""
    seeds: tuple[int, ...]
    pictures: Tensor
    """Of the sheet and the grid, ``[k, 3, h, w]``: floats in [0, 1], or bytes."""
    hits: Tensor | None = None
    """``[n]`` bool: the prompt's concept was detected. ``None`` without a detector."""
    norm_ratio: float | None = None
    """``‖c'‖/‖c‖`` of the embeddings that were given, where they were derived."""
    shown: tuple[str, ...] | None = None
    """What the detector sees in every picture instead; ``None`` where it cannot say."""
    places: tuple[int, ...] | None = None
    """Place in the column of each of ``pictures``, rising; ``None``: all were kept."""

    def pictures_of(self, row: int, most: int) -> Tensor:
        """The first pictures of a prompt, as many as were kept and at most ``most``."""
        places = range(len(self.rows)) if self.places is None else self.places
        return self.pictures[[index for index, place in enumerate(places) if self.rows[place] == row][:most]]

    @property
    def first_pictures(self) -> Tensor:
        """The pictures of the column's first lines, without gaps."""
        if self.places is None:
            return self.pictures
        return self.pictures[: sum(index == place for index, place in enumerate(self.places))]


@dataclass
class Comparison:
    """All columns over the same prompts and seeds."""

    prompts: tuple[EvaluationPrompt, ...]
    own: frozenset[str] = frozenset()
    """Prompts that were erased by their own words; other rows of the same concepts are synonyms."""
    protocol: str = ""
    sampling: str = ""
    columns: dict[str, Column] = field(default_factory=dict)
    quality: list[QualityLine] = field(default_factory=list)
    """What ``Evaluation.metrics`` measured."""
    costs: dict[str, StateCost] = field(default_factory=dict)
    """Column → what its state and its pictures cost."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
    editor: str = "UCE"
    """Class of epoch 0's editor, which its column is called by; of a baseline that was trained its name."""
    is_trained: bool = False
    """Whether it is a baseline that was trained, with no epoch 0 and no derived embeddings."""
    floor_prompts: tuple[str | None, ...] = ()
    """Of every row what is asked in its place to measure the floor; ``None`` where there is no such prompt."""
    nearest: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``text`` and ``name`` → preserved concepts, from the one that is nearest to what was erased on."""
    floors: dict[tuple[int, int], bool] = field(default_factory=dict)
    """Row and seed → whether the original model shows the row's concept under its floor prompt."""

    def title_of(self, key: str) -> str:
        """Title of a column of a ``fit``."""
        if self.is_trained and key != ORIGINAL:
            return self.editor if key == LAST else f"{self.editor}, epoch {key.removeprefix('epoch_')}"
        if key.startswith(BESIDE):
            name = key.removeprefix(BESIDE)
            return f"{name.removesuffix(GIVEN)}, given the derived embedding" if name.endswith(GIVEN) else name
        title = TITLES.get(key) or f"RECE, epoch {key.removeprefix('epoch_')}"
        return title.replace("UCE", self.editor)

    def rename(self, key: str, new: str) -> None:
        """Call a column, where it is there, by another key and its title."""
        if key in self.columns:
            self.columns[new] = replace(self.columns.pop(key), key=new, title=self.title_of(new))
            self.quality = [replace(line, column=new) if line.column == key else line for line in self.quality]
            self.costs |= {new: self.costs.pop(key)} if key in self.costs else {}

    def sort(self) -> None:
        """Columns in the order of a ``fit``: the original, then epoch by epoch, each before its derived embedding's."""
        order = [ORIGINAL, FIRST, FIRST_DERIVED]
        between = sorted((key for key in self.columns if key.startswith("epoch_")), key=lambda key: epoch_of(key, 0))
        others = [key for key in self.columns if key.startswith(BESIDE)]
        kept = [key for key in [*order, *between, LAST, LAST_DERIVED, *others] if key in self.columns]
        self.columns = {key: self.columns[key] for key in kept}

    @property
    def beside(self) -> list[str]:
        """Names of the other methods that were measured on the same prompts."""
        names = [key.removeprefix(BESIDE) for key in self.columns if key.startswith(BESIDE)]
        return [name for name in names if not name.endswith(GIVEN)]

    def prompt_of(self, row: int) -> tuple[str, str]:
        """What tells prompts apart: text and concept. A file may hold one several times, with other seeds."""
        return self.prompts[row].prompt, self.prompts[row].concept

    def role(self, row: int) -> str:
        """``erased``, ``synonym`` or ``kept``; of an erased prompt that is counted apart its group."""
        prompt = self.prompts[row]
        if prompt.kind == "preserved":
            return "kept"
        if prompt.group:
            return prompt.group
        # Only a concept that was itself erased as a prompt can have synonyms; a style's prompts just use it.
        return "synonym" if prompt.concept in self.own and prompt.prompt not in self.own else "erased"

    def shot(self, row: int, seed: int) -> Shot:
        """What tells a row's picture with a seed from others."""
        return Shot(*self.prompt_of(row), self.role(row), seed)

    def share(self, key: str, roles: Sequence[str], concept: str | None = None) -> Share:
        """Detections of a column over the prompts in some roles."""
        column = self.columns.get(key)
        if column is None or column.hits is None:
            return Share(0, 0)
        asked = [
            (bool(hit), self.prompt_of(row))
            for row, hit in zip(column.rows, column.hits, strict=True)
            if self.role(row) in roles and concept in (None, self.prompts[row].concept)
        ]
        return Share.of([hit for hit, _ in asked], [prompt for _, prompt in asked])

    def floor(self, roles: Sequence[str] = UNWANTED, concept: str | None = None) -> Share:
        """How often the original model shows the concepts where nobody asks for them, over the same seeds."""
        shots = [
            shot
            for shot in self.floors
            if self.role(shot[0]) in roles and concept in (None, self.prompts[shot[0]].concept)
        ]
        return Share.of([self.floors[shot] for shot in shots], [self.prompt_of(row) for row, _ in shots])

    def excess(self, key: str, roles: Sequence[str] = UNWANTED, concept: str | None = None) -> Difference | None:
        """A column's detections above the floor of the same prompts and seeds; ``None`` where none was measured."""
        column = self.columns.get(key)
        if column is None or column.hits is None:
            return None
        found = [
            (hit, self.floors[row, seed], self.prompt_of(row))
            for row, seed, hit in zip(column.rows, column.seeds, column.hits.tolist(), strict=True)
            if (row, seed) in self.floors and self.role(row) in roles and concept in (None, self.prompts[row].concept)
        ]
        if not found:
            return None
        hits, floors, prompts = zip(*found, strict=True)
        return Difference.paired(hits, floors, prompts)

    def above_floor(self, key: str) -> float:
        """Erased concepts and synonyms that a column shows more often than nobody asks for, as a share of all its
        pictures of them, 0 or more; a picture without a floor counts as it is."""
        column = self.columns[key]
        assert column.hits is not None
        above = [
            hit - self.floors.get((row, seed), False)
            for row, seed, hit in zip(column.rows, column.seeds, column.hits.tolist(), strict=True)
            if self.role(row) in UNWANTED
        ]
        return max(0.0, sum(above) / len(above))

    def compare(self, first: str, second: str, roles: Sequence[str]) -> PairedTest:
        """The paired test of two columns on the same prompts and seeds."""
        flags: list[dict[tuple[int, int], bool]] = []
        for column in (self.columns[first], self.columns[second]):
            assert column.hits is not None
            found = zip(column.rows, column.seeds, column.hits.tolist(), strict=True)
            flags.append({(row, seed): hit for row, seed, hit in found if self.role(row) in roles})
        shared = sorted(flags[0].keys() & flags[1].keys())
        before, after = ([found[shot] for shot in shared] for found in flags)
        return paired_test(before, after, [self.prompt_of(row) for row, _ in shared])

    @property
    def titles(self) -> dict[str, str]:
        """Column → its title."""
        return {key: column.title for key, column in self.columns.items()}

    def erased_concepts(self) -> list[str]:
        """Concepts of erased prompts, in their order."""
        return list(dict.fromkeys(row.concept for row in self.prompts if row.kind == "erased"))

    @property
    def last(self) -> str:
        """Key of the final state's column."""
        return LAST if LAST in self.columns else FIRST

    def verdict(self) -> list[str]:
        """What the figures say in plain sentences, whether it flatters or not."""
        says = []
        before, last = (self.share(key, UNWANTED) for key in (ORIGINAL, LAST))
        if not before.total and not self.share(ORIGINAL, ("kept",)).total:
            return ["No detector was given: look at the pictures."]
        if not before.total:
            return [self._change("The whole erasure", ORIGINAL, self.last, ("kept",), "preserved")]
        if self.is_trained:
            says.append(self._change(self.editor, ORIGINAL, LAST))
        elif not last.total:
            says.append(self._change(f"{self.editor} alone", ORIGINAL, FIRST))
        else:
            says.append(self._change(f"{self.editor} (epoch 0)", ORIGINAL, FIRST))
            says.append(self._change("RECE's epochs after it", FIRST, LAST))
            if self.share(FIRST_DERIVED, UNWANTED).total:
                says.append(self._attack(self.editor, FIRST_DERIVED, FIRST))
        excess = self.excess(self.last)
        if excess is not None:
            says.append(self._floor(excess))
        final = self.columns.get(LAST_DERIVED) or self.columns.get(FIRST_DERIVED)
        if final is not None:
            says.append(self._attack("RECE" if last.total else self.editor, final.key, self.last))
        if self.share(ORIGINAL, ("kept",)).total:
            says.append(self._change("The whole erasure", ORIGINAL, self.last, ("kept",), "preserved"))
        first, final_share = (self.share(key, UNWANTED) for key in (FIRST_DERIVED, LAST_DERIVED))
        if last.total and final_share.total:
            helped = first.hits - final_share.hits
            if abs(helped) / final_share.total < 0.1:
                says.append("Against the derived embedding RECE's epochs make next to no difference here.")
            elif helped < 0:
                says.append(f"Against the derived embedding the last epoch is worse than {self.editor} here.")
        for name in self.beside:
            key, attacked = beside_key(name), beside_key(name, derived=True)
            says.append(self._change(name, ORIGINAL, key))
            if self.share(attacked, UNWANTED).total:
                says.append(self._attack(name, attacked, key))
            if self.share(key, ("kept",)).total:
                says.append(self._change(name, ORIGINAL, key, ("kept",), "preserved"))
        return says

    def _change(self, what: str, first: str, last: str, roles: Sequence[str] = UNWANTED, of: str = "erased") -> str:
        before, after = (self.share(key, roles) for key in (first, last))
        if before == after:
            return f"{what}: no difference, {of} concepts detected in {after} of the pictures before and after."
        test = self.compare(first, last, roles)
        note = "" if test.clear else "this may be chance: "
        return f"{what}: {of} concepts detected in {before} of the pictures before, {after} after; {note}{test}."

    def _floor(self, excess: Difference) -> str:
        where = "the erasure is at this floor: complete" if excess.complete else f"the erasure stays {excess} above it"
        if not excess.complete and excess.value <= 0:
            where = f"the erasure is {excess} beside it"
        return (
            f"Where their targets are asked for, the original model shows the concepts in {self.floor()} of the "
            f"pictures; {where}."
        )

    def _attack(self, name: str, attacked: str, plain: str) -> str:
        given, own = self.share(attacked, UNWANTED), self.share(plain, UNWANTED)
        back = given.rate > own.rate and self.compare(plain, attacked, UNWANTED).clear
        outcome = "brings the concepts back" if back else "does not bring the concepts back beyond chance"
        return f"The derived embedding {outcome} from {name}'s edit: {given} (own prompts: {own})."


def comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """(concept, erased before → after, floor, excess, kept before → after), one row a concept, then all together.

    Floor and excess are left out where none was measured; see :func:`comparison_headings`.
    """
    kept, concepts = _arrow(comparison, ("kept",)), comparison.erased_concepts()
    rows = [(one, *_erased(comparison, UNWANTED, one), kept if len(concepts) == 1 else "") for one in concepts]
    if len(rows) != 1:
        rows.append(("all", *_erased(comparison, UNWANTED), kept))
    if any(comparison.role(index) == "synonym" for index in range(len(comparison.prompts))):
        rows.append(("  of these: own names", *_erased(comparison, ("erased",)), ""))
        rows.append(("  of these: synonyms", *_erased(comparison, ("synonym",)), ""))
    return rows


def comparison_headings(comparison: Comparison) -> tuple[str, ...]:
    """Of these rows."""
    change = ": before → after" if ORIGINAL in comparison.columns else ""
    floor = ("floor", "above it, in points") if comparison.floors else ()
    return "concept", f"erased{change}", *floor, f"kept{change}"


def _erased(comparison: Comparison, roles: Sequence[str], concept: str | None = None) -> tuple[str, ...]:
    change = _arrow(comparison, roles, concept)
    if not comparison.floors:
        return (change,)
    excess = comparison.excess(comparison.last, roles, concept)
    return change, str(comparison.floor(roles, concept)), above_floor(excess)


def above_floor(excess: Difference | None) -> str:
    """An excess in words of a table."""
    return "–" if excess is None else f"{excess.short}{', complete' if excess.complete else ''}"


def _arrow(comparison: Comparison, roles: Sequence[str], concept: str | None = None) -> str:
    before = comparison.share(ORIGINAL, roles, concept)
    after = comparison.share(comparison.last, roles, concept)
    return f"{before} → {after}" if before.total else str(after)


def comparison_table(comparison: Comparison) -> Table:
    """The rows as a table for the terminal."""
    headings = comparison_headings(comparison)
    title = f"Detected{headings[1].removeprefix('erased')}, share of pictures (95 % interval)"
    caption = f"{comparison.protocol or 'no detector'}; {comparison.sampling}"
    table = Table(*headings, title=title, caption=caption)
    for row in comparison_rows(comparison):
        table.add_row(*row)
    return table
