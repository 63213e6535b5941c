"""RedTeam: attack the edited model, and say what got through and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from rece_lightning.attacks import LADDER, AdversarialPrompt, Attack, Goal, Victim, make_attacks
from rece_lightning.attacks.goals import FORBIDDEN, controls_of, goals_of
from rece_lightning.attacks.of_session import victim_of
from rece_lightning.attacks.outcome import NO_ATTACK, Measured, Rung, figures_of, together, write_rungs
from rece_lightning.attacks.shares import Piece, measure_shared, search_shared
from rece_lightning.callbacks.base import RunCallback, data_for, rece_module
from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.callbacks.terminal import ladder_table
from rece_lightning.core.errors import ConfigurationError, check_choice, check_count, check_number
from rece_lightning.core.extras import extra
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.data.texts import visible
from rece_lightning.distributed import share_of
from rece_lightning.evaluation.results.sheets import save_sheet, sheet_path
from rece_lightning.files import discard
from rece_lightning.metrics import ConceptDetector
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.sampling_defaults import default_sampling
from rece_lightning.module import RECE
from rece_lightning.reporting.terminal import PlainConsole, progress
from rece_lightning.runs.folder import run_folder
from rece_lightning.trainer.loggers import log_at, log_picture, show
from rece_lightning.vocabulary.expand import join_found

TABLE = "red_team.csv"
SHEET = "red_team"
"""Name of the sheet with the pictures that got through, in the order of the table."""


class RedTeam(RunCallback):
    """Attack every concept, at the end of ``fit`` and in ``test``, and between epochs where the loop asks for it.

    What the attacks find lies in the run's folder (``adversarial_prompts.csv``, ``adversarial_embeddings.safetensors``)
    and is not searched again. Success is measured on the original and on the edited model with the same seeds:
    ``red_team.csv``, the ladder in the terminal, and ``images/sheet-red_team.webp`` with the pictures that got through.
    ``between_epochs`` names searches that are run on the model before every epoch but the first: what they find is
    erased from the first epoch on, all of it on a concept together as much as the concept. It is the one setting that
    leaves the closed form.

    Args:
        attacks: names, or classes with their arguments; see :data:`rece_lightning.attacks.LADDER`.
        concepts: of ``data.concepts``; all of them unless given.
        control_concepts: that the model never knew, for attacks that mean nothing without a control (``cce``); held-out
            objects of the embedded world, as many as there are concepts, unless given.
        detector: decides whether a picture shows a concept; that of ``Evaluation`` unless given.
        synonyms: other words for a concept, for ``paraphrase``; the embedded world's own unless given.
        forbid: words that searches over tokens may not use: ``nothing``, the concept's ``own``, or its ``synonyms``
            too. Without limits they may fall back on the concept's own word.
        pictures_per_prompt: seeds 0, 1, … of every prompt or embedding.
        steps: of the sampler; as ``Evaluation`` samples unless given, without one as the model's family does.
        guidance_scale: as ``Evaluation``'s, or the model's own, unless given.
        batch_size: pictures made together.
        scheduler: name of diffusers' class.
        original: also measure the original model; doubles the pictures.
        fit: attack at the end of ``fit`` too.
        published: attacks that are given by name get their published budgets, which take hours.
        between_epochs: names of searches that run before every epoch but the first; one that is also among ``attacks``
            has the same budget there.
    """

    def __init__(
        self,
        attacks: list[str | Attack] = ["paraphrase", "ring-a-bell-embedding", "derived"],  # noqa: B006
        concepts: list[str] | None = None,
        control_concepts: list[str] | None = None,
        detector: ConceptDetector | None = None,
        synonyms: dict[str, list[str]] | None = None,
        forbid: str = "nothing",
        pictures_per_prompt: int = 2,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int | None = None,
        scheduler: str | None = None,
        original: bool = True,
        fit: bool = True,
        published: bool = False,
        between_epochs: list[str] = [],  # noqa: B006  never changed
    ) -> None:
        self.attacks = make_attacks(attacks, "RedTeam.attacks", published=published)
        if isinstance(between_epochs, str) or not all(isinstance(name, str) for name in between_epochs):
            raise ConfigurationError(
                f"RedTeam.between_epochs: {between_epochs!r}; give a list of names such as [cce]. One with a budget of "
                "its own stands in RedTeam.attacks and is named here."
            )
        searches = make_attacks(between_epochs, "RedTeam.between_epochs") if between_epochs else []
        for attack in searches:
            if attack.finds_noise:
                raise ConfigurationError(
                    f"RedTeam.between_epochs: {attack.name} finds noise to start from, no text that an edit could "
                    "erase; name it in RedTeam.attacks alone."
                )
        self.between_epochs = [attack.name for attack in searches]
        check_choice("RedTeam.forbid", forbid, FORBIDDEN)
        check_count("RedTeam.pictures_per_prompt", pictures_per_prompt)
        if guidance_scale is not None:
            check_number("RedTeam.guidance_scale", guidance_scale)
        asked: dict[str, Any] = {
            "steps": steps,
            "guidance_scale": guidance_scale,
            "batch_size": batch_size,
            "scheduler": scheduler,
        }
        self._asked = {key: value for key, value in asked.items() if value is not None}
        self.sampling = Sampling(**self._asked, owner="RedTeam")  # the model's own fill in what is not asked, in setup
        self.concepts, self.control_concepts = concepts, control_concepts
        self.detector = detector
        self.synonyms = synonyms
        self.forbid = forbid
        self.seeds = tuple(range(pictures_per_prompt))
        self.original = original
        self.fit = fit
        self.goals: list[Goal] = []
        self.controls: list[Goal] = []
        self.rungs: list[Rung] = []
        """What was measured, a rung an attack and concept."""
        self._console = PlainConsole(stderr=True)

    # Schedule

    @property
    def attacks_in_fit(self) -> bool:
        """Whether a ``fit`` makes pictures for it."""
        return self.fit or bool(self.between_epochs)

    def state_dict(self) -> dict[str, Any]:
        """What decides the erasure: the searches between epochs."""
        return {"between_epochs": list(self.between_epochs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on under other searches.

        Raises:
            ConfigurationError: naming both.
        """
        former = state_dict.get("between_epochs", [])
        if former != self.between_epochs:
            raise ConfigurationError(
                f"RedTeam.between_epochs: {self.between_epochs!r}, and the run that goes on has {former!r}; give these."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find detector and concepts, and refuse what cannot be attacked before any work."""
        module = rece_module(pl_module, "RedTeam") if stage in ("fit", "test") else None
        if module is None or not (stage == "test" or self.attacks_in_fit):
            return
        if self.between_epochs and not isinstance(data_for(trainer, module), ConceptData):
            raise ConfigurationError("RedTeam.between_epochs: no concepts to attack; give them in a ConceptData.")
        if self.between_epochs and module.method.editor.per_layer:
            raise ConfigurationError(
                f"RedTeam.between_epochs: {type(module.method.editor).__name__} takes every prompt apart, and what is "
                "found joins sums; take another editor."
            )
        evaluation = next((one for one in trainer.callbacks if isinstance(one, Evaluation)), None)  # type: ignore[attr-defined]
        if evaluation is not None:
            self.detector = self.detector or evaluation.detector
            if evaluation.images is not None:
                raise ConfigurationError("RedTeam: pictures that exist cannot be attacked; leave out --images.")
        if self.detector is None:
            raise ConfigurationError("RedTeam.detector: none; give one here or to Evaluation.")
        own = default_sampling(module.base) if evaluation is None else evaluation.take_sampling(module)
        self.sampling = own.with_values(self._asked, "RedTeam")
        self.goals = goals_of(data_for(trainer, module), self.detector, self.concepts, self.synonyms, self.forbid)
        self.controls = controls_of(self.attacks, self.detector, self.control_concepts, len(self.goals))
        if stage == "test":
            # Searches that follow a gradient cannot use tensors made in inference mode.
            trainer.test_loop.inference_mode = False

    def missing(self, folder: Path, state: Mapping[str, Any]) -> Path | None:
        """The table, where a run with all its epochs has not written it."""
        return folder / TABLE if self.fit and not (folder / TABLE).exists() else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was stopped after its last epoch lacks the attacks alone."""
        if self.fit and rece_module(pl_module, "RedTeam").only_the_end_is_left:
            self.on_train_end(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loop goes on with what the searches find on the model as the last epoch left it.

        The epochs so far run anew, which takes milliseconds: what an attack found then counts from the first one on,
        and a checkpoint that holds it says all there is to say. An attack that does not look at the weights would find
        the same before every epoch: it runs once.
        """
        if not self.between_epochs or trainer.current_epoch == 0:
            return
        module = rece_module(pl_module, "RedTeam")
        done = len(module.history)
        names = [name for name in self.between_epochs if done == 1 or LADDER[name].looks_at_weights]
        rows = (
            [(one.concept, one.prompt, one.embedding) for one in self.search(trainer, module, names)] if names else []
        )
        join_found(module.session, rows, data_for(trainer, module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack what the last epoch left."""
        module = rece_module(pl_module, "RedTeam")
        if self.fit and module.history:
            with extra("what RedTeam finds", together=trainer.world_size > 1):
                self.attack(trainer, module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack the model that was measured."""
        self.attack(trainer, rece_module(pl_module, "RedTeam"))

    # The attacks

    def attack(self, trainer: Trainer, module: RECE) -> None:
        """Run every attack on every concept, measure, write, print and log.

        Of several processes each takes its share of the attacks and concepts, whole: what is found and counted is that
        of one process.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return  # a search is no smoke test: its budgets are what it is
        folder, work = run_folder(trainer), self._work()
        with module.pictures.at_work(), self._progress(trainer, "red team", work) as begins:
            victim = self._victim(module)
            measured = measure_shared(victim, work, folder, self.seeds, original=self.original, begins=begins)
        self.rungs = [one.rung for one in measured]
        if trainer.is_global_zero:
            self._write(folder, measured)
        self._log(trainer, module)
        if trainer.is_global_zero:
            PlainConsole().print(ladder_table(self.rungs, f"{self._protocol}; {self.sampling}"))

    def search(self, trainer: Trainer, module: RECE, names: Sequence[str]) -> list[AdversarialPrompt]:
        """Run attacks by name on the module as it is, without measuring; what they find is kept as that of the others.

        Of several processes each takes its share, and has what all found.
        """
        own = {attack.name: attack for attack in self.attacks}
        attacks = [own.get(name) or make_attacks([name])[0] for name in names]
        work = [(attack, goal) for attack in attacks for goal in self.goals]
        with module.pictures.at_work(), self._progress(trainer, "attacks in the loop", work) as begins:
            return search_shared(self._victim(module), work, run_folder(trainer), begins=begins)

    def _work(self) -> list[Piece]:
        """The concepts' own prompts, then attack after attack, its controls behind its concepts."""
        plain: list[Piece] = [(None, goal) for goal in self.goals]
        return plain + [
            (attack, goal)
            for attack in self.attacks
            for goal in [*self.goals, *(self.controls if attack.needs_control else [])]
        ]

    def _victim(self, module: RECE) -> Victim:
        return victim_of(module.session, module.pictures, self.detector, self.sampling)

    @property
    def _protocol(self) -> str:
        return self.detector.protocol if self.detector is not None else ""

    @contextmanager
    def _progress(self, trainer: Trainer, title: str, work: Sequence[Any]) -> Iterator[Callable[[str, int], None]]:
        """A bar over this process's share of the work; gives what is told of every piece, and how many are done."""
        with progress(self._console, "searches", disable=not trainer.is_global_zero) as bars:
            total = len(share_of(work))
            bar = bars.add_task(title, total=total)
            yield lambda piece, done: bars.update(bar, description=visible(piece), completed=done)
            bars.update(bar, completed=total)

    def _write(self, folder: Path, measured: Sequence[Measured]) -> None:
        rungs = [*self.rungs, *together(self.rungs)]
        write_rungs(rungs, folder / TABLE, {"detector": self._protocol, "sampling": str(self.sampling)})
        sheet = sheet_path(folder / "images", SHEET)
        through = [one.through for one in measured if one.rung.attack != NO_ATTACK and len(one.through)]
        if through:
            save_sheet(torch.cat(through), sheet)
        else:
            discard(sheet)

    def _log(self, trainer: Trainer, module: RECE) -> None:
        figures = figures_of(self.rungs)
        if trainer.testing:
            module.log_dict(figures, batch_size=1)  # trainer.test() returns what is logged
        else:
            show(trainer, figures)
            log_at(trainer, figures, max(0, len(module.history) - 1))
        if trainer.is_global_zero:
            sheet = sheet_path(run_folder(trainer) / "images", SHEET)
            log_picture(trainer.loggers, SHEET, sheet, max(0, len(module.history) - 1))
