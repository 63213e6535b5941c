"""Attacks inside a robust loop: what they find on the model as an epoch left it joins before the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rece_lightning.attacks import LADDER, AdversarialPrompt
from rece_lightning.core.eraser import RECELoop
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.erasure.robust import FIELD
from rece_lightning.vocabulary.expand import FOUND, JoinedSums, add_found, found_on

if TYPE_CHECKING:
    from rece_lightning.module import RECE

Search = Callable[[Sequence[str]], Sequence[AdversarialPrompt]]
"""Runs attacks by name on the module as it is, and gives what they found on every process."""


def check_search(module: RECE) -> None:
    """Refuse a loop that asks for attacks which nothing runs.

    Raises:
        ConfigurationError: without a RedTeam among the callbacks, or without concepts to attack.
    """
    if not module.attacks_between_epochs:
        return
    if module.search is None:
        raise ConfigurationError(
            f"{FIELD}.attacks: {list(module.attacks_between_epochs)!r}, but no callback runs them; add RedTeam to "
            "trainer.callbacks."
        )
    if not isinstance(getattr(module.trainer, "datamodule", None), ConceptData):
        raise ConfigurationError(f"{FIELD}.attacks: no concepts to attack; give them in a ConceptData.")


def attack_and_join(module: RECE) -> RECELoop | None:
    """Attack the module, and give the loop that has erased what was found too from its first epoch on.

    The epochs so far run anew, which takes milliseconds: what an attack found then counts as ``model.robust.found``
    does, and a checkpoint that holds it says all there is to say. An attack that does not look at the weights would
    find the same before every epoch: it runs once.

    Args:
        module: after one epoch or more.

    Returns:
        A loop as far as the module's own; ``None`` where nothing new was found.
    """
    plan, loop = module.robust, module.loop
    assert plan is not None
    assert module.search is not None
    names = [name for name in plan.attacks if loop.epoch == 1 or LADDER[name].looks_at_weights]
    rows = [(one.concept, one.prompt, one.embedding) for one in (module.search(names) if names else [])]
    found = found_on(rows, module.trainer.datamodule)  # type: ignore[attr-defined]
    if not len(found):
        return None
    if module.joined is None:
        module.joined = JoinedSums(module.hparams["tokens"], module.gram.total.device, module.gram.width)
    add_found(module.joined, module.encoder, found, plan.weight)
    module.joined.summary[FOUND] = module.joined.summary.get(FOUND, 0) + len(found)
    again = RECELoop(module.gram, replace(loop.evidence, joined=module.joined.joined), module.settings)
    again.run(loop.epoch)
    return again
