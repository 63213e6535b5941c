"""``rece test --certificate`` and ``--scan``: what can be said of a finished erasure without a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rece_lightning.cli.checkpoint import load_session
from rece_lightning.cli.parser import Parser
from rece_lightning.core.errors import ConfigurationError

if TYPE_CHECKING:
    from rece_lightning.erasure.certificates import ConceptCertificate
    from rece_lightning.reporting.terminal import PlainConsole
    from rece_lightning.vocabulary import Scan


def statements_command(argv: Sequence[str]) -> None:
    """Print what is asked for; ``argv`` begins with the verb."""
    from rece_lightning.data.synonyms import TEMPLATE
    from rece_lightning.reporting.terminal import PlainConsole

    parser = Parser(prog=f"rece {argv[0]}", description="what needs no picture", allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="a run's folder, a checkpoint, or last: the newest run")
    parser.add_argument("--pretrained", help="the base model, where it is not where the run found it")
    parser.add_argument("--config", help="not needed: the checkpoint holds its settings")
    parser.add_argument("--certificate", action="store_true", help="what no embedding within a budget brings back")
    parser.add_argument("--budgets", help="norms of the embedding over the concept's, such as 0.5,1,2")
    parser.add_argument("--scan", action="store_true", help="which words of the vocabulary still reach the concepts")
    parser.add_argument("--template", default=TEMPLATE, help="filled with every word")
    parser.add_argument("--words", type=int, default=20, help="that are listed a concept")
    parser.add_argument("--pairs", type=int, default=0, help="width of the beam that looks for pairs of words; 0: none")
    parser.add_argument("--cache", help="folder of the encoded vocabulary; ~/.cache/rece_lightning unless given")
    asked_for = parser.parse_args(argv[1:])
    budgets = read_budgets(asked_for.budgets)
    for name, least in (("words", 1), ("pairs", 0)):
        if getattr(asked_for, name) < least:
            raise ConfigurationError(f"--{name}: {getattr(asked_for, name)}; give {least} or more.")
    session, erasure = load_session(asked_for.ckpt_path, asked_for.pretrained)
    console = PlainConsole()
    if asked_for.certificate:
        from rece_lightning.erasure.certificates import certificates

        print_certificates(console, certificates(erasure, session.erased_prompts, session.pairs, budgets))
    if asked_for.scan:
        from rece_lightning.vocabulary import scan

        cache = Path(asked_for.cache).expanduser() if asked_for.cache else None
        found = scan(session, template=asked_for.template, beam=asked_for.pairs, cache=cache)
        print_scan(console, found, asked_for.words)


def read_budgets(value: str | None) -> tuple[float, ...]:
    """Numbers of a list with commas.

    Raises:
        ConfigurationError: for what is no number, or negative.
    """
    from rece_lightning.core.budget import check_budget
    from rece_lightning.erasure.certificates import BUDGETS

    if value is None:
        return BUDGETS
    try:
        budgets = tuple(float(word) for word in value.split(","))
    except ValueError as error:
        raise ConfigurationError(f"--budgets: {value!r}; give numbers such as 0.5,1,2.") from error
    for budget in budgets:
        check_budget(budget)
    return budgets


def print_certificates(console: PlainConsole, rows: Sequence[ConceptCertificate]) -> None:
    """Bounds a concept and budget, each below the residual that an attack reaches."""
    from rich.table import Table

    table = Table(title="No embedding comes nearer to the concept's keys and values than (found), 1 being its target")
    table.add_column("concept")
    for budget in rows[0].residuals:
        table.add_column(f"‖c'‖ ≤ {budget:g}‖c‖", justify="right")
    table.add_column("any norm", justify="right")
    table.add_column("checked to", justify="right")
    for row in rows:
        cells = [f"{row.bounds[budget]:.4f} ({found:.4f})" for budget, found in row.residuals.items()]
        reached = "–" if row.bounds[None] == 0 else f"{row.holds_to:.3g}‖c‖"
        name = row.prompt if row.space == rows[0].space else f"{row.prompt} ({row.space})"
        table.add_row(name, *cells, f"{row.bounds[None]:.4f}", reached)
    console.print(table)
    console.print(
        "Squared distances over all layers and positions, relative to the concept's from its target; rounding (at most "
        f"{max(row.error for row in rows):.1e}) and that of the stored weights are taken off. 0 says nothing. A bound "
        "is about what the cross-attention reads, not about pictures: see docs/method.md."
    )


def print_scan(console: PlainConsole, scan: Scan, count: int) -> None:
    """Words that still reach a concept, pairs, and words that were hurt."""
    from rich.table import Table

    from rece_lightning.core.robust import WITHIN

    for place, concept in enumerate(scan.concepts):
        table = Table(title=f"Words nearest to {concept!r}: 0 is the concept, 1 its target")
        for heading in ("word", "before the edit", "now", "still reaches"):
            table.add_column(heading, justify="left" if heading == "word" else "right")
        reaching = [row[0] for row in scan.reaching(place)]
        for word, before, after in scan.nearest(place, count):
            table.add_row(word, f"{before:.3f}", f"{after:.3f}", "yes" if word in reaching else "")
        for named, pair, after in scan.pairs:
            if named == concept:
                table.add_row(pair, "", f"{after:.3f}", "")
        console.print(table)
    table = Table(title="Words that the edit moved furthest, unnamed")
    for heading in ("word", "moved", "nearest concept", "its distance before"):
        table.add_column(heading, justify="right" if heading in ("moved", "its distance before") else "left")
    for word, change, near, distance in scan.hurt(count):
        table.add_row(word, f"{change:.3f}", near, f"{distance:.3f}")
    console.print(table)
    console.print(
        f"A word still reaches where it is nearer than {WITHIN} before the edit and now. Nothing was drawn: a word "
        "that reaches need not show the concept, and one that does not may."
    )
    spent = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in scan.seconds.items())
    console.print(f"{len(scan.words):,} words; {spent}{' (from the cache)' if not scan.seconds['encoding'] else ''}")
