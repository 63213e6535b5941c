"""What an erasure through a choke point removes, costs and leaves open, on the embedded MMDiT.

    python -m benchmarks.families            # measures what is missing in families.csv, then writes the page
    python -m benchmarks.families --page     # writes families.md from what was measured
    python -m benchmarks.families --cce      # `cce` on three objects, into families_cce.csv
    python -m benchmarks.families --quick --output FOLDER    # one erasure of each kind, every method: to try it

Interrupted, it goes on where it stopped: methods first, then text spaces, then tokens. About 50 minutes on one core.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.families import learned, sizes
from benchmarks.families.bench import Bench
from benchmarks.families.page import write_page
from benchmarks.families.plan import METHODS, PARTS, PRETRAINED, work
from benchmarks.families.table import table
from benchmarks.harness import HERE, command, fill, table_parser, unet_digest
from benchmarks.results.plan import KINDS, erasures
from benchmarks.results.table import table as other_world


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("families", __doc__, "families.csv and families.md")
    parser.add_argument("--parts", default=",".join(PARTS), help="of the measurement, in this order")
    parser.add_argument("--cce", action="store_true", help="the attack that learns, in place of the erasures")
    parser.add_argument("--quick", action="store_true", help="one erasure of each kind, every method")
    with command(parser, argv, trials=["quick"]) as arguments:
        results, attacks, weights = table(arguments.output), learned.table(arguments.output), unet_digest(PRETRAINED)
        if arguments.cce:
            inversion = learned.Inversion()
            fill(
                attacks,
                [inversion.piece(*one) for one in learned.attacked()],
                overwrite=arguments.overwrite,
                weights=weights,
            )
        elif not arguments.page:
            chosen, parts = erasures(), arguments.parts.split(",")
            if arguments.quick:
                chosen, parts = [next(one for one in chosen if one.kind == kind) for kind in KINDS], [METHODS]
            bench = Bench()
            pieces = [bench.piece(erasure, state) for erasure, state in work(parts, chosen)]
            fill(results, pieces, overwrite=arguments.overwrite, weights=weights)
        said = attacks.read()
        more = learned.lines(said) if said else []
        there = sizes.lines(sizes.recorded(arguments.output))
        print(write_page(results.rows(), other_world(HERE).rows(), arguments.output, more, there))


if __name__ == "__main__":
    main()
