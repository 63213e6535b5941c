"""What the results are measured on: erasures, model states, prompts. All of it follows from the shipped files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Configuration, Settings, fitted, former, method_of, told
from rece_lightning.cli.protocols import load_protocol
from rece_lightning.core import tuning
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.grid import DERIVATIONS, EDITORS, EPOCHS, LAMB
from rece_lightning.core.tuning import BALANCED, RULES, Tuning
from rece_lightning.data.concepts import read_preserved
from rece_lightning.data.prompts import EvaluationPrompt, read_prompts
from rece_lightning.emoji.captions import describe
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.models.sampling import Sampling

SAMPLING = Sampling(steps=12, guidance_scale=4.0, batch_size=64)
SEEDS = tuple(range(5))
REFERENCE = 1000
"""Added to the seeds: the original's pictures that FID and KID compare with. Pictures of the same seeds are no
independent sets, and the unbiased KID between them is far below zero."""
OBJECTS = 12
KEPT = 8
"""Kept prompts an erasure."""
NOUNS = 12
"""Objects in whose context a background is erased."""
ERASED_BACKGROUNDS = ("red", "green", "blue")
ORIGINAL, UCE, PUBLISHED = "original", "UCE", "RECE, published settings"
UCE_RECOMMENDED, RECOMMENDED = "UCE, recommended scales", "RECE, recommended settings"
PROJECTION = "projection of values"
UCE_TUNED, RECE_TUNED, VALUES_TUNED = "UCE, tuned", "RECE, tuned", "RECE of values, tuned"
PROJECTION_TUNED = "projection of values, tuned"
NEAREST = "nearest point of values, κ 30"
ROBUST, ROBUST_SHIPPED = "robust, tuned", "robust, emoji_robust.yaml"
ONE_OF_VALUES = "nearest point, one direction of values, λ₁ 10"
ONE_OF_BOTH, THREE_OF_BOTH = (f"nearest point, {count} of keys and values" for count in ("one direction", "three"))
SHARED = (ONE_OF_VALUES, ONE_OF_BOTH, THREE_OF_BOTH)
"""Of styles alone: what all prompts of a style differ by has few directions."""
LOOKED_AT = "noto style"
"""The style whose pictures were looked at to choose these; the others judge them."""
TUNED = (UCE_TUNED, RECE_TUNED, VALUES_TUNED, PROJECTION_TUNED, ROBUST)
"""Those whose settings a rule chooses for each erasure."""
STATES = (
    ORIGINAL, UCE, PUBLISHED, UCE_RECOMMENDED, RECOMMENDED, UCE_TUNED, RECE_TUNED, VALUES_TUNED, PROJECTION,
    PROJECTION_TUNED, NEAREST, ROBUST, ROBUST_SHIPPED, *SHARED,
)  # fmt: skip
ERASED, SYNONYMS, HELD = "erased", "synonyms", "kept"
# What is erased → the recommended configuration, the one with the paper's settings, the protocol.
KINDS = {
    "objects": ("emoji.yaml", "objects.yaml", "emoji-objects"),
    "styles": ("emoji_style.yaml", "van_gogh.yaml", "emoji-styles"),
    "backgrounds": ("emoji.yaml", "objects.yaml", "emoji-backgrounds"),
}
OBLIQUE: Settings = {"editor": "Projection", "projections": "v", "editor.rank": 0.99, "editor.shrinkage": 3.0}
SCALES = (
    "editor.erase_scale", "editor.preserve_scale", "editor.lamb", "first_editor", "tokens", "projections", "layers",
)  # fmt: skip
"""Settings of UCE's edit; the others belong to RECE's epochs."""
Key = tuple[str, str, str, str]
"""Kind, erasure, state and group of prompts."""


@dataclass(frozen=True)
class State:
    """A model state."""

    name: str
    settings: Settings | None
    """``None``: the model is not edited."""
    epochs: int
    """0 where tuning chooses them too."""
    tune: str | None = None
    """How tuning chooses what ``settings`` leave at its default: ``model.tune``."""
    until: Configuration | None = None
    """Whose certificate ends the run."""

    @property
    def is_original(self) -> bool:
        """Whether the model is not edited."""
        return self.settings is None

    @property
    def chosen_by(self) -> dict[str, Any]:
        """Of a recipe: the rule with its grid, and the certificate that ends a run; nothing of a state without."""
        found = {} if self.tune is None else ruled(self.settings or {}, self.tune)
        if self.until is not None:
            found |= {"certificate": self.until.certificate, "until": self.until.threshold}
        return found

    def fit(self, data: Mapping[str, Any], pretrained: str = "emoji") -> ErasureSession:
        """The erasure as ``fit`` gives it.

        Args:
            data: arguments of ``ConceptData``.
            pretrained: the model.
        """
        until = self.until
        return fitted(
            self.settings or {}, self.epochs or None, data, until.stopping if until else (),
            certificate=until.certificate if until else None, pretrained=pretrained, tune=self.tune,
        )  # fmt: skip

    def told(self, session: ErasureSession | None) -> str:
        """What was run, for the table, in short.

        Args:
            session: of the run; ``None`` where nothing is edited.
        """
        if session is None or self.settings is None:
            return ""
        choice = session.tuned.choice
        chosen = {} if choice is None else choice["chosen"]["settings"]
        return told(former({**self.settings, **chosen}), len(session.history))


@dataclass(frozen=True)
class Erasure:
    """One thing that is erased alone, and the prompts that are looked at."""

    kind: str
    name: str
    data: dict[str, Any]
    """Arguments of ``ConceptData``: the same for every state."""
    groups: dict[str, tuple[EvaluationPrompt, ...]]
    """Erased, synonyms, kept."""


def states(kind: str) -> list[State]:
    """The states of an erasure of this kind.

    Concepts, targets, templates and preserve list are the same in all: the paper's own preserve list holds the empty
    prompt alone, which destroys a model of this width (see ``settings.md``).
    """
    recommended, published, _ = KINDS[kind]
    found: list[State] = [State(ORIGINAL, None, 0)]
    for uce, rece, source in ((UCE, PUBLISHED, published), (UCE_RECOMMENDED, RECOMMENDED, recommended)):
        configuration = Configuration.shipped(source)
        settings, epochs = configuration.settings, int(configuration.epochs or 1)
        alone = {key: value for key, value in settings.items() if key in SCALES}
        # Where both configurations have the same scales UCE is the same edit, and measured once.
        if all(state.settings != alone for state in found):
            found.append(State(uce, alone, 1))
        found.append(State(rece, settings, epochs))
    found += [State(PROJECTION, OBLIQUE, 1), *tuned()]
    nearest: Settings = {"editor": "ProjectedUCE", "editor.shrinkage": 30.0, "projections": "v"}
    return [*found, *(shared_directions() if kind == "styles" else [State(NEAREST, nearest, 1)])]


def ruled(settings: Settings, tune: str) -> dict[str, Any]:
    """Of a recipe: the rule that chooses, and the grid that it chooses from.

    Args:
        settings: that are given.
        tune: ``model.tune``.
    """
    editor = type(Tuning(tune).start(method_of(settings)).editor)
    tried = next(values for kind, values in EDITORS.items() if issubclass(editor, kind))
    return {"tune": tune, "rule": RULES[tune], "grid": [editor.__name__, tried, LAMB, str(DERIVATIONS), EPOCHS]}


def tuned() -> list[State]:
    """Settings that choose themselves, as ``model.tune`` does, and those that ``emoji_robust.yaml`` has."""
    values: Settings = {"projections": "v"}
    shipped = Configuration.shipped("emoji_robust.yaml")
    return [
        State(UCE_TUNED, {}, 1, BALANCED),
        State(RECE_TUNED, {}, 0, BALANCED),
        State(VALUES_TUNED, values, 0, BALANCED),
        State(PROJECTION_TUNED, {"editor": "Projection", **values}, 0, BALANCED),
        State(ROBUST, {}, 0, tuning.ROBUST),
        State(ROBUST_SHIPPED, shipped.settings, int(shipped.epochs or 1), until=shipped),
    ]


def shared_directions() -> list[State]:
    """A style's prompts share their difference to the targets: its leading directions are taken out of reach."""
    given: tuple[Settings, ...] = (
        {"editor.preserve_scale": 10.0, "editor.rank": 1, "projections": "v"},
        {"editor.rank": 1},
        {"editor.rank": 3},
    )
    return [State(name, {"editor": "ProjectedUCE", **own}, 1) for name, own in zip(SHARED, given, strict=True)]


def work(chosen: Sequence[Erasure]) -> list[tuple[Erasure, State]]:
    """Erasures and states in the order in which they are measured: floors, then what chooses itself, then the others.

    A run that is stopped early holds whole comparisons.
    """
    order = (
        ORIGINAL, RECE_TUNED, UCE_TUNED, VALUES_TUNED, *SHARED, NEAREST, UCE, PUBLISHED,
        PROJECTION, PROJECTION_TUNED, ROBUST,
    )  # fmt: skip
    pairs = [(erasure, state) for erasure in chosen for state in states(erasure.kind)]
    places = {name: place for place, name in enumerate(order)}
    return sorted(pairs, key=lambda pair: places.get(pair[1].name, len(order)))


def erasures() -> list[Erasure]:
    """Twelve objects, four styles, three backgrounds, one at a time.

    Raises:
        ConfigurationError: if a kept prompt is one that the edits preserve.
    """
    found = [*objects(), *styles(), *backgrounds()]
    for erasure in found:
        listed = {prompt.strip().lower() for prompt in erasure.data["preserve"]}
        held = [row.prompt for row in erasure.groups[HELD] if row.prompt.strip().lower() in listed]
        if held:
            raise ConfigurationError(
                f"data.preserve: {held[0]!r} is also measured as kept; take it out of {KINDS[erasure.kind][0]}."
            )
    return found


def protocol_rows(kind: str) -> list[EvaluationPrompt]:
    """The prompts of a kind's protocol."""
    return read_prompts("data.validation", load_protocol(KINDS[kind][2]).prompts)


def shared(kind: str) -> dict[str, Any]:
    """What every erasure of a kind takes from the recommended configuration."""
    data = Configuration.shipped(KINDS[kind][0]).data
    found = {key: data[key] for key in ("target", "templates") if key in data}
    return {**found, "preserve": read_preserved(data["preserve"])}


def objects() -> list[Erasure]:
    """By name and by synonym: the protocol's first twelve concepts. Kept: eight of its other twenty, in turn."""
    rows = protocol_rows("objects")
    names = list(dict.fromkeys(row.concept for row in rows))[:OBJECTS]
    held = [row for row in rows if row.concept not in names]
    found = []
    for place, name in enumerate(names):
        own = [row for row in rows if row.concept == name]
        groups = {
            ERASED: tuple(row for row in own if row.prompt == name),
            SYNONYMS: tuple(row for row in own if row.prompt != name),
            HELD: tuple(held[(KEPT * place + k) % len(held)] for k in range(KEPT)),
        }
        found.append(Erasure("objects", name, {**shared("objects"), "concepts": [name]}, groups))
    return found


def styles() -> list[Erasure]:
    """In context, as the configuration erases its own style; kept: the protocol's objects in the other styles."""
    data = Configuration.shipped(KINDS["styles"][0]).data
    names = list(load_catalog().styles)
    own = next(name for name in names if f"{name} style" in str(data["concepts"]))
    rows = protocol_rows("styles")
    found = []
    for place, name in enumerate(names):

        def renamed(text: str, name: str = name) -> str:
            """The configuration's text with both styles in each other's place."""
            return " ".join({own: name, name: own}.get(word, word) for word in text.split(" "))

        given = shared("styles")
        given["preserve"] = [renamed(prompt) for prompt in given["preserve"]]
        listed = [one if isinstance(one, dict) else {"prompt": one} for one in data["concepts"]]
        given["concepts"] = [
            {key: renamed(value) if isinstance(value, str) else value for key, value in one.items()} for one in listed
        ]
        found.append(Erasure("styles", f"{name} style", given, in_context(rows, f"{name} style", place)))
    return found


def backgrounds() -> list[Erasure]:
    """In the context of the first preserved objects that the protocol does not show; these keep the others."""
    rows = protocol_rows("backgrounds")
    given = shared("backgrounds")
    shown = {row.prompt.split()[1] for row in rows}
    nouns = [noun for noun in given["preserve"] if noun.strip() and noun not in shown][:NOUNS]
    found = []
    for place, name in enumerate(ERASED_BACKGROUNDS):
        others = [other for other in load_catalog().backgrounds if other != name]
        context = [describe(noun, None, other) for noun in nouns for other in others]
        concepts = [{"prompt": describe(noun, None, name), "target": noun} for noun in nouns]
        data = {**given, "preserve": [*given["preserve"], *context], "concepts": concepts}
        found.append(Erasure("backgrounds", f"{name} background", data, in_context(rows, f"{name} background", place)))
    return found


def in_context(rows: Sequence[EvaluationPrompt], concept: str, turn: int) -> dict[str, tuple[EvaluationPrompt, ...]]:
    """All rows of a concept; of the others eight, over concepts and objects in turn."""
    others: dict[str, list[EvaluationPrompt]] = {}
    for row in rows:
        if row.concept != concept:
            others.setdefault(row.concept, []).append(row)
    lists = list(others.values())
    held = [lists[(k + turn) % len(lists)][k % len(lists[0])] for k in range(KEPT)]
    return {ERASED: tuple(row for row in rows if row.concept == concept), SYNONYMS: (), HELD: tuple(held)}
