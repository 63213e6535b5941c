"""``red_team.md`` and the figure of ``cce`` beside its control, from the rows of ``red_team.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.harness import told
from benchmarks.red_team.plan import RECE_TUNED, ROBUST, ROBUST_TUNED, STATES, TUNED, UNASKED, Plan
from rece_lightning.attacks.outcome import NO_ATTACK
from rece_lightning.metrics import EmojiDetector, Share
from rece_lightning.reporting.ladder import FED, NOISE, Counted, Ladder, LadderRow
from rece_lightning.reporting.ladder_section import Curve, curve_findings, curves_of, draw_curves

CHOICES = {
    RECE_TUNED: f"*{RECE_TUNED}* is what `model.tune: balanced` chooses, of keys and values.",
    ROBUST_TUNED: f"*{ROBUST_TUNED}* is what `model.tune: robust` chooses, of values.",
}
NONE = Counted(0, 0, (float("nan"), float("nan")))


@dataclass(frozen=True)
class Row:
    """Measurements of one attack and variant on one erasure."""

    state: str
    kind: str
    erased: str
    attack: str
    variant: str
    control: int
    """Whether the model never knew what the attack looks for."""
    has: str
    seed: int
    prompts: int
    broken: int
    """Prompts with a success."""
    clusters: str
    """Hits and pictures of every prompt: ``2/2 0/2``."""
    queries: int
    seconds: float
    recipe: str

    @property
    def key(self) -> str:
        """Rows of other settings stay in the table, and off the page."""
        return self.recipe

    @property
    def title(self) -> tuple[str, str, bool]:
        """Attack, variant and whether it is a control."""
        return self.attack, self.variant, bool(self.control)


def write_page(rows: Sequence[Row], plan: Plan, folder: Path, command: str) -> Path:
    """Write the page and, where an attack has a curve beside a control, its figure as PNG and SVG."""
    curves = controlled_curves([row for row in rows if row.state not in TUNED])
    return harness.write_page(folder, "red_team", page(rows, plan, command, curves), plot(curves), vector=True)


def ladder_of(rows: Sequence[Row], state: str) -> Ladder:
    """The ladder of a state, over all its erasures and seeds."""
    own = [row for row in rows if row.state == state]
    whole = []
    for title in dict.fromkeys(row.title for row in own):
        same = [row for row in own if row.title == title]
        share = share_of(same)
        broken = Share(sum(row.broken for row in same), sum(row.prompts for row in same))
        whole.append(
            LadderRow(
                attack=title[0],
                variant=title[1],
                concept="all",
                control=title[2],
                has=same[0].has,
                original=NONE,
                edited=Counted(share.hits, share.total, share.interval),
                prompts=Counted(broken.hits, broken.total, broken.interval),
                queries=sum(row.queries for row in same),
                seconds=sum(row.seconds for row in same),
            )
        )
    return Ladder((), tuple(whole), EmojiDetector.protocol, "")


def share_of(rows: Sequence[Row]) -> Share:
    """Pictures of several rows together; those of one prompt or embedding are a cluster."""
    pairs = [pair.split("/") for row in rows for pair in row.clusters.split()]
    return Share.over((int(hits), int(total)) for hits, total in pairs)


def measured_states(rows: Sequence[Row]) -> list[str]:
    """In the order of the plan."""
    there = {row.state for row in rows}
    return [state for state in (*STATES, *TUNED) if state in there]


def controlled_curves(rows: Sequence[Row]) -> dict[str, list[Curve]]:
    """State → the lines of the attacks that have a control."""
    found = {state: curves_of(ladder_of(rows, state)) for state in measured_states(rows)}
    needy = {curve.attack for curves in found.values() for curve in curves if curve.control}
    return {state: [curve for curve in curves if curve.attack in needy] for state, curves in found.items()}


def plot(curves: dict[str, list[Curve]]) -> Figure | None:
    """A panel a state."""
    panels = {state: own for state, own in curves.items() if own}
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.8))
    for place, (state, own) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        draw_curves(axes, own)
        axes.legend(fontsize=7, loc="lower right" if place < len(panels) - 1 else "upper left", framealpha=0.6)
        axes.set_title(f"{own[0].attack}: {state}", fontsize=10)
    figure.tight_layout()
    return figure


def page(rows: Sequence[Row], plan: Plan, command: str, curves: dict[str, list[Curve]]) -> list[str]:
    """The lines of the page."""
    lines = [
        "# Red team: what brings an erased concept back",
        "",
        f"Written by `{command}; what was measured is in [red_team.csv](red_team.csv). One object or style is erased "
        f"at a time. Detector `{EmojiDetector.protocol}`; DDIM, {plan.sampling}; {plan.pictures} pictures of "
        f"each prompt or embedding, seeds of attacks and pictures: {plan.seeds}; "
        f"{'published' if plan.published else 'small'} budgets. Share of pictures that show what was erased, with "
        "95 % intervals over prompts and embeddings. Attacks on the original model look for the concept there: it "
        "shows what an attack can do at best. A control is the same attack, budget and source of pictures for an "
        "object that the model never saw. Queries and seconds are those of the search, a mean over erasures and seeds.",
    ]
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind and row.state not in TUNED]
        lines += ["", *section(own, kind, plan)]
    lines += tuned_section(rows)
    untuned = [row for row in rows if row.state not in TUNED]
    beside = [f"- {state}: {text}" for state, found in curves.items() for text in curve_findings(found)]
    beside += [f"- {text}" for text in noise_sentences(untuned)]
    if beside:
        lines += ["", "## Beside the control", "", *beside]
    if any(curves.values()):
        lines += ["", "![Success of cce over its steps, attack and control side by side](red_team.svg)"]
    lines += [
        "",
        "## More of this",
        "",
        "- What each switch of the robust loop does, and the frontier of kept objects against the derived embedding, "
        "for every editor: [robust.md](robust.md), `python -m benchmarks.robust --concepts bomb,axe,church`.",
        "- Whether the residual that a certificate bounds says what a detector sees, with its scatter: "
        "[certificate.md](certificate.md), `python -m benchmarks.certificate`.",
        "- Whether the first words of the vocabulary scan show the concept: [scan.md](scan.md), "
        "`python -m benchmarks.scan`.",
    ]
    return lines


def sentences(rows: Sequence[Row]) -> list[str]:
    """The strongest attack on every state, prompts and embeddings apart."""
    says = []
    for state in measured_states(rows):
        ladder = ladder_of(rows, state)
        parts = []
        for name in FED:
            fed = [row for row in ladder.attacks if row.feeds == name and row.edited.total]
            tried = [row for row in fed if ladder.control_of(row) is None]
            if tried:
                best = max(tried, key=lambda row: row.edited.rate)
                parts.append(f"the strongest {name} attack, {best.title}, reaches {best.edited}")
        plain = [row for row in ladder.whole if row.attack == NO_ATTACK and row.variant != UNASKED]
        own = [f"{plain[0].edited} under the own prompt"] if plain else []
        if own or parts:
            says.append(f"{state}: {'; '.join([*own, *parts])}.")
    return says


def noise_sentences(rows: Sequence[Row]) -> list[str]:
    """What each attack with a starting noise of its own brings back, beside all that tells what that is worth."""
    says = []
    for state in measured_states(rows):
        ladder = ladder_of(rows, state)
        for row in (one for one in ladder.attacks if one.feeds == NOISE):
            control, above = ladder.control_of(row), ladder.over_control(row)
            if control is not None and above is not None:
                says.append(f"{state}: {row.title} {row.edited}, control {control.edited}, difference {above}.")
        points = [one for one in ladder.whole if one.is_control_point and not one.control and one.edited.total]
        if points:
            says.append(f"{state}: from other noise, {', '.join(f'{one.title} {one.edited}' for one in points)}.")
    return says


def floor_sentence(rows: Sequence[Row]) -> list[str]:
    """How often the original shows what is erased where nobody asks for it."""
    own = [row for row in rows if row.variant == UNASKED]
    found, counts = share_of(own), [len({row.erased for row in some}) for some in (own, rows)]
    of_some = "" if counts[0] == counts[1] else f" ({counts[0]} of the {counts[1]})"
    told = f"Floor: where nobody asks for it the original shows what is erased in {found} of the pictures{of_some}."
    return [told] if found.total else []


def tuned_section(rows: Sequence[Row]) -> list[str]:
    """States whose settings choose themselves, beside the others on the same objects, seeds and attacks."""
    chosen = [row for row in rows if row.state in TUNED]
    if not chosen:
        return []
    looked_at = {(row.erased, row.seed, row.attack) for row in chosen}
    own = [row for row in rows if (row.erased, row.seed, row.attack) in looked_at]
    names, states = list(dict.fromkeys(row.erased for row in chosen)), measured_states(own)
    ladders = {state: {row.title: row for row in ladder_of(own, state).whole} for state in states}
    titles = dict.fromkeys(title for found in ladders.values() for title in found)
    lines = [
        "",
        "## Settings that choose themselves",
        "",
        f"{' '.join(CHOICES[state] for state in TUNED if state in states)} For each erasure, without a picture. The "
        f"same objects, attacks and seed for all columns: {', '.join(names)}. The rule was chosen on "
        "every second object and with pictures of names, synonyms and others alone, never with those of an attack.",
        "",
        *(f"- {sentence}" for sentence in [*floor_sentence(own), *sentences(own)]),
        "",
        f"| attack | {' | '.join(states)} |",
        "|---" * (len(states) + 1) + "|",
    ]
    for title in titles:
        cells = [str(ladders[state][title].edited) if title in ladders[state] else "–" for state in states]
        lines.append(f"| {' | '.join([f'`{title}`', *cells])} |")
    curves = {state: found for state, found in controlled_curves(own).items() if state in TUNED}
    lines += ["", *(f"- {state}: {text}" for state, found in curves.items() for text in curve_findings(found))]
    return [*lines, *(f"- {text}" for text in noise_sentences(chosen))]


def of_some(rows: Sequence[Row]) -> list[str]:
    """Which attacks were run on fewer erasures and seeds than others."""
    every = {(row.erased, row.seed) for row in rows}
    says = []
    for attack in dict.fromkeys(row.attack for row in rows if row.variant != UNASKED):
        own = {(row.erased, row.seed) for row in rows if row.attack == attack}
        if own < every:
            names, seeds = {name for name, _ in own}, {seed for _, seed in own}
            told = f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"
            says.append(f"`{attack}` was run on {len(names)} of them, with {told}: {', '.join(sorted(names))}.")
    return says


def section(rows: Sequence[Row], kind: str, plan: Plan) -> list[str]:
    """The ladder of a kind, and its settings."""
    names = list(dict.fromkeys(row.erased for row in rows))
    states = measured_states(rows)
    ladders = {state: {row.title: row for row in ladder_of(rows, state).whole} for state in states}
    titles = list(dict.fromkeys(title for found in ladders.values() for title in found))
    last = states[-1]
    lines = [
        f"## {kind.capitalize()}",
        "",
        f"Erased one at a time: {', '.join(names)}.",
        "",
        *(f"- {sentence}" for sentence in [*floor_sentence(rows), *sentences(rows)]),
        "",
        f"| attack | {' | '.join(states)} | prompts with a success ({last}) | queries | seconds |",
        "|---" * (len(states) + 4) + "|",
    ]
    for title in titles:
        cells = [str(ladders[state][title].edited) if title in ladders[state] else "–" for state in states]
        found = ladders[last].get(title)
        costs = ["–"] * 3
        if found is not None:
            # A newer attack may be there of some erasures alone.
            own = found.attack, found.variant, found.control
            times = len({(row.erased, row.seed) for row in rows if row.state == last and row.title == own})
            costs = [str(found.prompts), f"{found.queries / times:,.0f}", f"{found.seconds / times:.1f}"]
        lines.append(f"| {' | '.join([f'`{title}`', *cells, *costs])} |")
    lines += ["", *(f"- {sentence}" for sentence in of_some(rows))]
    for state in states[1:]:
        made = plan.state(kind, state)
        lines.append(f"- {state}: {told({**made.words, **made.data}, made.epochs)}")
    if ROBUST not in states:
        lines.append("- No robust state: it needs `--robust`, a configuration with its settings.")
    return lines
