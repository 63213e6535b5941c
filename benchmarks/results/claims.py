"""RECE's claims in plain words, each sentence computed from a paired test or an interval."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results.excess import excess
from benchmarks.results.figures import (
    UNWANTED,
    detection_change,
    detection_test,
    erasure_test,
    mean_test,
    of,
    pairs,
    share,
)
from benchmarks.results.plan import (
    HELD,
    KINDS,
    NEAREST,
    ORIGINAL,
    PROJECTION,
    PROJECTION_TUNED,
    PUBLISHED,
    RECE_TUNED,
    RECOMMENDED,
    ROBUST,
    ROBUST_SHIPPED,
    TUNED,
    UCE,
    UCE_RECOMMENDED,
    UCE_TUNED,
    VALUES_TUNED,
)
from benchmarks.results.table import Row
from benchmarks.tuning.plan import JUDGED_ON
from rece_lightning.metrics import Difference, Mean, PairedTest
from rece_lightning.metrics.intervals import FEWEST_PROMPTS

LITTLE = 0.05
"""Share of the kept pictures that may be lost for "little"."""
CONFIRMED, CONTRADICTED, OPEN = "confirmed", "contradicted", "not confirmed"
NOTHING_LEFT = "not to be had (UCE is at its floor: complete)"
SAME, ALIKE, SHIPPED = " with the same scales", " tuned by the same rule", " with its published scales"
COMPARED = (
    (PUBLISHED, UCE, SAME), (RECOMMENDED, UCE_RECOMMENDED, SAME), (RECE_TUNED, UCE, SHIPPED),
    (RECE_TUNED, UCE_TUNED, ALIKE), (VALUES_TUNED, UCE_TUNED, ALIKE), (PROJECTION, UCE, SHIPPED),
    (PROJECTION_TUNED, UCE_TUNED, ALIKE), (NEAREST, UCE, SHIPPED), (ROBUST, UCE_TUNED, ALIKE),
    (ROBUST_SHIPPED, UCE, SHIPPED),
)  # fmt: skip
"""A method, UCE's edit that it is held against, and that one's scales in words."""
UNSEEN = f"the half that the rule was not chosen on: {', '.join(JUDGED_ON)}"
# Which direction is harm.
HARM = {"detections": -1, "perceptual distance": 1, "FID": 1}


def removal_verdict(test: PairedTest, before: Difference | None = None) -> str:
    """Whether the second state removes more than the first: where detections fall by more than chance.

    Args:
        test: of the detections, and so of what is above the floor: both states have the same.
        before: what the first leaves above its floor.
    """
    if test.clear and test.change > 0:
        return CONTRADICTED
    if before is not None and before.complete:
        return NOTHING_LEFT
    return CONFIRMED if test.clear else OPEN


def harm_verdict(change: Mean) -> str:
    """Whether an edit harms little: the interval of the change lies above, below or across what is little."""
    low, high = change.interval
    if low >= -LITTLE:
        return CONFIRMED
    return CONTRADICTED if high < -LITTLE else OPEN


def removal_of(rows: Sequence[Row], kind: str, uce: str, rece: str) -> str:
    """The verdict on one kind."""
    return removal_verdict(detection_test(pairs(rows, kind, uce, rece, UNWANTED)), excess(rows, kind, uce))


def removal_sentence(rows: Sequence[Row], kind: str, uce: str, rece: str) -> str:
    """That RECE removes more than UCE, for one kind."""
    found = pairs(rows, kind, uce, rece, UNWANTED)
    if not found:
        return f"{kind}: not measured."
    before, after = (share(pair[side] for pair in found) for side in (0, 1))
    if not before.hits and not after.hits:
        return f"{kind}: {OPEN}; UCE leaves nothing: 0 of {after.total} pictures show an erased concept after either."
    test = detection_test(found)
    above = [told_excess(excess(rows, kind, state)) for state in (rece, uce)]
    return (
        f"{kind}: {removal_of(rows, kind, uce, rece)}; erased concepts are seen in {after} of the pictures after it"
        f"{above[0]}, in {before} after UCE{above[1]}: {points(detection_change(found))}, {p(test)}."
    )


def told_excess(above: Difference | None) -> str:
    """What is above the floor, in a sentence."""
    return "" if above is None else f" ({above} above the floor{', complete' if above.complete else ''})"


def harm_sentence(rows: Sequence[Row], kind: str, uce: str, rece: str) -> str:
    """That RECE harms little else, for one kind, with UCE beside it."""
    found = pairs(rows, kind, ORIGINAL, rece, (HELD,))
    if not found:
        return f"{kind}: not measured."
    change = detection_change(found)
    before, after = (share(pair[side] for pair in found) for side in (0, 1))
    return (
        f"{kind}: {harm_verdict(change)}; kept concepts are seen in {after} of the pictures after it, in {before} of "
        f"the original model's: {points(change)}. {beside_uce(pairs(rows, kind, uce, rece, (HELD,)))}"
    ).strip()


def beside_uce(found: Sequence[tuple[Row, Row]]) -> str:
    """In which figures RECE harms the kept pictures more or less than UCE, by more than chance."""
    if not found:
        return ""
    tests = {"detections": detection_test(found), "perceptual distance": mean_test(found, "distance")}
    if len(found) >= FEWEST_PROMPTS:
        tests["FID"] = erasure_test(found, "fid")
    told = []
    for word, sign in (("More", 1), ("Less", -1)):
        names = [f"{n} ({p(test)})" for n, test in tests.items() if test.clear and sign * HARM[n] * test.change > 0]
        if names:
            told.append(f"{word} harm than after UCE by {', '.join(names)}.")
    return " ".join(told) or f"No clear difference from UCE in {', '.join(tests)}."


def points(change: Mean) -> str:
    """A change in points of 100, with its interval."""
    low, high = (f"{100 * bound:+.0f}" for bound in change.interval)
    return f"{100 * change.mean:+.0f} points ({low} to {high})".replace("-", "−").replace("nan", "–")


def p(test: PairedTest) -> str:
    """The p-value."""
    return "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"


def claims(rows: Sequence[Row]) -> list[str]:
    """Lines of the page: both claims for each setting of RECE, kind by kind, under a summary."""
    lines: list[str] = []
    for rece, own, words in COMPARED:
        kinds = [kind for kind in KINDS if of(rows, kind, rece, (HELD,))]
        if not kinds:
            continue
        # Where both configurations have the same scales UCE was measured once.
        uce = {kind: own if of(rows, kind, own, (HELD,)) else UCE for kind in kinds}
        removed = {kind: removal_of(rows, kind, uce[kind], rece) for kind in kinds}
        harmed = {k: harm_verdict(detection_change(pairs(rows, k, ORIGINAL, rece, (HELD,)))) for k in kinds}
        unseen = [row for row in rows if row.erasure in JUDGED_ON]
        judged = rece in TUNED and "objects" in kinds and bool(pairs(unseen, "objects", uce["objects"], rece, UNWANTED))
        lines += [
            f"**{rece}.** That it removes more than UCE{words} is {summary(removed)}. "
            f"That it harms little else is {summary(harmed)}.",
            "",
            "Removes more than UCE:",
            "",
            *(f"- {removal_sentence(rows, kind, uce[kind], rece)}" for kind in kinds),
            *(
                [f"- Of these, {removal_sentence(unseen, 'objects', uce['objects'], rece)[:-1]} ({UNSEEN})."]
                if judged
                else []
            ),
            "",
            "Harms little else:",
            "",
            *(f"- {harm_sentence(rows, kind, uce[kind], rece)}" for kind in kinds),
            "",
        ]
    return lines


def summary(verdicts: dict[str, str]) -> str:
    """``confirmed for objects and styles, not confirmed for backgrounds``."""
    found = []
    for verdict in (CONFIRMED, OPEN, NOTHING_LEFT, CONTRADICTED):
        kinds = [kind for kind, own in verdicts.items() if own == verdict]
        if kinds:
            found.append(f"{verdict} for {' and '.join([', '.join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)}")
    return ", ".join(found)
