"""Attacks shared among the processes of a run: each on one of them, whole, and the results those of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from rece_lightning.attacks import AdversarialPrompt, Attack, AttackStore, Goal, Victim, key_of
from rece_lightning.attacks.outcome import NO_ATTACK, Measured, measure, measure_all
from rece_lightning.distributed import gathered, rank_and_world, share_of
from rece_lightning.evaluation.results.sheets import small

Piece = tuple[Attack | None, Goal]
"""An attack on a concept; without an attack the concept's own prompt."""
Result = TypeVar("Result")


def measure_shared(
    victim: Victim,
    work: Sequence[Piece],
    folder: Path,
    seeds: Sequence[int],
    *,
    original: bool,
    begins: Callable[[str, int], None],
) -> list[Measured]:
    """Run and measure pieces of work, each on the process whose turn it is.

    A piece is the same on whichever process: its pictures are drawn together, and everything random in it comes from
    its own seeds. What is found lies in the folder when a piece is done, and is not searched again by a run that goes
    on, on as many processes or on others.

    Args:
        victim: on every process the same.
        work: all of it, on every process.
        folder: of what is found; see :class:`AttackStore`.
        seeds: of the pictures.
        original: also draw with the original model.
        begins: is told of every piece of this process, and how many are done.

    Returns:
        All measurements in the order of the work, on every process, their pictures small.
    """

    def measured(store: AttackStore, attack: Attack | None, goal: Goal) -> list[Measured]:
        if attack is None:
            plain = [AdversarialPrompt(NO_ATTACK, goal.concept, 0, goal.prompt)]
            found = [measure(victim, plain, seeds, has="the concept's prompt", original=original)]
        else:
            found = measure_all(victim, attack, goal, store.run(attack, victim, goal), seeds, original)
        return [replace(one, through=small(one.through).cpu()) for one in found]

    return _shared(victim, work, folder, begins, measured)


def search_shared(
    victim: Victim, work: Sequence[tuple[Attack, Goal]], folder: Path, *, begins: Callable[[str, int], None]
) -> list[AdversarialPrompt]:
    """Run pieces of work as :func:`measure_shared` does, without measuring them.

    Returns:
        What was found, in the order of the work, on every process.
    """

    def found(store: AttackStore, attack: Attack | None, goal: Goal) -> list[AdversarialPrompt]:
        assert attack is not None
        return store.run(attack, victim, goal)

    return _shared(victim, work, folder, begins, found)


def _shared(
    victim: Victim,
    work: Sequence[Piece],
    folder: Path,
    begins: Callable[[str, int], None],
    do: Callable[[AttackStore, Attack | None, Goal], list[Result]],
) -> list[Result]:
    """Do this process's share of the work; the results of all processes, in the order of the work."""
    # The first process reads what was found in the folder before.
    rank, own = rank_and_world()[0], list[tuple[int, list[Result]]]()
    first = AttackStore(folder) if rank == 0 else None
    known = gathered(first.known if first is not None else [])[0]
    store = first or AttackStore(folder, rank, known)
    for done, (place, (attack, goal)) in enumerate(share_of(list(enumerate(work)))):
        begins(f"{NO_ATTACK if attack is None else attack.name}: {goal.concept}", done)
        own.append((place, do(store, attack, goal)))
    victim.pictures.use(None)
    everything = [item for part in gathered(own) for item in part]
    # What the processes found goes into the files of the first, in the order of the work.
    fresh = [row for part in gathered(store.fresh) for row in part]
    if rank == 0 and len(fresh) > len(store.fresh):
        order = {key_of(attack, victim, goal): at for at, (attack, goal) in enumerate(work) if attack is not None}
        store.put_together(sorted(fresh, key=lambda row: order[row[0]]))
    return [one for _, results in sorted(everything, key=itemgetter(0)) for one in results]
