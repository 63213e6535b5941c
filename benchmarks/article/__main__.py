"""The article's other systems beside the closed forms: what each removes, keeps, leaves to attackers and costs.

    python -m benchmarks.article                         # measures what is missing, then writes the page
    python -m benchmarks.article --worlds emoji-mmdit    # on one world
    python -m benchmarks.article --attacks               # attacks the methods, then writes the page
    python -m benchmarks.article --page                  # writes article.md and article.png from what was measured

Interrupted, it goes on where it stopped. About an hour a world on one core.

``--attacks`` leaves the methods' own pictures as they are and fills article_attacks.csv: searches of prompts and
``cce`` beside its control, on five weapons that are erased at once, every method of the first world and some of the
second (``benchmarks/article/attacks.py`` says which, and the budgets). About 35 minutes on one core, a third of it
training anew what is trained; what it finds and trains lies in ``--folder``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.article.attacks import LADDERS, Attacked
from benchmarks.article.bench import Bench
from benchmarks.article.page import write_page
from benchmarks.article.plan import WORLDS, contenders, things
from benchmarks.article.table import attack_table, table
from benchmarks.harness import command, fill, table_parser, unet_digest


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("article", __doc__, "article_WORLD.csv, article.md and article.png")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="those to measure")
    parser.add_argument("--things", default="", help="of what is erased, those to measure; all unless given")
    parser.add_argument("--attacks", action="store_true", help="attack the methods in place of drawing their pictures")
    parser.add_argument("--folder", type=Path, help="of what attacks find and what is trained for them; below --output")
    with command(parser, argv) as arguments:
        if arguments.attacks and not arguments.page:
            if not any(table(arguments.output, world).path.exists() for world in WORLDS):
                parser.error("--attacks: the page needs the methods' own pictures; run without it first")
            attack(arguments.output, arguments.worlds.split(","), arguments.folder, overwrite=arguments.overwrite)
        for world in [] if arguments.page or arguments.attacks else arguments.worlds.split(","):
            bench, wanted = Bench(world), [name for name in arguments.things.split(",") if name]
            chosen = [one for one in things() if not wanted or one.name in wanted]
            work = [bench.piece(thing, contender) for thing in chosen for contender in contenders(world, thing)]
            fill(table(arguments.output, world), work, overwrite=arguments.overwrite, weights=unet_digest(world))
        rows = [row for world in WORLDS for row in table(arguments.output, world).read()]
        if not rows:
            parser.error("nothing was measured yet; leave --page out")
        print(write_page(rows, arguments.output, attack_table(arguments.output).read()))


def attack(output: Path, worlds: Sequence[str], folder: Path | None, *, overwrite: bool) -> None:
    """Measure the attacks that the table lacks.

    Args:
        output: folder of the table.
        worlds: to attack the methods in.
        folder: of what attacks find and what is trained for them; below ``output`` unless given.
        overwrite: measure these worlds' attacks anew; those of others stay.
    """
    kept = attack_table(output)
    if overwrite:
        kept.write([row for row in kept.read() if row.world not in worlds])
    for world in worlds:
        attacked = Attacked(Bench(world), folder or output / "article_found")
        named = [one for one in things() if one.name in LADDERS[world].things]
        fill(kept, [attacked.piece(one, method) for one in named for method in LADDERS[world].attacked(world, one)])


if __name__ == "__main__":
    main()
