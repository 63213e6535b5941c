"""The article's other systems beside the closed forms: what each removes, keeps, leaves to attackers and costs.

    python -m benchmarks.article                         # measures what is missing, then writes the page
    python -m benchmarks.article --worlds emoji-mmdit    # on one world
    python -m benchmarks.article --page                  # writes article.md and article.png from what was measured

Interrupted, it goes on where it stopped. About an hour a world on one core.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.article.bench import Bench
from benchmarks.article.page import write_page
from benchmarks.article.plan import WORLDS, contenders, things
from benchmarks.article.table import table
from benchmarks.harness import command, fill, table_parser, unet_digest


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("article", __doc__, "article_WORLD.csv, article.md and article.png")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="those to measure")
    parser.add_argument("--things", default="", help="of what is erased, those to measure; all unless given")
    with command(parser, argv) as arguments:
        for world in [] if arguments.page else arguments.worlds.split(","):
            bench, wanted = Bench(world), [name for name in arguments.things.split(",") if name]
            chosen = [one for one in things() if not wanted or one.name in wanted]
            work = [bench.piece(thing, contender) for thing in chosen for contender in contenders(world, thing)]
            fill(table(arguments.output, world), work, overwrite=arguments.overwrite, weights=unet_digest(world))
        rows = [row for world in WORLDS for row in table(arguments.output, world).read()]
        if not rows:
            parser.error("nothing was measured yet; leave --page out")
        print(write_page(rows, arguments.output))


if __name__ == "__main__":
    main()
