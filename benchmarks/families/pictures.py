"""What the MMDiT draws before and after an erasure: ``python -m benchmarks.families.pictures`` writes families.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.families.plan import (
    NEAREST,
    NEAREST_KAPPA,
    PRETRAINED,
    SAMPLING,
    State,
    methods,
    singular,
    spaces,
)
from benchmarks.harness import World, command, plain_parser
from benchmarks.results.derived import with_derived
from benchmarks.results.groups import RIDGES
from benchmarks.results.plan import ORIGINAL, RECOMMENDED, UCE_RECOMMENDED, Erasure, erasures
from rece_lightning.core.derivation import Derivation
from rece_lightning.files import write_atomically
from rece_lightning.models.sampling import Request, generate

ERASED = ("bomb", "church", "guitar", "pizza")
"""A row each, asked by its name on the model that it was erased from."""
KEPT = ("lemon", "airplane")
"""On the model that the first was erased from."""
SEED, RIDGE = 1, RIDGES[0]
GIVEN = "given the\nderived embedding"


def columns() -> list[tuple[str, State, bool]]:
    """Title, state, and whether the derived embedding is given in place of the prompt's."""
    own = {one.name: one for one in [*methods("objects"), *spaces("objects"), *singular("objects")]}
    text, pooled = (own[f"{UCE_RECOMMENDED}, {name} alone"] for name in ("text", "pooled"))
    uce, nearest = own[UCE_RECOMMENDED], own[f"{NEAREST}, κ {max(NEAREST_KAPPA):g}"]
    return [
        ("original", own[ORIGINAL], False),
        ("UCE,\nrows alone", text, False),
        ("UCE,\npooled alone", pooled, False),
        ("UCE,\nboth", uce, False),
        ("RECE,\nboth", own[RECOMMENDED], False),
        (f"UCE, both,\n{GIVEN}", uce, True),
        ("nearest point,\nthen UCE", nearest, False),
        (f"nearest point,\n{GIVEN}", nearest, True),
    ]


def drawn(world: World, erasure: Erasure, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Title of a column → pictures of the prompts, ``[n, 3, h, w]``."""
    found: dict[str, Tensor] = {}
    (empty,) = world.maker.embed([""])
    for title, state, derive in columns():
        world.maker.use(None)
        requests: list[Request] = world.maker.embed(prompts)
        if state.settings is not None:
            session = world.erased(state.settings, state.epochs, erasure.data)
            world.maker.use(session.erasure().weights())
            if derive:
                made = {
                    name: Derivation(RIDGE * gram.scale)(gram, session.maps[name])
                    for name, gram in session.grams.items()
                }
                requests = [with_derived(request, made) for request in requests]
        requests = [replace(request, seed=SEED) for request in requests]
        found[title] = generate(world.maker.pipeline, requests, empty, SAMPLING)
    return found


def grid(rows: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """A row a prompt, a column a model.

    Args:
        rows: prompt → column → picture ``[3, h, w]`` in [0, 1].
    """
    titles = list(next(iter(rows.values())))
    figure = Figure(figsize=(1.15 * len(titles) + 0.8, 1.0 * len(rows) + 0.6))
    for row, (prompt, pictures) in enumerate(rows.items()):
        for column, title in enumerate(titles):
            axes = figure.add_subplot(len(rows), len(titles), row * len(titles) + column + 1)
            axes.imshow(pictures[title].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(title, fontsize=7)
            if column == 0:
                axes.set_ylabel(prompt, fontsize=7)
    figure.tight_layout(pad=0.3)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write."""
    parser = plain_parser("families.pictures", __doc__, "families.png")
    with command(parser, argv) as arguments:
        world, given = World(PRETRAINED), {one.name: one for one in erasures()}
        rows: dict[str, dict[str, Tensor]] = {}
        for place, name in enumerate(ERASED):
            asked = [name, *KEPT] if place == 0 else [name]
            made = drawn(world, given[name], asked)
            for number, prompt in enumerate(asked):
                told = f"{prompt}\n(kept)" if number else f"{prompt}\n(erased)"
                rows[told] = {title: pictures[number] for title, pictures in made.items()}
        rows = dict(sorted(rows.items(), key=lambda row: row[0].endswith("(kept)")))
        path: Path = arguments.output / "families.png"
        print(write_atomically(path, lambda place: grid(rows).savefig(place, format="png", dpi=110)))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
