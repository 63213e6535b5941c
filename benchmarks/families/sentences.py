"""What the table says, in sentences: each is computed from a paired test or an interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.families.figures import (
    certificates,
    harmonic,
    left_between,
)
from benchmarks.families.plan import (
    ALONE,
    COMPARED,
    NULL_SPACE,
    PROJECTION,
    RULES,
    singular,
)
from benchmarks.families.table import Row
from benchmarks.results.claims import p, points
from benchmarks.results.excess import floor, strongest, strongest_each
from benchmarks.results.figures import UNWANTED, detection_change, detection_test, of, pairs, share
from benchmarks.results.plan import ERASED, HELD, KINDS, ORIGINAL, PUBLISHED, RECOMMENDED, UCE, UCE_RECOMMENDED
from benchmarks.results.plan import PROJECTION as OF_VALUES
from benchmarks.results.table import Row as OtherRow
from rece_lightning.metrics import Mean, PairedTest

WORLDS = {UCE: UCE, PUBLISHED: PUBLISHED, PROJECTION: OF_VALUES}
"""State here → the same on the U-Net."""


def answers(rows: Sequence[Row], other: Sequence[OtherRow]) -> list[str]:
    """The lines: a question a paragraph."""
    kinds = [kind for kind in KINDS if of(rows, kind, ORIGINAL, (HELD,))]
    questions = (
        ("Does a choke point make an erasure stronger, and what does it cost?", list(stronger(rows, other, kinds))),
        ("RECE beside UCE.", list(beside_uce(rows, kinds))),
        ("What does one space leave open?", list(left_open(rows, kinds))),
        ("Which `tokens`?", list(which_tokens(rows, kinds))),
        ("What can an attacker regain with embeddings?", list(regained(rows, kinds))),
    )
    lines: list[str] = []
    for title, said in questions:
        if said:
            lines += [f"**{title}**", "", *(f"- {one}" for one in said), ""]
    return lines[:-1]


def verdict(test: PairedTest, less: str, more: str, same: str) -> str:
    """What a test of a change says."""
    if not test.clear:
        return same
    return less if test.change < 0 else more


def stronger(rows: Sequence[Row], other: Sequence[OtherRow], kinds: Sequence[str]) -> Iterator[str]:
    """The same erasures on the U-Net and here: what each takes away of what its original shows."""
    for kind in kinds:
        for here, there in WORLDS.items():
            if not of(rows, kind, here, (HELD,)) or not of(other, kind, there, (HELD,)):
                continue
            gone = left_between(other, rows, kind, (there, here), UNWANTED)
            kept = left_between(other, rows, kind, (there, here), (HELD,))
            name = here if here == there else f"{here} (on the U-Net {there})"
            yield (
                f"{kind}, {name}: {sign(gone, 'stronger', 'weaker', 'no clear difference')}. Erased and synonyms fall "
                f"from {rate(rows, kind, ORIGINAL)} to {rate(rows, kind, here)}{floored(rows, kind)}, on the U-Net "
                f"from {rate(other, kind, ORIGINAL)} to {rate(other, kind, there)}: of what the original shows the "
                f"choke point leaves {points(gone)} more. Cost: "
                f"{sign(kept, 'higher', 'lower', 'no clear difference')}; of the kept {points(kept)} more stay."
            )


def sign(change: Mean, less: str, more: str, same: str) -> str:
    """What the interval of a change says."""
    low, high = change.interval
    return less if high < 0 else more if low > 0 else same


def rate(rows: Sequence[Row] | Sequence[OtherRow], kind: str, state: str) -> str:
    """Detections of what is unwanted, in percent."""
    return f"{100 * share(of(rows, kind, state, UNWANTED)).rate:.0f} %"


def floored(rows: Sequence[Row], kind: str) -> str:
    """The floor, where there is one."""
    found = floor(rows, kind)
    return f" (floor {100 * found.rate:.0f} %)" if found.total and found.hits else ""


def beside_uce(rows: Sequence[Row], kinds: Sequence[str]) -> Iterator[str]:
    """RECE's epochs against UCE's edit with the same scales."""
    for kind in kinds:
        for uce, rece in ((UCE, PUBLISHED), (UCE_RECOMMENDED, RECOMMENDED)):
            found = pairs(rows, kind, uce, rece, UNWANTED)
            if found:
                test = detection_test(found)
                said = verdict(test, "removes more than UCE", "removes less than UCE", "no clear difference")
                yield (
                    f"{kind}, {rece}: {said} ({points(detection_change(found))}, {p(test)}); kept "
                    f"{compared(rows, kind, uce, rece, (HELD,))}."
                )


def compared(rows: Sequence[Row], kind: str, before: str, after: str, groups: Sequence[str]) -> str:
    """A change with its interval and test."""
    found = pairs(rows, kind, before, after, groups)
    change: Mean = detection_change(found)
    return f"{points(change)}, {p(detection_test(found))}"


def on_all(rows: Sequence[Row], kind: str, states: Iterable[str]) -> list[Row]:
    """The rows of erasures that were measured in all of some states: a run may have been stopped between them."""
    found = [{row.erasure for row in of(rows, kind, state, (ERASED,))} for state in states]
    shared = set.intersection(*found) if found else set()
    return [row for row in rows if row.erasure in shared]


def told_kind(rows: Sequence[Row], own: Sequence[Row], kind: str) -> str:
    """The kind, and of how many erasures a comparison is where it is not of all."""
    whole, part = (len({row.erasure for row in one if row.kind == kind}) for one in (rows, own))
    return kind if part == whole else f"{kind} ({part} of {whole})"


def left_open(rows: Sequence[Row], kinds: Sequence[str]) -> Iterator[str]:
    """One space alone against both."""
    for kind in kinds:
        for method in COMPARED:
            states = [f"{method}, {variant}" for variant in ALONE]
            own = on_all(rows, kind, [method, *states])
            if own:
                told = [
                    f"{rate(own, kind, state)} after one of `{state.split()[-2]}` alone "
                    f"({compared(own, kind, method, state, UNWANTED)})"
                    for state in states
                ]
                yield (
                    f"{told_kind(rows, own, kind)}, {method}: erased and synonyms are seen in "
                    f"{rate(own, kind, method)} of the pictures after an edit of both spaces, in {', in '.join(told)}."
                )


def which_tokens(rows: Sequence[Row], kinds: Sequence[str]) -> Iterator[str]:
    """Every rule against the default, and the one with the best harmonic mean."""
    for kind in kinds:
        for method in COMPARED:
            states = {RULES[0]: method, **{rule: f"{method}, tokens {rule}" for rule in RULES[1:]}}
            own = on_all(rows, kind, states.values())
            if not own:
                continue
            means = {rule: harmonic(own, kind, state, HELD) for rule, state in states.items()}
            best = max(means, key=lambda rule: means[rule])
            told = ", ".join(
                f"`{rule}` {rate(own, kind, state)} / {100 * share(of(own, kind, state, (HELD,))).rate:.0f} %"
                for rule, state in states.items()
            )
            clear = [
                f"`{rule}` {verdict(test, 'removes more', 'removes less', '')} than `aligned` ({p(test)})"
                for rule, state in states.items()
                if rule != RULES[0] and (test := detection_test(pairs(own, kind, method, state, UNWANTED))).clear
            ]
            apart = "; ".join(clear) or "No rule removes clearly more or less than `aligned`"
            yield (
                f"{told_kind(rows, own, kind)}, {method}: erased and synonyms / kept {told}; `{best}` has the best "
                f"harmonic mean of removed and kept. {apart}."
            )


def regained(rows: Sequence[Row], kinds: Sequence[str]) -> Iterator[str]:
    """The derived embedding of any norm, and what the certificate is about."""
    yield (
        "Both maps that read the text are edited, and with these at zero the model's output does not depend on its "
        "text at all (a test shows it of every family, for prompts of one number of tokens): so the certificate of a "
        "singular editor, of the two spaces, "
        "covers all that the text can do to bring the concept's own answers back. UCE, RECE and the null space leave "
        "maps that can be inverted, and have none over embeddings of any norm."
    )
    for kind in kinds:
        states = [UCE, PUBLISHED, UCE_RECOMMENDED, RECOMMENDED, NULL_SPACE, PROJECTION]
        states = [one for one in [*states, *(one.name for one in singular(kind))] if of(rows, kind, one, (ERASED,))]
        own, told = on_all(rows, kind, states), []
        for state in states:
            found = strongest_each(own, kind, state)
            if found.total:
                bounds = certificates(own, kind, state)
                median = " / ".join(f"{middle:.2f}" for _, middle in bounds)
                bound = f", certificate {median}" if any(middle for _, middle in bounds) else ""
                one = strongest(own, kind, state)
                told.append(f"{state} {100 * one.rate:.0f} % ({100 * found.rate:.0f} % own ridge{bound})")
        if told:
            named, least = told_kind(rows, own, kind), floored(rows, kind)
            yield f"{named}: the derived embedding brings back, after {'; after '.join(told)}{least}."
