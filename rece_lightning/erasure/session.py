"""An erasure of a base model in the making: prompts counted, epochs run, and what came of it. No trainer is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rece_lightning.core.embedding_map import AnyMap, beside
from rece_lightning.core.eraser import check_state
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.gram import Gram
from rece_lightning.core.method import Method
from rece_lightning.core.tuning import Tuning
from rece_lightning.data.batches import PromptBatch
from rece_lightning.data.concepts import PromptPair
from rece_lightning.distributed import rank_and_world, summed
from rece_lightning.erasure.encoding import ConceptEncoder, EncodedPair
from rece_lightning.erasure.erasers import SpaceErasers, stored_maps
from rece_lightning.erasure.erasure import Erasure, erased_spaces
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.same import check_same_base
from rece_lightning.erasure.state import FORMAT
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.erasure.tuned import TunedMethod
from rece_lightning.erasure.wide import names_in_factors
from rece_lightning.models.base import BaseModel
from rece_lightning.models.text import EncodesPrompts
from rece_lightning.models.text_space import TextSpace, untouched
from rece_lightning.version import __version__

NOTHING_YET = "Nothing was edited yet: fit the module, or load it from a checkpoint."


class ErasureSession:
    """Everything of an erasure but the trainer: :class:`RECE`, ``apply`` and incremental erasure are shells over it.

    Args:
        loaded: the base model.
        method: how to erase.
        attacker_scale: ridge of the attacker in the regeneration residual; ``1e-3 · tr(G)/d`` unless given.
        tuning: how settings of the method are chosen before its first epoch; it stands as it is unless given.
    """

    def __init__(
        self, loaded: LoadedModel, method: Method, attacker_scale: float | None = None, tuning: Tuning | None = None
    ) -> None:
        self.loaded, self.attacker_scale = loaded, attacker_scale
        self.tuned = TunedMethod(method, tuning)
        """The method as it was asked for, and what was chosen."""
        self.history: list[dict[str, float]] = []
        """Figures of every epoch so far."""
        self.concepts: dict[str, Any] = {}
        """What is erased and preserved, in plain types; see :meth:`ConceptData.summary`."""
        self._statistics: ConceptStatistics | None = None
        self._erasers: SpaceErasers | None = None
        self._restored: Mapping[str, Any] | None = None
        self._spaces: tuple[TextSpace, ...] | None = None

    # What it works on

    @property
    def method(self) -> Method:
        """How it erases: as it was given, or as it was chosen."""
        return self.tuned.method

    @property
    def base(self) -> BaseModel:
        """The base model, found and checked at first use."""
        return self.loaded.base

    @property
    def spaces(self) -> tuple[TextSpace, ...]:
        """The text spaces that are edited, each with the readers that are.

        Raises:
            ConfigurationError: for a space that the model has not, and where nothing is left to edit.
        """
        if self._spaces is None:
            self._spaces = self.tuned.spaces(self.base.spaces)
        return self._spaces

    @property
    def names(self) -> list[str]:
        """Parameter names of what is edited."""
        return [name for space in self.spaces for name in space.readers]

    @property
    def grams(self) -> dict[str, Gram]:
        """Text space → ``G`` of what is edited."""
        return self.loaded.grams(self.spaces, self.method)

    @property
    def gram(self) -> Gram:
        """``G`` of the first text space."""
        return self.grams[self.spaces[0].name]

    @property
    def encoder(self) -> EncodesPrompts:
        """Tokenizers and text encoders, loaded at first use."""
        return self.loaded.encoder

    @property
    def concept_encoder(self) -> ConceptEncoder:
        """Encodes prompts for the text spaces that are edited."""
        return ConceptEncoder(self.encoder, [space.name for space in self.spaces])

    # What the prompts say

    @property
    def statistics(self) -> ConceptStatistics:
        """What was counted so far. With several ranks each holds its share until the epochs begin."""
        if self._statistics is None:
            self._statistics = self.no_prompts(shared=rank_and_world()[1] > 1)
        return self._statistics

    def no_prompts(self, *, shared: bool = False) -> ConceptStatistics:
        """Empty statistics."""
        return ConceptStatistics(
            {space.name: space.width for space in self.spaces},
            self.method.tokens,
            self.loaded.algebra,
            keep_prompts=self.method.editor.per_layer,
            shared=shared and not self.method.editor.per_layer,  # every rank encodes all
            factors=names_in_factors(self.spaces, self.method),
        )

    def begin(self) -> None:
        """Forget every prompt and epoch."""
        self._statistics, self._erasers, self._restored, self.history = None, None, None, []
        self.tuned.begin()

    @property
    def has_begun(self) -> bool:
        """Whether epochs were run, here or in the checkpoint that was loaded."""
        return self._erasers is not None or self._restored is not None

    @property
    def was_loaded(self) -> bool:
        """Whether it was loaded from a checkpoint."""
        return self._restored is not None

    def count(self, batch: PromptBatch) -> dict[str, str]:
        """Encode a batch's prompts once and count them, where it is this rank's turn.

        Returns:
            Prompts that are longer than the tokenizer takes, with what was cut.
        """
        statistics, (rank, world) = self.statistics, rank_and_world()
        elsewhere = statistics.shared and batch.number % world != rank
        if not batch.prompts or batch.number in statistics.before or elsewhere:
            return {}
        encoder = self.concept_encoder
        self.loaded.stay()  # for the batches to come
        cut = self.encoder.too_long([*batch.prompts, *batch.targets])
        if batch.kind == "erased":
            pairs = [PromptPair(*one) for one in zip(batch.prompts, batch.targets, batch.weights, strict=True)]
            statistics.update(encoder.pairs(pairs), prompts=batch.prompts)
        elif batch.kind == "preserved":
            statistics.update(preserved=encoder.rows(batch.prompts))
        else:
            statistics.update(held_out=encoder.rows(batch.prompts))
        statistics.batches.append(batch.number)
        return cut

    def hold_invariants(self) -> None:
        """Encode the rows that no edit may move, where an editor asks for them and they are not there yet."""
        if self.method.needs_invariants and not self.statistics.holds:
            self.statistics.hold(self.concept_encoder.invariants())

    @property
    def pairs(self) -> dict[str, list[EncodedPair]]:
        """Erased prompts with their targets, encoded; encoded anew where a checkpoint holds their moments alone."""
        if self._statistics is not None and self._statistics.has_all_pairs and self._statistics.prompts:
            return self._statistics.pairs
        rows = self.concepts["erased"]
        return dict(
            self.concept_encoder.pairs_in_parts([PromptPair(r["prompt"], r["target"], r["weight"]) for r in rows])
        )

    @property
    def erased_prompts(self) -> list[str]:
        """What is erased, prompt by prompt."""
        return [row["prompt"] for row in self.concepts["erased"]]

    # The epochs

    @property
    def erasers(self) -> SpaceErasers:
        """The engine with its evidence: after epoch 0, or rebuilt from a checkpoint."""
        if self._erasers is None:
            self.hold_invariants()
            evidence = self.statistics.reduce(summed).evidence()
            if self._restored is None:
                self.tuned.choose(evidence, self.grams)
            state = None if self._restored is None else self._restored["erasers"]
            self._erasers = SpaceErasers(self.method, evidence, self.grams, state)
        return self._erasers

    def step(self) -> dict[str, float]:
        """One epoch in every text space, and its figures.

        Raises:
            ConfigurationError: if a system is singular.
        """
        erasers = self.erasers
        figures = erasers.measure(erasers.step(), self.attacker_scale)
        self.history.append(figures)
        return figures

    def run_again(self, statistics: ConceptStatistics | None = None) -> None:
        """Run the epochs so far anew on what was counted since, or on other statistics with their figures.

        Args:
            statistics: in place of its own; taken once all epochs were run.
        """
        logged = self.history
        self._run(self.statistics if statistics is None else statistics, len(logged))
        if statistics is None:
            self.history = logged

    def _run(self, statistics: ConceptStatistics, epochs: int, maps: Mapping[str, AnyMap] | None = None) -> None:
        """Run epochs from the first one on and take them when all were run; ``maps`` replace the last one's."""
        erasers, history = SpaceErasers(self.method, statistics.evidence(), self.grams), []
        for epoch in range(epochs):
            records = erasers.step()
            if maps is not None and epoch == epochs - 1:
                for name, eraser in erasers.spaces.items():
                    eraser.maps = maps[name]
            history.append(erasers.measure(records, self.attacker_scale))
        self._statistics, self._erasers, self._restored, self.history = statistics, erasers, None, history

    # What comes out

    @property
    def maps(self) -> dict[str, AnyMap]:
        """Text space → ``M`` after the epochs so far.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        if self._erasers is not None and self._erasers.epoch:
            return self._erasers.maps
        if self._restored is not None:
            return stored_maps(self._restored, self.loaded.algebra)
        raise ConfigurationError(NOTHING_YET)

    @property
    def first_maps(self) -> dict[str, AnyMap] | None:
        """Text space → ``M`` after epoch 0, UCE's edit; ``None`` before it."""
        if not self.history:
            return None
        return self.erasers.first_maps

    def erasure(self, maps: Mapping[str, AnyMap] | None = None) -> Erasure:
        """The result: what exports, certificates and the scan read; of ``maps``, as :attr:`first_maps`, where given.

        Raises:
            ConfigurationError: if nothing was edited yet.
        """
        spaces = erased_spaces(self.spaces, self.maps if maps is None else maps, self.grams)
        return Erasure(self.base, spaces, self.description())

    def attacked(self, maps: Mapping[str, AnyMap]) -> dict[str, tuple[Gram, AnyMap]]:
        """``G`` and ``M`` of all that an embedding meets, readers that no edit touches included; ``maps`` a space."""
        rest = untouched(self.base.spaces, self.spaces)
        return {
            name: beside(gram, maps[name], self.loaded.gram(rest[name], self.method))
            if name in rest
            else (gram, maps[name])
            for name, gram in self.grams.items()
        }

    def change(self) -> dict[str, float]:
        """Share of the denoiser's parameters that were edited, and ``‖ΔW‖/‖W‖`` over the edited ones."""
        edited = sum(reader.shape[0] * space.width for space in self.spaces for reader in space.readers.values())
        return {"parameters_edited_share": edited / self.base.parameters, "weight_change": self.erasure().change()}

    def description(self) -> dict[str, Any]:
        """Base, concepts, method and version: what a file of edited weights should say of itself."""
        return {
            "base": self.base.published,
            "fingerprint": self.loaded.fingerprint,
            "concepts": self.concepts,
            "method": self.method.plain(),
            "epochs": len(self.history),
            "version": __version__,
        }

    # Its state

    def state_dict(self) -> dict[str, Any]:
        """``rece`` of a checkpoint: plain types and tensors on the CPU."""
        return {
            "format": FORMAT,
            "erasers": self.erasers.state_dict(),
            "statistics": self.statistics.state_dict(),
            "history": self.history,
            **self.description(),
            **self.tuned.state_dict(),
        }

    def check_same(self, state: Mapping[str, Any], asked: Mapping[str, Any] | None, what: str = "ckpt_path") -> None:
        """Refuse the state of another method, base or list of concepts; what costs least is compared first.

        Args:
            state: ``rece`` of a checkpoint, which ``what`` names in messages.
            asked: what the data asks for; ``None`` where nobody knows.

        Raises:
            ConfigurationError: saying what differs.
            BaseModelError: for another base model.
        """
        self.tuned.check_same(state, asked, what)
        check_same_base(state, self.loaded.fingerprint, self.base.name)
        self._check_fits(state)

    def _check_fits(self, state: Mapping[str, Any], *, reuse_map: bool = True) -> None:
        """Refuse maps that do not fit this model; where they are made anew it may have more layers, or fewer.

        Raises:
            ConfigurationError: naming the widths.
        """
        for space in self.spaces:
            layers = len(space.readers) if reuse_map else None
            one, per_layer = state["erasers"].get(space.name), self.method.editor.per_layer
            check_state(one, space.width, per_layer=per_layer, layers=layers)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; the epochs run anew when they are needed."""
        self._check_fits(state)
        self.take_prompts(state)
        self.tuned.take(state)
        self._restored, self.history = state, list(state["history"])

    def take_prompts(self, state: Mapping[str, Any]) -> None:
        """Take what was asked for and counted from a checkpoint, or from another method's; no epoch was run with it."""
        self.begin()
        self.concepts, self._statistics = state["concepts"], self.no_prompts().take(state["statistics"])

    def adopt(self, state: Mapping[str, Any], *, reuse_map: bool) -> None:
        """Take the erasure of a checkpoint that was made from another model with the same text encoder.

        Args:
            state: ``rece`` of the checkpoint.
            reuse_map: take its maps; otherwise the epochs run anew on this model's weights.
        """
        self._check_fits(state, reuse_map=reuse_map)
        self.concepts = state["concepts"]
        maps = stored_maps(state, self.loaded.algebra) if reuse_map else None
        self._run(self.no_prompts().take(state["statistics"]), state["epochs"], maps)
